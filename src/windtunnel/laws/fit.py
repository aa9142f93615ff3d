"""Fits of the loss law that prove themselves: two optimisers, from the same starts, must agree,
or the fit says that it did not converge.

Starts come from variable projection (on a grid of exponents the linear part is solved by
non-negative least squares; for c other than 1 after L is straightened to (L - E)^(1/c)); then
Levenberg-Marquardt on all starts at once, and BFGS.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, curve_fit, minimize, nnls

from windtunnel.laws.loss import FREE, Array, Form, Frame, LossLaw, log_slopes, slopes, surface

AGREE = 1e-8  # in the objective: what two optimisers may differ by
_EXPONENTS = np.geomspace(0.03, 1.5, 9)
_POWERS = (0.08, 0.2, 0.5, 1.0)  # c of the starts
_FLOORS = (0.0, 0.45, 0.85)  # E of the starts, of the lowest loss
_STARTS, _FEWER = (
    48,
    18,
)  # best ones of the grid, and others by turns; the fewer where many fits are wanted
_KEPT = 6  # starts that are polished
_LOWEST = np.array([0.0, -60.0, 0.0, -60.0, 0.0, np.log(0.02)])
_HIGHEST = np.array([np.inf, 60.0, 4.0, 60.0, 4.0, np.log(10.0)])
_PATIENT = {"maxiter": 2000, "maxfun": 4000, "ftol": 0, "gtol": 1e-13, "maxcor": 30}
_ANNEALED = (1e-1, 1e-2)  # deltas on the way to a smaller one


@dataclass(frozen=True)
class Objective:
    """What is minimised: the sum over points of weight times half the square of a residual, or of
    Huber's loss, which is linear beyond `delta`. Residuals are of the loss in nats, or of its
    natural logarithm.
    """

    residual: Literal["log", "nats"] = "log"
    delta: float = np.inf

    def residuals(self, model: Array, loss: Array) -> Array:
        return np.log(model) - np.log(loss) if self.residual == "log" else model - loss

    def slopes(self, coordinates: Array, data: "LossData") -> tuple[Array, Array]:
        """Losses (..., n), and the derivatives (..., n, 6) of the residuals by the coordinates."""
        of = log_slopes if self.residual == "log" else slopes
        return of(coordinates, data.x, data.y)

    def cost(self, residuals: Array, weights: Array) -> Array:
        """(...,) from residuals (..., n)."""
        size = np.abs(residuals)
        each = 0.5 * np.minimum(size, self.delta) ** 2
        if np.isfinite(self.delta):
            each = each + self.delta * np.maximum(size - self.delta, 0)
        return (weights * each).sum(-1)

    def influence(self, residuals: Array) -> Array:
        """Huber's weight: 1 within delta, falling as 1/r beyond."""
        if not np.isfinite(self.delta):
            return np.ones_like(residuals)
        return self.delta / np.maximum(np.abs(residuals), self.delta)


SQUARES = Objective("nats")


@dataclass(frozen=True)
class LossData:
    """Points in centred logarithms; losses (..., n) where many tables share their sizes and
    lengths.
    """

    x: Array
    y: Array
    loss: Array
    weights: Array
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
        return cls(*frame.logs(n, d), losses, given, frame)

    def cost(self, coordinates: Array, objective: Objective) -> Array:
        """The objective (...,) at coordinates (..., 6)."""
        residuals = objective.residuals(surface(coordinates, self.x, self.y), self.loss)
        return objective.cost(residuals, self.weights)


@dataclass(frozen=True)
class LossFit:
    """A law and the proof of its optimum."""

    form: Form
    law: LossLaw
    objective: float  # the sum, at the optimum
    disagreement: float  # between the objectives of two optimisers
    frame: Frame
    coordinates: Array

    @property
    def converged(self) -> bool:
        return self.disagreement <= AGREE


def fit_loss(form: Form, data: LossData, objective: Objective = SQUARES) -> LossFit:
    """The law of this form that minimises the objective. Raises ValueError where there are fewer
    points than the form has parameters.
    """
    starts = _starts(form, data)
    first, second = _marquardt(starts, data, form, objective), _bfgs(starts, data, form, objective)
    costs = [float(data.cost(found, objective)) for found in (first, second)]
    coordinates = first if costs[0] <= costs[1] else second
    return LossFit(
        form,
        data.frame.law(coordinates),
        min(costs),
        abs(costs[0] - costs[1]),
        data.frame,
        coordinates,
    )


def optimum(form: Form, data: LossData, objective: Objective) -> Array:
    """The coordinates (6,) of the best fit, without its certificate: for the many fits of an
    interval or a score.
    """
    return _marquardt(_starts(form, data)[:_FEWER], data, form, objective)


def fit_as_the_paper(
    params: ArrayLike, tokens: ArrayLike, loss: ArrayLike
) -> tuple[LossLaw, Array]:
    """The additive law by scipy's `curve_fit` from one start, as the paper fits it (section 4.5),
    for comparison; with its own standard errors of (E, A, alpha, B, beta), which take every point
    as independent. N and D are in units of their geometric means on the way. Raises ValueError
    where it does not converge.
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
    units = np.eye(5)  # derivatives of A n0^alpha and B d0^beta
    units[1, 1:3] = n0**alpha, A * n0**alpha * np.log(n0)
    units[3, 3:5] = d0**beta, B * d0**beta * np.log(d0)
    errors = np.sqrt(np.diag(units @ covariance @ units.T))
    return LossLaw(E, A * n0**alpha, alpha, B * d0**beta, beta), errors


def refine(starts: Array, data: LossData, free: Array, objective: Objective, steps: int) -> Array:
    """Levenberg-Marquardt within bounds from many starts (..., 6) at once, each for its own
    losses where data.loss is (..., n); coordinates where `free` is 0 stay. Huber's loss by
    reweighting.
    """
    at: Array = np.clip(starts, _LOWEST, _HIGHEST)
    damping = np.full(at.shape[:-1], 1e-3)
    model, pull = objective.slopes(at, data)
    cost = objective.cost(objective.residuals(model, data.loss), data.weights)
    for _ in range(steps):
        residuals = objective.residuals(model, data.loss)
        weighted = pull * (data.weights * objective.influence(residuals))[..., None]
        gradient = (weighted * residuals[..., None]).sum(-2)
        held = (
            (free == 0) | ((at <= _LOWEST) & (gradient > 0)) | ((at >= _HIGHEST) & (gradient < 0))
        )
        normal = np.swapaxes(weighted, -1, -2) @ pull
        normal = np.where(held[..., None] | held[..., None, :], 0.0, normal)
        diagonal = np.diagonal(normal, axis1=-2, axis2=-1)
        scale = np.where(
            held,
            1.0,
            damping[..., None] * np.maximum(diagonal, 1e-12 * diagonal.max(-1, keepdims=True)),
        )
        scale = np.maximum(scale, 1e-300)
        step = np.linalg.solve(
            normal + scale[..., None] * np.eye(6), np.where(held, 0.0, -gradient)[..., None]
        )[..., 0]
        tried = np.clip(at + step, _LOWEST, _HIGHEST)
        new_model, new_pull = objective.slopes(tried, data)
        new_cost = objective.cost(objective.residuals(new_model, data.loss), data.weights)
        better = new_cost < cost
        gained = np.where(better, cost - new_cost, 0.0)
        at = np.where(better[..., None], tried, at)
        model = np.where(better[..., None], new_model, model)
        pull = np.where(better[..., None, None], new_pull, pull)
        cost = np.where(better, new_cost, cost)
        damping = np.clip(np.where(better, damping * 0.2, damping * 6), 1e-12, 1e12)
        if (~better & (damping > 1e9) | better & (gained <= 1e-13 * cost)).all():
            break
    return at


def _deltas(objective: Objective) -> list[Objective]:
    """Squares, then Huber's loss with larger deltas, then the objective itself: each starts where
    the last ended.
    """
    larger = [delta for delta in (np.inf, *_ANNEALED) if delta > 3 * objective.delta]
    return [replace(objective, delta=delta) for delta in (*larger, objective.delta)]


def _marquardt(starts: Array, data: LossData, form: Form, objective: Objective) -> Array:
    first, *more = _deltas(objective)
    at = refine(starts, data, FREE[form], first, 40)
    at = at[np.argsort(data.cost(at, first))][:_KEPT]
    for stage in (first, *more):
        at = refine(at, data, FREE[form], stage, 300 if stage == objective else 60)
    return at[np.argmin(data.cost(at, objective))]


def _bfgs(starts: Array, data: LossData, form: Form, objective: Objective) -> Array:
    """The best that L-BFGS finds from the first few starts."""
    free = np.flatnonzero(FREE[form])
    found: Array = np.clip(starts[:_KEPT], _LOWEST, _HIGHEST)
    bounds = Bounds(_LOWEST[free], _HIGHEST[free])  # type: ignore[arg-type]
    *before, last = _deltas(objective)
    for whole in found:

        def cost(part: Array, stage: Objective, whole: Array = whole) -> tuple[float, Array]:
            whole[free] = part
            model, pull = stage.slopes(whole, data)
            residuals = stage.residuals(model, data.loss)
            weighted = data.weights * stage.influence(residuals) * residuals
            return float(stage.cost(residuals, data.weights)), weighted @ pull[:, free]

        part = whole[free]
        for stage in (*before, last, last):  # a restart forgets a curvature that no longer holds
            part = minimize(
                cost, part, (stage,), jac=True, method="L-BFGS-B", bounds=bounds, options=_PATIENT
            ).x
        whole[free] = part
    return found[np.argmin(data.cost(found, objective))]


def _starts(form: Form, data: LossData) -> Array:
    """The best points of variable projection: coordinates (starts, 6)."""
    free = FREE[form]
    if data.loss.shape[-1] < free.sum():
        raise ValueError(
            f"{len(data.loss)} points can't tell the {int(free.sum())} parameters of the {form} law"
        )
    lowest, root = data.loss.min(), np.sqrt(data.weights)
    found: list[tuple[float, Array]] = []
    for c in _POWERS if free[5] else (1.0,):
        for floor in (s * lowest for s in _FLOORS) if free[5] and free[0] else (0.0,):
            straight = (data.loss - floor) ** (1 / c)
            # so that a misfit of the straightened loss counts as one of the loss
            scale = root * c * (data.loss - floor) ** (1 - 1 / c)
            for a, b in product(_EXPONENTS, _EXPONENTS):
                columns = [np.exp(-a / c * data.x), np.exp(-b / c * data.y)]
                if free[0] and not free[5]:
                    columns.append(np.ones_like(straight))
                linear, misfit = nnls(np.column_stack(columns) * scale[:, None], straight * scale)
                p, q = (float(c * np.log(max(value, 1e-12))) for value in linear[:2])
                base = linear[2] if len(linear) == 3 else floor
                found.append((misfit, np.array([base, p, a, q, b, np.log(c)])))
    found.sort(key=lambda item: item[0])
    by_turns = [
        item for pair in zip(found, found[len(found) // 9 :: 6], strict=False) for item in pair
    ]
    return np.array([coordinates for _, coordinates in by_turns[:_STARTS]])
