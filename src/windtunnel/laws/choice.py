"""Which form of the loss law to believe, by what it would have predicted: fitted to the smaller and shorter runs, it is
scored on the larger and longer ones. A prediction weighs the forms by that record, and its interval holds what the
forms disagree about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.fit import Data, Fit, Objective, fit, optimum
from windtunnel.laws.intervals import Draws, Profile, linear_sd, profiles, redraw
from windtunnel.laws.loss import FORMS, FREE, Array, Form, LossLaw, slopes, surface
from windtunnel.laws.noise import Noise
from windtunnel.laws.points import Points, check

_DRAWS = 400
_SHARPNESS = 4  # weights go with the error of extrapolation to the power of -4: twice the error, a sixteenth
_CUTS = 3  # held-out tails for each of size, tokens and compute
_DEEPEST = 0.5  # the smallest share of points that a cut leaves to fit
_TOLERANCE = 0.0005  # relative error below which two forms count as equally good
_OUTLIER = 2.5  # standard deviations where Huber's loss becomes linear

Axis = Literal["params", "tokens", "flops"]


@dataclass(frozen=True)
class Split:
    """Fit below a cut along one axis, predict what lies above it."""

    axis: Axis
    cut: float
    kept: NDArray[np.bool_]


@dataclass(frozen=True)
class Tried:
    """How a form did at a split."""

    split: Split
    error: float  # mean absolute error of log loss above the cut: relative error of the loss
    bias: float  # mean error there; above 0: predicted too high
    surprise: float  # root mean square of the errors over the standard deviations that the fit below stated


@dataclass(frozen=True)
class Candidate:
    """A form with a count of N, fitted to all points, with its record."""

    count: str
    fit: Fit
    record: tuple[Tried, ...]
    score: float  # mean relative error of extrapolation over axes; what it is chosen by
    weight: float
    noise: Noise
    draws: Draws
    misfit: float  # root mean square of log residuals of the fit

    @property
    def form(self) -> Form:
        return self.fit.form

    @property
    def law(self) -> LossLaw:
        return self.fit.law

    def log_loss(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Of the law, in its own coordinates: where c is small, A and B may be too large to be numbers."""
        x, y = np.broadcast_arrays(*self.fit.frame.logs(params, tokens))
        return np.log(surface(self.fit.coordinates, x.ravel(), y.ravel())).reshape(x.shape)

    @property
    def inflation(self) -> float:
        """How many times larger its errors of extrapolation were than it had said; at least 1."""
        return _inflation(self.record)


@dataclass(frozen=True)
class Prediction:
    """Of the loss of a run that was not measured, its own noise included."""

    loss: float
    interval50: tuple[float, float]
    interval90: tuple[float, float]


@dataclass(frozen=True)
class Predictor:
    """Laws weighted by their record."""

    points: Points
    candidates: tuple[Candidate, ...]
    objective: Objective

    @property
    def best(self) -> Candidate:
        """The one that weighs most."""
        return max(self.candidates, key=lambda candidate: candidate.weight)

    def loss(self, params: Mapping[str, ArrayLike] | ArrayLike, tokens: ArrayLike) -> Array:
        """The expected loss, arrays broadcast; `params` by count, or by the table's only one."""
        sizes = self._sizes(params)
        return np.exp(sum(c.weight * c.log_loss(sizes[c.count], tokens) for c in self.candidates))

    def predict(self, params: Mapping[str, float] | float, tokens: float) -> Prediction:
        """With intervals: noise, what the fits leave open, what the forms disagree about, how wrong each has been."""
        sizes, middle = self._sizes(params), float(self.loss(params, tokens))
        values, weights = [], []
        rng = np.random.default_rng(1)
        for candidate in self.candidates:
            x, y = candidate.fit.frame.logs(sizes[candidate.count], tokens)
            drawn = candidate.draws.log_loss(x, y)[:, 0]
            drawn = drawn + candidate.draws.noise_sd * rng.standard_normal(len(drawn))
            own = float(candidate.log_loss(sizes[candidate.count], tokens))
            values.append(own + candidate.inflation * (drawn - own))
            weights.append(np.full(len(drawn), candidate.weight / len(drawn)))
        low90, low50, high50, high90 = np.exp(_quantiles(np.concatenate(values), np.concatenate(weights),
                                                         [0.05, 0.25, 0.75, 0.95]))  # fmt: skip
        return Prediction(middle, (float(low50), float(high50)), (float(low90), float(high90)))

    def extrapolation(self, params: Mapping[str, float] | float, tokens: float) -> dict[str, float]:
        """How many times larger and longer than anything in the fit; size by the table's first count."""
        largest = float(self.points.size.max())
        return {"params": float(self._sizes(params)[self.points.counts[0]]) / largest,
                "tokens": tokens / float(self.points.tokens.max())}  # fmt: skip

    def profiles(self, candidate: Candidate) -> list[Profile]:
        """Which numbers of a law the points pin down."""
        data = Data.of(self.points.params[candidate.count], self.points.tokens, self.points.loss, None)
        return profiles(
            candidate.form, candidate.fit.coordinates, data, self.points.stem, candidate.noise, self.objective
        )

    def _sizes(self, params: Mapping[str, ArrayLike] | ArrayLike) -> Mapping[str, Array]:
        if isinstance(params, Mapping):
            return {count: np.asarray(values, float) for count, values in params.items()}
        return dict.fromkeys(self.points.counts, np.asarray(params, float))


def choose(points: Points, seed_sd: float | None = None, draws: int = _DRAWS) -> Predictor:
    """Fit every form with every count, and weigh them by forward-chained extrapolation. `seed_sd`: of one run's loss
    between seeds, nats, where it was measured. Raises ValueError where no law can be fitted (`points.check`)."""
    check(points)
    objective = _objective(points)
    cuts = splits(points)
    least = (seed_sd or 0.0) / float(points.loss.mean())
    found = [_candidate(form, count, points, cuts, objective, least, draws)
             for count in _different(points) for form in FORMS]  # fmt: skip
    weights = np.array([max(candidate.score, _TOLERANCE) ** -_SHARPNESS for candidate in found])
    weights /= weights.sum()
    return Predictor(points, tuple(replace(c, weight=float(w)) for c, w in zip(found, weights, strict=True)), objective)


def splits(points: Points) -> list[Split]:
    """Cuts that leave the smaller, the shorter and the cheaper points to fit: up to three an axis, each leaving half of
    the points or more, and enough for a law."""
    axes: dict[Axis, Array] = {"params": points.size, "tokens": points.tokens, "flops": points.flops}
    found = []
    for axis, values in axes.items():
        distinct = np.unique(values)
        ends = distinct[:-1] if len(distinct) <= 3 * _CUTS else np.quantile(values, np.linspace(_DEEPEST, 0.8, _CUTS))
        for cut in ends[-_CUTS:]:
            kept = values <= cut * (1 + 1e-9)
            if kept.mean() >= _DEEPEST and not kept.all() and _enough(points.select(kept)):
                found.append(Split(axis, float(cut), kept))
    return found


def _enough(points: Points) -> bool:
    try:
        check(points)
    except ValueError:
        return False
    return True


def _different(points: Points) -> list[str]:
    """The counts that tell something new: a tied head is counted in the total already."""
    kept: list[str] = []
    for count, values in points.params.items():
        if not any(np.allclose(values, points.params[other], rtol=1e-3) for other in kept):
            kept.append(count)
    return kept


def _objective(points: Points) -> Objective:
    """Squares of log loss, linear beyond a few standard deviations of the scatter about the best squares."""
    residuals = []
    for form in FORMS:
        data = Data.of(points.size, points.tokens, points.loss, None)
        fitted = surface(optimum(form, data, Objective("log")), data.x, data.y)
        residuals.append(np.log(fitted / data.loss))
    scatter = min(1.4826 * float(np.median(np.abs(r))) for r in residuals)
    return Objective("log", max(_OUTLIER * scatter, _TOLERANCE))


def _candidate(form: Form, count: str, points: Points, cuts: list[Split], objective: Objective, least: float,
               draws: int) -> Candidate:  # fmt: skip
    data = Data.of(points.params[count], points.tokens, points.loss, None)
    fitted = fit(form, points.params[count], points.tokens, points.loss, objective)
    noise, residuals = _noise(form, fitted.coordinates, data, points.stem, least)
    record = tuple(_tried(form, count, points, cut, objective, least) for cut in cuts)
    drawn = redraw(form, fitted.coordinates, data, points.stem, noise, objective, draws)
    return Candidate(count, fitted, record, _score(record), 0.0, noise, drawn, float(np.sqrt((residuals**2).mean())))


def _tried(form: Form, count: str, points: Points, split: Split, objective: Objective, least: float) -> Tried:
    below, above = points.select(split.kept), points.select(~split.kept)
    data = Data.of(below.params[count], below.tokens, below.loss, None)
    coordinates = optimum(form, data, objective)
    noise, _ = _noise(form, coordinates, data, below.stem, least)
    x, y = data.frame.logs(above.params[count], above.tokens)
    errors = np.log(surface(coordinates, x, y) / above.loss)
    said = linear_sd(form, coordinates, data, below.stem, noise, x, y)
    return Tried(
        split, float(np.abs(errors).mean()), float(errors.mean()), float(np.sqrt(((errors / said) ** 2).mean()))
    )


def _noise(form: Form, coordinates: Array, data: Data, stem: NDArray[np.int64], least: float) -> tuple[Noise, Array]:
    model, jacobian = slopes(coordinates, data.x, data.y)
    residuals = np.log(data.loss / model)
    return Noise.about(residuals, (jacobian / model[:, None])[:, FREE[form] > 0], stem, least), residuals


def _score(record: tuple[Tried, ...]) -> float:
    """Mean relative error of extrapolation, each axis counting alike. Without a record all forms are alike."""
    axes = dict.fromkeys(tried.split.axis for tried in record)
    return (
        float(np.mean([np.mean([t.error for t in record if t.split.axis == axis]) for axis in axes])) if axes else 1.0
    )


def _inflation(record: tuple[Tried, ...]) -> float:
    return max(1.0, float(np.sqrt(np.mean([tried.surprise**2 for tried in record])))) if record else 1.0


def _quantiles(values: Array, weights: Array, levels: list[float]) -> Array:
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return np.interp(levels, (cumulated - weights[order] / 2) / cumulated[-1], values[order])
