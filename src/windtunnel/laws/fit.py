"""Fits of the loss law: the lowest of many starts. Whether another optimiser comes to the same is
asked in `witness.py`.

Starts come from variable projection (Golub and Pereyra 1973): on a grid of exponents the linear
part is solved by non-negative least squares; for c other than 1 after L is straightened to
(L - E)^(1/c). Then Levenberg-Marquardt on all starts at once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.loss import FORMS, Array, Frame, LossLaw, log_slopes, slopes, surface
from windtunnel.laws.non_negative import non_negative

# Of the starts: from nearly flat to steeper than any law that was measured.
_EXPONENTS = np.geomspace(0.03, 1.5, 9)
_POWERS = (0.08, 0.2, 0.5, 1.0)  # c of the starts
_FLOORS = (0.0, 0.45, 0.85)  # E of the starts, of the lowest loss
_STARTS = 48  # the best of the grid, and others by turns
_FEWER = 18  # the same where many fits are wanted
_KEPT = 6  # starts that are polished
_ENOUGH = 300  # points on which starts are sorted out, of a table that has more
# Starts times points that climb together: the derivatives of more do not stay in a core's cache.
_AT_ONCE = 16_384
_FINALISTS = 2  # starts that are polished on all of them
# Bounds of the coordinates (E, p, a, q, b, g, log c).
# At c = 0.02 the sum of the two terms is all but their maximum, at 10 all but a product.
LOWEST = np.array([0.0, -60.0, 0.0, -60.0, 0.0, 0.0, np.log(0.02)])
HIGHEST = np.array([np.inf, 60.0, 4.0, 60.0, 4.0, 2.0, np.log(10.0)])
# A start has arrived after two gains in a row that were next to nothing, and stands still where so
# much damping does not help it.
_SMALL, _STILL = 2, 1e9
# A small delta leaves many valleys, which squares have not.
_ANNEALED = (1e-1, 1e-2)  # deltas on the way to a smaller one


@dataclass(frozen=True, kw_only=True)
class _Effort:
    """How far Levenberg-Marquardt goes."""

    steps: tuple[int, int, int]  # at most: from all starts, of each stage between, of the last
    gain: float  # share of what is minimised that is next to nothing


_THOROUGH = _Effort(steps=(80, 150, 1000), gain=1e-13)
_QUICK = _Effort(steps=(30, 30, 80), gain=1e-9)  # where many fits are wanted


@dataclass(frozen=True)
class Objective:
    """What is minimised: the sum over points of weight times half the square of a residual, or of
    Huber's loss, which is linear beyond `delta`. Residuals are of the loss in nats, or of its
    natural logarithm.
    """

    residual: Literal["log", "nats"] = "log"
    delta: float = np.inf

    def residuals(self, model: Array, loss: Array) -> Array:
        """(..., n): the model's losses less the measured ones, or log of the former over the
        latter.
        """
        return np.log(model) - np.log(loss) if self.residual == "log" else model - loss

    def slopes(self, coordinates: Array, data: "LossData") -> tuple[Array, Array]:
        """Losses (..., n), and the derivatives (..., n, 7) of the residuals by the coordinates."""
        of = log_slopes if self.residual == "log" else slopes
        return of(coordinates, data.x, data.y)

    def cost(self, residuals: Array, weights: Array) -> Array:
        """(...,) from residuals (..., n)."""
        size = np.abs(residuals)
        each = 0.5 * np.minimum(size, self.delta) ** 2
        if math.isfinite(self.delta):
            each = each + self.delta * np.maximum(size - self.delta, 0)
        return (weights * each).sum(-1)

    def influence(self, residuals: Array) -> Array:
        """Huber's weight: 1 within delta, falling as 1/r beyond."""
        if not math.isfinite(self.delta):
            return np.ones_like(residuals)
        return self.delta / np.maximum(np.abs(residuals), self.delta)


SQUARES = Objective("nats")


@dataclass(frozen=True, kw_only=True)
class LossData:
    """Points in centred logarithms; losses or weights (..., n) where many tables share their
    sizes and lengths. A table without some of the points gives them a weight of 0.
    """

    x: Array  # (n,)
    y: Array  # (n,)
    loss: Array  # (..., n), nats/token
    weights: Array  # (..., n)
    frame: Frame

    @classmethod
    def of(
        cls, params: ArrayLike, tokens: ArrayLike, loss: ArrayLike, weights: ArrayLike | None = None
    ) -> "LossData":
        """Weights one a point (default: 1). Raises ValueError for what is no positive number."""
        n, d, losses = (np.asarray(values, float) for values in (params, tokens, loss))
        given = np.ones_like(losses) if weights is None else np.asarray(weights, float)
        for name, values in (("params", n), ("tokens", d), ("loss", losses)):
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"{name}: expected positive numbers")
        frame = Frame.of(n, d)
        x, y = frame.logs(n, d)
        return cls(x=x, y=y, loss=losses, weights=given, frame=frame)

    def select(self, kept: NDArray[np.bool_]) -> "LossData":
        """Some of the points (n,) of one table, or of each of many, in the same frame."""
        return replace(
            self,
            x=self.x[kept],
            y=self.y[kept],
            loss=self.loss[..., kept],
            weights=self.weights[..., kept],
        )

    @property
    def thinned(self) -> "LossData":
        """Some hundred of the points, drawn at random: enough to say where a fit lies, if not
        exactly. All, where there are no more.
        """
        points = len(self.x)
        if points <= _ENOUGH:
            return self
        kept = np.zeros(points, np.bool_)
        kept[np.random.default_rng(0).choice(points, _ENOUGH, replace=False)] = True
        return self.select(kept)

    def cost(self, coordinates: Array, objective: Objective) -> Array:
        """The objective (...,) at coordinates (..., 7)."""
        residuals = objective.residuals(surface(coordinates, self.x, self.y), self.loss)
        return objective.cost(residuals, self.weights)


@dataclass(frozen=True, kw_only=True)
class LossFit:
    """A law, and what it was fitted to."""

    form: str
    data: LossData
    minimised: Objective
    coordinates: Array  # (7,)

    @property
    def frame(self) -> Frame:
        """Where the coordinates are counted from."""
        return self.data.frame

    @property
    def law(self) -> LossLaw:
        """The law."""
        return self.frame.law(self.coordinates)

    @property
    def objective(self) -> float:
        """The sum, at the optimum."""
        return float(self.data.cost(self.coordinates, self.minimised))


def fit_loss(form: str, data: LossData, objective: Objective = SQUARES) -> LossFit:
    """The law of this form (one of `FORMS`) that minimises the objective. Raises ValueError for an
    unknown form, and where there are fewer points than the form has parameters.
    """
    return fit_each([form], data, objective)[0]


def fit_each(forms: Sequence[str], data: LossData, objective: Objective) -> list[LossFit]:
    """`fit_loss` of several forms, which climb together: of few points, most of a step's time does
    not depend on how many laws take it.
    """
    starts = np.stack([starts_of(form, data) for form in forms])
    found = _marquardt(starts, data, _free(forms)[:, None], objective, _THOROUGH)
    fits = []
    for form, coordinates in zip(forms, found, strict=True):
        fits.append(LossFit(form=form, data=data, minimised=objective, coordinates=coordinates))
    return fits


def optima(forms: Sequence[str], data: LossData, objective: Objective) -> Array:
    """The coordinates (forms, ..., 7) of the best fit of each form to each table, to fewer digits
    than a `LossFit`: for the many fits of a score. `data` is one table, or many that differ in
    their weights (..., n). Raises ValueError as `fit_loss` does.
    """
    tables = data.weights.reshape(-1, data.weights.shape[-1])
    for form in forms:
        _require(form, int((tables > 0).sum(1).min()))
    # From one set of starts for all tables: where a search begins decides nothing.
    mean = replace(data, weights=tables.mean(0))
    starts = np.stack([starts_of(form, mean)[:_FEWER] for form in forms])
    free = _free(forms)[:, None, None]
    together = np.broadcast_to(starts[:, None], (len(forms), len(tables), *starts.shape[1:]))
    found = _marquardt(together, replace(data, weights=tables), free, objective, _QUICK)
    return found.reshape(len(forms), *data.weights.shape[:-1], found.shape[-1])


def _free(forms: Sequence[str]) -> NDArray[np.bool_]:
    """(forms, 7): which coordinates each form leaves free."""
    return np.stack([FORMS[form].free for form in forms])


def refine(
    starts: Array,
    data: LossData,
    free: NDArray[np.bool_],
    objective: Objective,
    steps: int,
    gain: float = _THOROUGH.gain,
) -> Array:
    """Levenberg-Marquardt within bounds from many starts (..., 7) at once, each for its own
    losses where data.loss is (..., n); coordinates that are not `free`, (7,) or (..., 7), stay.
    Huber's loss by reweighting. `gain`: share of what is minimised below which two gains in a row
    end it.
    """
    before = starts.shape[:-1]
    losses, weights = (
        np.broadcast_to(values, (*before, len(data.x))).reshape(-1, len(data.x))
        for values in (data.loss, data.weights)
    )
    found: Array = np.clip(starts, LOWEST, HIGHEST).reshape(-1, starts.shape[-1])
    moving = np.broadcast_to(free, starts.shape).reshape(found.shape)
    many = max(1, _AT_ONCE // len(data.x))
    for first in range(0, len(found), many):
        some = slice(first, first + many)
        tables = replace(data, loss=losses[some], weights=weights[some])
        climb = _Climb.begin(found[some], tables, moving[some], objective)
        found[some] = _climbed(climb, steps, gain)
    return found.reshape(starts.shape)


def _climbed(climb: "_Climb", steps: int, gain: float) -> Array:
    """Where a climb from its starts ends: (starts, 7)."""
    found = climb.at.copy()
    for _ in range(steps):
        climb.step(gain)
        done = climb.done
        if done.any():
            # Who has arrived leaves, so that stragglers do not hold the others up.
            found[climb.row[done]] = climb.at[done]
            climb = climb.select(~done)
            if not len(climb.row):
                break
    found[climb.row] = climb.at
    return found


@dataclass(kw_only=True)
class _Climb:
    """Levenberg-Marquardt under way, from several starts."""

    row: NDArray[np.int64]  # (starts,): which of all starts each is
    data: LossData  # losses and weights (starts, n)
    free: NDArray[np.bool_]  # (starts, 7)
    objective: Objective
    at: Array  # (starts, 7)
    damping: Array  # (starts,)
    residuals: Array  # (starts, n)
    pull: Array  # (starts, n, 7): derivatives of the residuals
    cost: Array  # (starts,)
    small: NDArray[np.int64]  # (starts,): gains in a row that were next to nothing

    @classmethod
    def begin(
        cls, at: Array, data: LossData, free: NDArray[np.bool_], objective: Objective
    ) -> "_Climb":
        """At the starts."""
        model, pull = objective.slopes(at, data)
        residuals = objective.residuals(model, data.loss)
        return cls(
            row=np.arange(len(at)),
            data=data,
            free=free,
            objective=objective,
            at=at,
            damping=np.full(len(at), 1e-3),
            residuals=residuals,
            pull=pull,
            cost=objective.cost(residuals, data.weights),
            small=np.zeros(len(at), np.int64),
        )

    @property
    def done(self) -> NDArray[np.bool_]:
        """(starts,): arrived, or damped to a standstill."""
        return (self.small >= _SMALL) | (self.damping > _STILL)

    def step(self, gain: float) -> None:
        """One step from each start."""
        data, objective = self.data, self.objective
        weighted = self.pull * (data.weights * objective.influence(self.residuals))[..., None]
        gradient = (self.residuals[:, None] @ weighted)[:, 0]
        curvature = np.swapaxes(weighted, -1, -2) @ self.pull
        # What wants to leave its bounds is held, or it would hold the others up.
        outwards = (self.at <= LOWEST) & (gradient > 0)
        outwards |= (self.at >= HIGHEST) & (gradient < 0)
        step = _damped_step(gradient, curvature, self.damping, held=~self.free | outwards)
        tried = np.clip(self.at + step, LOWEST, HIGHEST)
        model, pull = objective.slopes(tried, data)
        residuals = objective.residuals(model, data.loss)
        cost = objective.cost(residuals, data.weights)
        # Marquardt: after a gain more like Gauss and Newton, else more like steepest descent.
        better = cost < self.cost
        self.damping = np.clip(self.damping * np.where(better, 0.2, 6.0), 1e-12, 1e12)
        self.small = np.where(better & (self.cost - cost <= gain * cost), self.small + 1, 0)
        self.at = np.where(better[:, None], tried, self.at)
        self.residuals = np.where(better[:, None], residuals, self.residuals)
        self.pull = np.where(better[:, None, None], pull, self.pull)
        self.cost = np.where(better, cost, self.cost)

    def select(self, kept: NDArray[np.bool_]) -> "_Climb":
        """Some of the starts."""
        data = replace(self.data, loss=self.data.loss[kept], weights=self.data.weights[kept])
        return _Climb(
            row=self.row[kept],
            data=data,
            free=self.free[kept],
            objective=self.objective,
            at=self.at[kept],
            damping=self.damping[kept],
            residuals=self.residuals[kept],
            pull=self.pull[kept],
            cost=self.cost[kept],
            small=self.small[kept],
        )


def _damped_step(
    gradient: Array, curvature: Array, damping: Array, held: NDArray[np.bool_]
) -> Array:
    """The step (..., 7) of Levenberg and Marquardt, 0 where a coordinate is held: from the gradient
    (..., 7), the Gauss-Newton curvature (..., 7, 7) and the damping (...,).
    """
    normal = np.where(held[..., None] | held[..., None, :], 0.0, curvature)
    diagonal = np.einsum("...ii->...i", normal)  # a view, to write to
    # A coordinate without any curvature must not be thrown to its bound.
    least = 1e-12 * diagonal.max(-1, keepdims=True)
    scale = np.where(held, 1.0, damping[..., None] * np.maximum(diagonal, least))
    diagonal += np.maximum(scale, 1e-300)
    found = np.linalg.solve(normal, np.where(held, 0.0, -gradient)[..., None])
    return np.asarray(found[..., 0], np.float64)


def stages_of(objective: Objective) -> list[Objective]:
    """Squares, then Huber's loss with larger deltas, then the objective itself: each starts where
    the last ended.
    """
    larger = [delta for delta in (np.inf, *_ANNEALED) if delta > 3 * objective.delta]
    return [replace(objective, delta=delta) for delta in (*larger, objective.delta)]


def _marquardt(
    starts: Array,
    data: LossData,
    free: NDArray[np.bool_],
    objective: Objective,
    effort: _Effort,
) -> Array:
    """The best coordinates (..., 7) that Levenberg-Marquardt finds for each table, from starts
    (..., starts, 7). `free`: (..., 1, 7).
    """
    stages = stages_of(objective)
    first, between, last = effort.steps
    # An axis for the starts, which share the weights of their table.
    whole = replace(data, weights=data.weights[..., None, :])
    some = whole.thinned
    at = refine(starts, some, free, stages[0], first, effort.gain)
    at = _cheapest(at, some.cost(at, stages[0]), _KEPT)
    for stage in stages:
        steps = last if stage == objective else between
        at = refine(at, some, free, stage, steps, effort.gain)
    if some is not whole:
        at = _cheapest(at, some.cost(at, objective), _FINALISTS)
        at = refine(at, whole, free, objective, last, effort.gain)
    return _cheapest(at, whole.cost(at, objective), 1)[..., 0, :]


def _cheapest(coordinates: Array, costs: Array, count: int) -> Array:
    """The first few (..., count, 7) of coordinates (..., starts, 7) by costs (..., starts)."""
    first = np.argsort(costs, kind="stable")[..., :count, None]
    return np.take_along_axis(coordinates, first, axis=-2)


def starts_of(form: str, data: LossData) -> Array:
    """The best points of variable projection for one table: coordinates (starts, 7). Raises
    ValueError.
    """
    free = FORMS[form].free
    _require(form, len(data.loss))
    data = data.thinned
    misfits, coordinates = [], []
    for c, floor in _powers_and_floors(free, float(data.loss.min())):
        misfit, found = _projected(data, c, floor, floor_free=bool(free[0] and not free[6]))
        misfits.append(misfit)
        coordinates.append(found)
    best = np.concatenate(coordinates)[np.argsort(np.concatenate(misfits), kind="stable")]
    # By turns with worse ones, so that no single region of the grid gives all of the starts.
    others = best[len(best) // 9 :: 6]
    each = min(_STARTS // 2, len(others))
    both = np.stack([best[:each], others[:each]], axis=1).reshape(-1, 7)
    # forms with a smaller grid begin twice at the same places
    return both[np.arange(_STARTS) % len(both)]


def _require(form: str, points: int) -> None:
    """Raises ValueError where so few points can't tell a law of this form."""
    free = int(FORMS[form].free.sum())
    if points < free:
        raise ValueError(f"{points} points can't tell the {free} parameters of the {form} law")


def _powers_and_floors(free: NDArray[np.bool_], lowest: float) -> Iterator[tuple[float, float]]:
    """c and E of the starts. With c held the floor is a linear part of the problem, or 0."""
    for c in _POWERS if free[6] else (1.0,):
        for share in _FLOORS if free[6] and free[0] else (0.0,):
            yield c, share * lowest


def _projected(data: LossData, c: float, floor: float, *, floor_free: bool) -> tuple[Array, Array]:
    """For exponents on a grid the best A and B, and the best floor where it is free: misfits
    (grid,) and coordinates (grid, 7).
    """
    straight = (data.loss - floor) ** (1 / c)
    # so that a misfit of the straightened loss counts as one of the loss
    scale = np.sqrt(data.weights) * c * (data.loss - floor) ** (1 - 1 / c)
    a, b = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _EXPONENTS, indexing="ij"))
    columns = [
        np.exp(-a[:, None] / c * data.x) * scale,
        np.exp(-b[:, None] / c * data.y) * scale,
    ]
    if floor_free:
        columns.append(np.broadcast_to(scale, columns[0].shape))
    linear, misfits = non_negative(np.stack(columns, axis=-1), straight * scale)
    p, q = (c * np.log(np.maximum(linear[:, i], 1e-12)) for i in range(2))
    floors = linear[:, 2] if floor_free else np.full_like(a, floor)
    log_c = np.full_like(a, np.log(c))
    return misfits, np.stack([floors, p, a, q, b, np.zeros_like(a), log_c], axis=-1)
