"""Fits of the loss law that prove themselves: two optimisers, from the same starts, must agree,
or the fit says that it did not converge.

Starts come from variable projection (Golub and Pereyra 1973): on a grid of exponents the linear
part is solved by non-negative least squares; for c other than 1 after L is straightened to
(L - E)^(1/c). Then Levenberg-Marquardt on all starts at once, and L-BFGS.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, curve_fit, minimize

from windtunnel.laws.loss import FORMS, Array, Frame, LossLaw, log_slopes, slopes, surface

AGREE = 1e-8  # in the objective: what two optimisers may differ by
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
_WITNESSES = 3  # starts of the second optimiser
# Bounds of the coordinates (E, p, a, q, b, g, log c).
# At c = 0.02 the sum of the two terms is all but their maximum, at 10 all but a product.
_LOWEST = np.array([0.0, -60.0, 0.0, -60.0, 0.0, 0.0, np.log(0.02)])
_HIGHEST = np.array([np.inf, 60.0, 4.0, 60.0, 4.0, 2.0, np.log(10.0)])
# A start has arrived after two gains in a row that were next to nothing, and stands still where so
# much damping does not help it.
_SMALL, _STILL = 2, 1e9
# No ftol: only a gradient of nothing ends it, since two optimisers must agree to AGREE.
_PATIENT = {"maxiter": 2000, "maxfun": 4000, "ftol": 0, "gtol": 1e-13, "maxcor": 30}
# On the way to it: near enough for the next stage to begin.
_HASTY = {"maxiter": 200, "ftol": 1e-9, "maxcor": 30}
# A small delta leaves many valleys, which squares have not.
_ANNEALED = (1e-1, 1e-2)  # deltas on the way to a smaller one


@dataclass(frozen=True, kw_only=True)
class _Effort:
    """How far Levenberg-Marquardt goes."""

    steps: tuple[int, int, int]  # at most: from all starts, of each stage between, of the last
    gain: float  # share of what is minimised that is next to nothing


_THOROUGH = _Effort(steps=(40, 60, 300), gain=1e-13)
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
    """A law and the proof of its optimum."""

    form: str
    objective: float  # the sum, at the optimum
    disagreement: float  # between the objectives of two optimisers
    frame: Frame
    coordinates: Array  # (7,)

    @property
    def law(self) -> LossLaw:
        """The law."""
        return self.frame.law(self.coordinates)

    @property
    def converged(self) -> bool:
        """Whether the two optimisers agree."""
        return self.disagreement <= AGREE


def fit_loss(form: str, data: LossData, objective: Objective = SQUARES) -> LossFit:
    """The law of this form (one of `FORMS`) that minimises the objective. Raises ValueError for an
    unknown form, and where there are fewer points than the form has parameters.
    """
    starts = _starts(form, data)
    free = FORMS[form].free
    first = _marquardt(starts, data, free, objective, _THOROUGH)
    second = _bfgs(starts, data, free, objective)
    costs = [float(data.cost(found, objective)) for found in (first, second)]
    coordinates = first if costs[0] <= costs[1] else second
    return LossFit(
        form=form,
        objective=min(costs),
        disagreement=abs(costs[0] - costs[1]),
        frame=data.frame,
        coordinates=coordinates,
    )


def optimum(form: str, data: LossData, objective: Objective) -> Array:
    """The coordinates (..., 7) of the best fit to each table, without its certificate: for the
    many fits of a score. `data` is one table, or many that differ in their weights (..., n).
    Raises ValueError as `fit_loss` does.
    """
    tables = data.weights.reshape(-1, data.weights.shape[-1])
    _require(form, int((tables > 0).sum(1).min()))
    # From one set of starts for all tables: where a search begins decides nothing.
    starts = _starts(form, replace(data, weights=tables.mean(0)))[:_FEWER]
    together = np.broadcast_to(starts, (*data.weights.shape[:-1], *starts.shape))
    return _marquardt(together, data, FORMS[form].free, objective, _QUICK)


def fit_as_the_paper(
    params: ArrayLike, tokens: ArrayLike, loss: ArrayLike
) -> tuple[LossLaw, Array]:
    """The additive law by scipy's `curve_fit` from one start, as the paper fits it (section 4.5),
    for comparison; with its own standard errors of (E, A, alpha, B, beta), which take every point
    as independent. N and D are in units of their geometric means on the way. Raises ValueError
    where it does not converge, and where it comes to what is no law.
    """
    n, d = np.asarray(params, float), np.asarray(tokens, float)
    n0, d0 = float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean()))

    def additive(at: Any, E: float, A: float, alpha: float, B: float, beta: float) -> Any:
        return E + A * at[0] ** -alpha + B * at[1] ** -beta

    start = [float(np.min(loss)) / 2, 1.0, 0.3, 1.0, 0.3]
    try:
        found, covariance = curve_fit(
            additive, np.array([n / n0, d / d0]), loss, start, maxfev=20_000
        )
    except RuntimeError:
        raise ValueError("curve_fit did not converge from its one start") from None
    E, A, alpha, B, beta = map(float, found)
    if A < 0 or B < 0:
        raise ValueError(f"curve_fit came to a law with a term below 0 (A = {A:.3g}, B = {B:.3g})")
    # Derivatives of A n0^alpha and B d0^beta, which take the errors to the units of the law.
    units = np.eye(5)
    with np.errstate(over="ignore", invalid="ignore"):
        to_A, to_B = np.exp(alpha * np.log(n0)), np.exp(beta * np.log(d0))
        units[1, 1:3] = to_A, A * to_A * np.log(n0)
        units[3, 3:5] = to_B, B * to_B * np.log(d0)
        errors = np.sqrt(np.diag(units @ covariance @ units.T))
    if not np.isfinite(errors).all():
        raise ValueError("curve_fit came to numbers without finite standard errors")
    return LossLaw.of(E=E, A=A * to_A, alpha=alpha, B=B * to_B, beta=beta), errors


def refine(
    starts: Array,
    data: LossData,
    free: NDArray[np.bool_],
    objective: Objective,
    steps: int,
    gain: float = _THOROUGH.gain,
) -> Array:
    """Levenberg-Marquardt within bounds from many starts (..., 7) at once, each for its own
    losses where data.loss is (..., n); coordinates that are not `free` stay. Huber's loss by
    reweighting. `gain`: share of what is minimised below which two gains in a row end it.
    """
    before = starts.shape[:-1]
    losses, weights = (
        np.broadcast_to(values, (*before, len(data.x))).reshape(-1, len(data.x))
        for values in (data.loss, data.weights)
    )
    found: Array = np.clip(starts, _LOWEST, _HIGHEST).reshape(-1, starts.shape[-1])
    many = max(1, _AT_ONCE // len(data.x))
    for first in range(0, len(found), many):
        some = slice(first, first + many)
        tables = replace(data, loss=losses[some], weights=weights[some])
        found[some] = _climbed(_Climb.begin(found[some], tables, objective), free, steps, gain)
    return found.reshape(starts.shape)


def _climbed(climb: "_Climb", free: NDArray[np.bool_], steps: int, gain: float) -> Array:
    """Where a climb from its starts ends: (starts, 7)."""
    found = climb.at.copy()
    for _ in range(steps):
        climb.step(free, gain)
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
    objective: Objective
    at: Array  # (starts, 7)
    damping: Array  # (starts,)
    residuals: Array  # (starts, n)
    pull: Array  # (starts, n, 7): derivatives of the residuals
    cost: Array  # (starts,)
    small: NDArray[np.int64]  # (starts,): gains in a row that were next to nothing

    @classmethod
    def begin(cls, at: Array, data: LossData, objective: Objective) -> "_Climb":
        """At the starts."""
        model, pull = objective.slopes(at, data)
        residuals = objective.residuals(model, data.loss)
        return cls(
            row=np.arange(len(at)),
            data=data,
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

    def step(self, free: NDArray[np.bool_], gain: float) -> None:
        """One step from each start."""
        data, objective = self.data, self.objective
        weighted = self.pull * (data.weights * objective.influence(self.residuals))[..., None]
        gradient = (self.residuals[:, None] @ weighted)[:, 0]
        curvature = np.swapaxes(weighted, -1, -2) @ self.pull
        # What wants to leave its bounds is held, or it would hold the others up.
        outwards = (self.at <= _LOWEST) & (gradient > 0)
        outwards |= (self.at >= _HIGHEST) & (gradient < 0)
        step = _damped_step(gradient, curvature, self.damping, held=~free | outwards)
        tried = np.clip(self.at + step, _LOWEST, _HIGHEST)
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


def _deltas(objective: Objective) -> list[Objective]:
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
    (..., starts, 7).
    """
    stages = _deltas(objective)
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


def _bfgs(starts: Array, data: LossData, free: NDArray[np.bool_], objective: Objective) -> Array:
    """The best coordinates (7,) that L-BFGS finds from the first few starts."""
    some = data.thinned
    *before, last = _deltas(objective)
    hasty = [(stage, _HASTY) for stage in before]
    # A restart forgets a curvature that no longer holds.
    patient = [(last, _PATIENT), (last, _PATIENT)]
    found = []
    for start in np.clip(starts[:_WITNESSES], _LOWEST, _HIGHEST):
        found.append(_descend(start, some, free, [*hasty, *patient]))
    best = min(found, key=lambda at: float(some.cost(at, objective)))
    return best if some is data else _descend(best, data, free, patient)


def _descend(
    start: Array,
    data: LossData,
    free: NDArray[np.bool_],
    stages: Sequence[tuple[Objective, Mapping[str, float]]],
) -> Array:
    """Where L-BFGS comes to from one start, by stage after stage with its options: coordinates
    (7,).
    """
    moved, at = np.flatnonzero(free), start.copy()
    bounds = Bounds(_LOWEST[moved], _HIGHEST[moved])  # type: ignore[arg-type]

    def cost(part: Array, objective: Objective) -> tuple[float, Array]:
        at[moved] = part
        model, pull = objective.slopes(at, data)
        residuals = objective.residuals(model, data.loss)
        weighted = data.weights * objective.influence(residuals) * residuals
        return float(objective.cost(residuals, data.weights)), (weighted @ pull)[moved]

    for objective, options in stages:
        result = minimize(
            cost,
            at[moved],
            (objective,),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=dict(options),
        )
        at[moved] = result.x
    return at


def _starts(form: str, data: LossData) -> Array:
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
    return np.stack([best[:each], others[:each]], axis=1).reshape(-1, 7)


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
    linear, misfits = _non_negative(np.stack(columns, axis=-1), straight * scale)
    p, q = (c * np.log(np.maximum(linear[:, i], 1e-12)) for i in range(2))
    floors = linear[:, 2] if floor_free else np.full_like(a, floor)
    log_c = np.full_like(a, np.log(c))
    return misfits, np.stack([floors, p, a, q, b, np.zeros_like(a), log_c], axis=-1)


def _non_negative(design: Array, wanted: Array) -> tuple[Array, Array]:
    """Non-negative least squares for many designs (m, n, k) of a few columns and one right-hand
    side (n,): solutions (m, k) and root sums of squares (m,). Some subset of the columns solves
    it, and all are tried: three columns have seven.
    """
    length = np.linalg.norm(design, axis=1, keepdims=True)
    unit = design / np.maximum(length, 1e-300)
    normal = np.swapaxes(unit, 1, 2) @ unit
    pull = np.swapaxes(unit, 1, 2) @ wanted
    k = design.shape[-1]
    best = np.zeros((len(design), k))
    misfits: Array = np.full(len(design), float(np.linalg.norm(wanted)))
    for size in range(1, k + 1):
        for subset in combinations(range(k), size):
            of = list(subset)
            inverse = np.linalg.pinv(normal[:, of][:, :, of], hermitian=True)
            tried = np.zeros_like(best)
            tried[:, of] = (inverse @ pull[:, of, None])[..., 0]
            misfit = np.linalg.norm(wanted - (unit @ tried[..., None])[..., 0], axis=1)
            better = (tried >= 0).all(axis=1) & (misfit < misfits)
            best[better], misfits[better] = tried[better], misfit[better]
    return best / np.maximum(length[:, 0], 1e-300), misfits
