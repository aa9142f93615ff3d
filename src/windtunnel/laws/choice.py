"""Which form of the loss law to believe, by what it would have predicted: fitted to the smaller
and shorter runs, it is scored on the larger and longer ones. A prediction weighs the forms by
that record, and its interval holds what the forms disagree about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.fit import LossData, LossFit, Objective, fit_loss, optimum
from windtunnel.laws.intervals import Draws, Profile, linear_sd, profiles, redraw
from windtunnel.laws.loss import FORMS, Array, LossLaw, log_slopes, surface
from windtunnel.laws.noise import Groups, NoisePosterior
from windtunnel.laws.optimum import log_ratio
from windtunnel.laws.points import LossPoints, check, fittable

_DRAWS = 400
# Weights go with the error of extrapolation to the power of -4: twice the error, a sixteenth.
_SHARPNESS = 4
_CUTS = 3  # held-out tails for each of size, tokens and compute
_DEEPEST = 0.5  # the smallest share of points that a cut leaves to fit
_SHALLOWEST = 0.8  # the largest, where there are many values to cut at
_TOLERANCE = 0.0005  # relative error below which two forms count as equally good
# Standard deviations where Huber's loss becomes linear, and beyond which no error counts.
_OUTLIER = 2.5
_MAD = 1.4826  # standard deviations of a normal law, for a median of magnitudes of 1
_MOST_TELL = 0.9  # share of the laws that must have a best ratio for an interval of it
_LEVELS = (0.05, 0.25, 0.75, 0.95)  # ends of the intervals of 90% and 50%

Axis = Literal["params", "tokens", "flops"]


@dataclass(frozen=True)
class Cut:
    """Fit below a cut along one axis, predict what lies above it."""

    axis: Axis
    at: float
    kept: NDArray[np.bool_]  # (points,): those at or below it


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How a form did at a cut."""

    cut: Cut
    error: float  # mean absolute error of log loss above the cut: relative error of the loss
    bias: float  # mean error there; above 0: predicted too high
    # root mean square of the errors over the standard deviations that the fit below stated
    surprise: float
    excess: float  # mean square of the errors less the mean square of those standard deviations
    # mean square of how far past the cut the runs lie, natural logarithm of size or tokens; 0 for
    # flops
    reach: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A form with a count of N, fitted to all points, with its record."""

    count: str
    fit: LossFit
    record: tuple[Tried, ...]
    score: float  # mean relative error of extrapolation over axes; what it is chosen by
    weight: float
    noise: NoisePosterior
    draws: Draws
    misfit: float  # root mean square of log residuals of the fit

    @property
    def form(self) -> str:
        """The name of its form."""
        return self.fit.form

    @property
    def law(self) -> LossLaw:
        """The law through all points."""
        return self.fit.law

    def log_loss(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Of the law, in its own coordinates: where c is small, A and B may be too large to be
        numbers.
        """
        x, y = np.broadcast_arrays(*self.fit.frame.logs(params, tokens))
        return np.log(surface(self.fit.coordinates, x.ravel(), y.ravel())).reshape(x.shape)

    @property
    def inflation(self) -> float:
        """How many times larger its errors of extrapolation were than it had said; at least 1."""
        if not self.record:
            return 1.0
        surprises = [tried.surprise for tried in self.record]
        return max(1.0, float(np.sqrt(np.mean(np.square(surprises)))))

    def log_ratios(self, flops: float) -> Array:
        """(draws,): logarithms of D / N where the loss is lowest with 6ND = `flops`, of laws as
        they might as well be; nan for one that has no best ratio.
        """
        found = [log_ratio(self.fit.frame.law(at), flops) for at in self.draws.coordinates]
        drawn = np.array(found, float)  # None is nan
        own = log_ratio(self.law, flops)
        if own is None:
            return drawn
        # About its own: wider by as much as it was too sure of itself.
        return own + self.inflation * (drawn - own)

    def stray(self, beyond: Mapping[Axis, ArrayLike]) -> Array:
        """Standard deviation of log loss that comes on top of what it states, for a run that lies
        so far `beyond` its points (natural logarithms, by axis): in proportion to the
        distance.
        """
        squares = [np.square(self.growth(axis) * np.asarray(far)) for axis, far in beyond.items()]
        return np.sqrt(sum(squares))

    def growth(self, axis: Axis) -> float:
        """Of that, what an e-fold along the axis is worth in the record; 0 where no cut holds out
        a part of it.
        """
        along = [tried for tried in self.record if tried.cut.axis == axis]
        reach = sum(tried.reach for tried in along)
        if not reach:
            return 0.0
        excess = sum(tried.excess for tried in along)
        return float(np.sqrt(max(0.0, excess) / reach))


@dataclass(frozen=True)
class Prediction:
    """Of the loss of a run that was not measured, in nats/token, its own noise included."""

    loss: float
    interval50: tuple[float, float]
    interval90: tuple[float, float]


@dataclass(frozen=True)
class Predictor:
    """Laws weighted by their record."""

    points: LossPoints
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
        """With intervals: noise, what the fits leave open, what the forms disagree about, how
        wrong each has been, and that the more, the farther it is from the points.
        """
        sizes = self._sizes(params)
        # A seed of its own, so that the same points give the same prediction.
        rng = np.random.default_rng(1)
        values, weights = [], []
        for candidate in self.candidates:
            drawn = self._drawn(candidate, sizes[candidate.count], tokens, rng)
            values.append(drawn)
            weights.append(np.full(len(drawn), candidate.weight / len(drawn)))
        low90, low50, high50, high90 = map(
            float, np.exp(_quantiles(np.concatenate(values), np.concatenate(weights), _LEVELS))
        )
        return Prediction(float(self.loss(params, tokens)), (low50, high50), (low90, high90))

    def ratio(self, flops: float) -> tuple[float | None, tuple[float, float] | None]:
        """The best tokens a parameter with C = 6ND, by the weightiest law, and its 90% interval
        over laws as they might as well be, of every form with the same count of N: ratios by
        different counts are different numbers. None for what has no best ratio; no interval where
        many of the laws have none.
        """
        same = [one for one in self.candidates if one.count == self.best.count]
        logs, weights = [], []
        for candidate in same:
            drawn = candidate.log_ratios(flops)
            logs.append(drawn)
            weights.append(np.full(len(drawn), candidate.weight / len(drawn)))
        values, told = np.concatenate(logs), np.concatenate(weights)
        known = np.isfinite(values)
        interval = None
        if told[known].sum() > _MOST_TELL * told.sum():
            low, high = np.exp(_quantiles(values[known], told[known], (_LEVELS[0], _LEVELS[-1])))
            interval = float(low), float(high)
        value = log_ratio(self.best.law, flops)
        return None if value is None else float(np.exp(value)), interval

    def extrapolation(self, params: Mapping[str, float] | float, tokens: float) -> dict[str, float]:
        """How many times larger and longer than anything in the fit; size by the table's first
        count.
        """
        largest = float(self.points.size.max())
        return {
            "params": float(self._sizes(params)[self.points.counts[0]]) / largest,
            "tokens": tokens / float(self.points.tokens.max()),
        }

    def profiles(self, candidate: Candidate) -> list[Profile]:
        """Which numbers of a law the points pin down."""
        return profiles(
            candidate.form,
            candidate.fit.coordinates,
            _data(self.points, candidate.count),
            self.points.groups,
            candidate.noise,
            self.objective,
        )

    def _drawn(
        self, candidate: Candidate, size: Array, tokens: float, rng: np.random.Generator
    ) -> Array:
        """Log losses (draws,) that a new run might as well have, by one law."""
        x, y = candidate.fit.frame.logs(size, tokens)
        drawn = candidate.draws.log_loss(x, y)[:, 0]
        drawn = drawn + candidate.draws.noise_sd * rng.standard_normal(len(drawn))
        own = float(candidate.log_loss(size, tokens))
        stray = candidate.stray(_beyond(self.points, candidate.count, size, tokens))
        # About its own law: wider by as much as it was too sure of itself, and strayed.
        return own + candidate.inflation * (drawn - own) + stray * rng.standard_normal(len(drawn))

    def _sizes(self, params: Mapping[str, ArrayLike] | ArrayLike) -> Mapping[str, Array]:
        if isinstance(params, Mapping):
            return {count: np.asarray(values, float) for count, values in params.items()}
        return dict.fromkeys(self.points.counts, np.asarray(params, float))


def choose(points: LossPoints, seed_sd: float | None = None, draws: int = _DRAWS) -> Predictor:
    """Fit every form with every count, and weigh them by forward-chained extrapolation.
    `seed_sd`: of one run's loss between seeds, nats, where it was measured. Raises ValueError
    where no law can be fitted (`points.check`).
    """
    check(points)
    task = _Task(
        points=points,
        cuts=cuts(points),
        objective=_objective(points),
        least=(seed_sd or 0.0) / float(points.loss.mean()),
        draws=draws,
    )
    found = []
    for count in _different(points):
        found += [_candidate(form, count, task) for form in FORMS]
    # Errors that are as good as equal weigh as equal ones.
    weights = np.array([max(candidate.score, _TOLERANCE) ** -_SHARPNESS for candidate in found])
    weights /= weights.sum()
    weighted = [replace(c, weight=float(w)) for c, w in zip(found, weights, strict=True)]
    return Predictor(points, tuple(weighted), task.objective)


def cuts(points: LossPoints) -> list[Cut]:
    """Cuts that leave the smaller, the shorter and the cheaper points to fit: up to three an
    axis, each leaving half of the points or more, and enough for a law.
    """
    axes: dict[Axis, Array] = {
        "params": points.size,
        "tokens": points.tokens,
        "flops": points.flops,
    }
    found = []
    for axis, values in axes.items():
        ends = np.unique(values)[:-1]
        # Many values: cuts at quantiles. Few: one between each two of them.
        if len(ends) >= 3 * _CUTS:
            ends = np.quantile(values, np.linspace(_DEEPEST, _SHALLOWEST, _CUTS))
        for at in ends[-_CUTS:]:
            # The margin is for sizes that differ by rounding.
            kept = values <= at * (1 + 1e-9)
            if kept.mean() >= _DEEPEST and not kept.all() and fittable(points.select(kept)):
                found.append(Cut(axis, float(at), kept))
    return found


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What every candidate is fitted to, and how."""

    points: LossPoints
    cuts: list[Cut]
    objective: Objective
    least: float  # standard deviation of a run's log loss between seeds; 0: not measured
    draws: int


def _different(points: LossPoints) -> list[str]:
    """The counts that tell something new: a tied head is counted in the total already."""
    kept: list[str] = []
    for count, values in points.params.items():
        if not any(np.allclose(values, points.params[other], rtol=1e-3) for other in kept):
            kept.append(count)
    return kept


def _objective(points: LossPoints) -> Objective:
    """Squares of log loss, linear beyond a few standard deviations of the scatter about the best
    squares.
    """
    data = _data(points, points.counts[0])
    scatters = []
    for form in FORMS:
        # Squares first: where Huber should bend is known only once the scatter is.
        fitted = surface(optimum(form, data, Objective("log")), data.x, data.y)
        scatters.append(_MAD * float(np.median(np.abs(np.log(fitted / data.loss)))))
    return Objective("log", max(_OUTLIER * min(scatters), _TOLERANCE))


def _data(points: LossPoints, count: str) -> LossData:
    return LossData.of(points.params[count], points.tokens, points.loss)


def _candidate(form: str, count: str, task: _Task) -> Candidate:
    """A form fitted to all points, with its record; its weight is still to come."""
    data, groups = _data(task.points, count), task.points.groups
    fitted = fit_loss(form, data, task.objective)
    noise, residuals = _noise(form, fitted.coordinates, data, groups, task.least)
    record = _record(form, count, task)
    draws = redraw(form, fitted.coordinates, data, groups, noise, task.objective, task.draws)
    return Candidate(
        count=count,
        fit=fitted,
        record=record,
        score=_score(record),
        weight=0.0,
        noise=noise,
        draws=draws,
        misfit=float(np.sqrt((residuals**2).mean())),
    )


def _record(form: str, count: str, task: _Task) -> tuple[Tried, ...]:
    """Fitted to the points below each cut, and held against those above it."""
    if not task.cuts:
        return ()
    data = _data(task.points, count)
    # All cuts in one fit: what lies above a cut has no weight in its table.
    below = replace(data, weights=data.weights * np.array([cut.kept for cut in task.cuts]))
    laws = optimum(form, below, task.objective)
    return tuple(
        _tried(form, count, cut, law, data.select(cut.kept), task)
        for cut, law in zip(task.cuts, laws, strict=True)
    )


def _tried(
    form: str, count: str, cut: Cut, coordinates: Array, data: LossData, task: _Task
) -> Tried:
    """How the law that was fitted to the points below a cut predicts those above it; `data`: of
    those below.
    """
    below, above = task.points.select(cut.kept), task.points.select(~cut.kept)
    noise, _ = _noise(form, coordinates, data, below.groups, task.least)
    x, y = data.frame.logs(above.params[count], above.tokens)
    errors = np.log(surface(coordinates, x, y) / above.loss)
    said = linear_sd(form, coordinates, data, below.groups, noise, x, y)
    far = _beyond(below, count, above.params[count], above.tokens).get(cut.axis, np.zeros(1))
    return Tried(
        cut=cut,
        error=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        surprise=float(np.sqrt((_tamed(errors / said) ** 2).mean())),
        excess=float((_tamed(errors) ** 2).mean() - (said**2).mean()),
        reach=float((far**2).mean()),
    )


def _tamed(errors: Array) -> Array:
    """Magnitudes, none beyond a few standard deviations of what they scatter by: an outlier says
    nothing of a law.
    """
    size = np.abs(errors)
    return np.minimum(size, _OUTLIER * _MAD * np.median(size))


def _beyond(
    points: LossPoints, count: str, params: ArrayLike, tokens: ArrayLike
) -> dict[Axis, Array]:
    """Natural logarithms of how many times larger and longer than any of the points; 0 within."""
    return {
        "params": np.log(params / points.params[count].max()).clip(0),
        "tokens": np.log(tokens / points.tokens.max()).clip(0),
    }


def _noise(
    form: str, coordinates: Array, data: LossData, groups: Groups, least: float
) -> tuple[NoisePosterior, Array]:
    """The noise about a law, and the log residuals (n,) that tell it."""
    model, jacobian = log_slopes(coordinates, data.x, data.y)
    residuals = np.log(data.loss / model)
    free = FORMS[form].free
    return NoisePosterior.about(residuals, jacobian[:, free], groups, least), residuals


def _score(record: tuple[Tried, ...]) -> float:
    """Mean relative error of extrapolation, each axis counting alike. Without a record all forms
    are alike.
    """
    if not record:
        return 1.0
    by_axis: dict[Axis, list[float]] = {}
    for tried in record:
        by_axis.setdefault(tried.cut.axis, []).append(tried.error)
    return float(np.mean([np.mean(errors) for errors in by_axis.values()]))


def _quantiles(values: Array, weights: Array, levels: tuple[float, ...]) -> Array:
    """Quantiles (levels,) of weighted values (n,)."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    # Each value stands in the middle of its weight.
    return np.interp(levels, (cumulated - weights[order] / 2) / cumulated[-1], values[order])
