"""Which form of the loss law to believe, by what it would have predicted: fitted to the smaller
and shorter runs, it is scored on the larger and longer ones. A prediction weighs the forms by
that record, and its interval holds what the forms disagree about.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.copying import ENDS, EXPECTED, by_then
from windtunnel.laws.fit import LossData, LossFit, Objective, fit_each, optima
from windtunnel.laws.growth import Growth, HeldOut, growth_of
from windtunnel.laws.intervals import Profile, linear_sd, profiles, redraw
from windtunnel.laws.loss import FORMS, Array, LossLaw, log_slopes, surface
from windtunnel.laws.noise import OUTLIER, Groups, NoisePosterior, robust_sd, tamed
from windtunnel.laws.optimum import log_ratio
from windtunnel.laws.points import LossPoints, check, fittable

_DRAWS = 400
# Points weigh by their FLOPs to this power, so that barely trained runs say less.
# By `bench/reach.py`: 0.78% of error for 0.88% with all alike.
_WORTH = 0.3
# Weights go with the error of extrapolation to the power of -4: twice the error, a sixteenth.
_SHARPNESS = 4
_DIGITS = 6  # of weights that are alike
_NEGLIGIBLE = 0.01  # a weight below which a form moves no interval
_CUTS = 3  # held-out tails for each of size, tokens and compute
_DEEPEST = 0.5  # the smallest share of points that a cut leaves to fit
_SHALLOWEST = 0.8  # the largest, where there are many values to cut at
_TOLERANCE = 0.0005  # relative error below which two forms count as equally good
_STRANGE = 8.0  # standard deviations beyond which a point is named
_MOST_TELL = 0.9  # share of the laws that must have a best ratio for an interval of it
_BEYOND_NUMBERS = 700.0  # of the logarithm of a ratio: a float ends at 709
_ENDS = (0.05, 0.95)  # of an interval of 90%
# Of the intervals of 50% and 90%: standard deviations either way. A normal law has 0.67 and 1.64;
# errors have longer tails, and the standard deviation is an estimate (`bench/intervals.py`).
_HALF_WIDTHS = (0.68, 1.8)

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
    errors: Array  # (above,): of log loss above the cut; above 0: predicted too high
    # root mean square of the errors over the standard deviations that the fit below stated
    surprise: float

    @property
    def error(self) -> float:
        """Their mean magnitude: the relative error of the loss."""
        return float(np.abs(self.errors).mean())

    @property
    def bias(self) -> float:
        """Their mean."""
        return float(self.errors.mean())


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A form with a count of N, fitted to all points, with its record."""

    count: str
    fit: LossFit
    record: tuple[Tried, ...]
    score: float  # relative error of extrapolation over axes; what it is chosen by
    weight: float
    noise: NoisePosterior
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
        """Of the law; arrays broadcast."""
        return np.log(self.law.at(params, tokens))

    @property
    def inflation(self) -> float:
        """How many times larger its errors of extrapolation were than it had said; at least 1."""
        if not self.record:
            return 1.0
        surprises = [tried.surprise for tried in self.record]
        return max(1.0, float(np.sqrt(np.mean(np.square(surprises)))))

    def log_ratios(self, flops: float, draws: Array) -> Array:
        """(draws,): logarithms of D / N where the loss is lowest with 6ND = `flops`, of laws as
        they might as well be; nan for one that has no best ratio.
        """
        found = [log_ratio(self.fit.frame.law(at), flops) for at in draws]
        drawn = np.array(found, float)  # None is nan
        own = log_ratio(self.law, flops)
        if own is None:
            return drawn
        # About its own: wider by as much as it was too sure of itself.
        return own + self.inflation * (drawn - own)


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A point that lies farther from the law than noise would have it."""

    point: int  # its place in the table
    error: float  # log of its loss over the law's
    times: float  # of what the points scatter by


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
    growth: Growth
    # By form, of those that count N as the best does: laws as they might as well be, coordinates
    # (draws, 7).
    draws: Mapping[str, Array]
    # What runs may take off their log loss by something that no point has learnt (`laws.copying`).
    unlearnt: float = 0.0

    @property
    def best(self) -> Candidate:
        """The one that weighs most; of those that weigh alike the simplest."""
        return _weightiest(self.candidates)

    def loss(self, params: Mapping[str, ArrayLike] | ArrayLike, tokens: ArrayLike) -> Array:
        """The expected loss, arrays broadcast; `params` by count, or by the table's only one."""
        sizes = self._sizes(params)
        by_law = sum(c.weight * c.log_loss(sizes[c.count], tokens) for c in self.candidates)
        return np.exp(by_law - EXPECTED * self._saved(sizes, tokens))

    def predict(self, params: Mapping[str, float] | float, tokens: float) -> Prediction:
        """With intervals: noise, what the forms disagree about, and how wrong predictions of runs
        that were held out have been, which is the more the farther they lie from the points; and
        below, what a run may learn at once that no point has.
        """
        sizes = self._sizes(params)
        weights = np.array([candidate.weight for candidate in self.candidates])
        said = np.array([float(c.log_loss(sizes[c.count], tokens)) for c in self.candidates])
        centre = float(weights @ said)
        disagreement = float(weights @ (said - centre) ** 2)
        first = self.points.counts[0]
        sd = math.sqrt(
            disagreement + float(self.growth.variance(*self._reach(sizes[first], tokens)))
        )
        saved = float(self._saved(sizes, tokens))
        intervals = []
        for halves, part in zip(_HALF_WIDTHS, ENDS, strict=True):
            low, high = centre - halves * sd - part * saved, centre + halves * sd
            intervals.append((math.exp(low), math.exp(high)))
        return Prediction(math.exp(centre - EXPECTED * saved), *intervals)

    def ratio(self, flops: float) -> tuple[float | None, tuple[float, float] | None]:
        """The best tokens a parameter with C = 6ND, by the weightiest law, and its 90% interval
        over laws as they might as well be, of every form with the same count of N: ratios by
        different counts are different numbers. None for what has no best ratio; no interval where
        many of the laws have none.
        """
        logs, weights = [], []
        for candidate in self.candidates:
            if candidate.count != self.best.count or candidate.form not in self.draws:
                continue
            drawn = candidate.log_ratios(flops, self.draws[candidate.form])
            logs.append(drawn)
            weights.append(np.full(len(drawn), candidate.weight / len(drawn)))
        values, told = np.concatenate(logs), np.concatenate(weights)
        # nan, of a law without a best ratio, is not below it
        known = np.abs(values) < _BEYOND_NUMBERS
        interval = None
        if told[known].sum() > _MOST_TELL * told.sum():
            low, high = np.exp(_quantiles(values[known], told[known], _ENDS))
            interval = float(low), float(high)
        value = log_ratio(self.best.law, flops)
        return None if value is None else float(np.exp(value)), interval

    def outliers(self) -> list[Outlier]:
        """Points many times as far from the law as the points scatter, the farthest first. They
        widen no interval, and may bend the law.
        """
        errors = np.log(self.points.loss / self.loss(self.points.params, self.points.tokens))
        times = np.abs(errors) / max(robust_sd(errors), _TOLERANCE)
        order = np.argsort(-times, kind="stable")
        return [
            Outlier(point=int(at), error=float(errors[at]), times=float(times[at]))
            for at in order
            if times[at] > _STRANGE
        ]

    def extrapolation(self, params: Mapping[str, float] | float, tokens: float) -> dict[str, float]:
        """How many times larger and longer than anything in the fit; size by the table's first
        count.
        """
        largest = float(self.points.size.max())
        return {
            "params": float(self._sizes(params)[self.points.counts[0]]) / largest,
            "tokens": tokens / float(self.points.tokens.max()),
        }

    @cached_property
    def pinned(self) -> list[Profile]:
        """Those of the best candidate; found once, however many plans ask."""
        return self.profiles(self.best)

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

    def _reach(self, size: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        """E-folds beyond the largest and the longest of the points; 0 within."""
        return (
            np.log(size / self.points.size.max()).clip(0),
            np.log(tokens / self.points.tokens.max()).clip(0),
        )

    def _saved(self, sizes: Mapping[str, Array], tokens: ArrayLike) -> Array:
        """Of `unlearnt`, what may have come by then."""
        dearest = float((self.points.size * self.points.tokens).max())
        work = sizes[self.points.counts[0]] * np.asarray(tokens, float)
        return by_then(self.unlearnt, work / dearest)

    def _sizes(self, params: Mapping[str, ArrayLike] | ArrayLike) -> Mapping[str, Array]:
        if isinstance(params, Mapping):
            return {count: np.asarray(values, float) for count, values in params.items()}
        return dict.fromkeys(self.points.counts, np.asarray(params, float))


def choose(
    points: LossPoints,
    seed_sd: float | None = None,
    draws: int = _DRAWS,
    unlearnt: float = 0.0,
) -> Predictor:
    """Fit every form with every count, and weigh them by forward-chained extrapolation.
    `seed_sd`: of one run's loss between seeds, nats, where it was measured. `unlearnt`: as
    `copying.yet_to_save` has it. Raises ValueError where no law can be fitted (`points.check`).
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
        found += _candidates(count, task)
    weighted = [replace(c, weight=w) for c, w in zip(found, _weights(found), strict=True)]
    return Predictor(
        points,
        tuple(weighted),
        task.objective,
        _growth(weighted, task),
        _draws(weighted, task),
        unlearnt,
    )


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


def _weights(candidates: list[Candidate]) -> list[float]:
    """By their scores; errors that are as good as equal weigh as equal ones. A form has one vote,
    which its counts of N share: else two counts would count its error twice.
    """
    each = [max(candidate.score, _TOLERANCE) ** -_SHARPNESS for candidate in candidates]
    by_form: dict[str, list[float]] = defaultdict(list)
    for candidate, weight in zip(candidates, each, strict=True):
        by_form[candidate.form].append(weight)
    shared = []
    for candidate, weight in zip(candidates, each, strict=True):
        votes = by_form[candidate.form]
        shared.append(weight * max(votes) / sum(votes))
    return [weight / sum(shared) for weight in shared]


def _weightiest(candidates: Sequence[Candidate]) -> Candidate:
    """The first of those that weigh most: a form with a number more is the same law where the fit
    leaves that number at nothing, and rounding must not choose between them.
    """
    return max(candidates, key=lambda candidate: round(candidate.weight, _DIGITS))


def _growth(candidates: list[Candidate], task: _Task) -> Growth:
    """What the mixture of all forms strayed by at each cut."""
    points = task.points
    held = []
    for index, cut in enumerate(task.cuts):
        below, above = points.select(cut.kept), points.select(~cut.kept)
        errors = sum(c.weight * c.record[index].errors for c in candidates)
        held.append(
            HeldOut(
                errors=np.asarray(errors),
                by_size=np.log(above.size / below.size.max()).clip(0),
                by_tokens=np.log(above.tokens / below.tokens.max()).clip(0),
            )
        )
    noise = sum(c.weight * c.noise.sd**2 for c in candidates)
    return growth_of(held, math.sqrt(noise))


def _draws(candidates: list[Candidate], task: _Task) -> dict[str, Array]:
    """Of the forms that matter, with the count of N of the weightiest."""
    count = _weightiest(candidates).count
    data = _data(task.points, count)
    drawn = {}
    for one in candidates:
        if one.count == count and one.weight > _NEGLIGIBLE:
            drawn[one.form] = redraw(
                one.form,
                one.fit.coordinates,
                data,
                task.points.groups,
                one.noise,
                task.objective,
                task.draws,
            )
    return drawn


def _objective(points: LossPoints) -> Objective:
    """Squares of log loss, linear beyond a few standard deviations of the scatter about the best
    squares.
    """
    data = _data(points, points.counts[0])
    # Squares first: where Huber should bend is known only once the scatter is.
    fitted = surface(optima(list(FORMS), data, Objective("log")), data.x, data.y)
    scatters = [robust_sd(errors) for errors in np.log(fitted / data.loss)]
    return Objective("log", max(OUTLIER * min(scatters), _TOLERANCE))


def _data(points: LossPoints, count: str) -> LossData:
    worth = points.flops**_WORTH
    return LossData.of(points.params[count], points.tokens, points.loss, worth / worth.mean())


def _candidates(count: str, task: _Task) -> list[Candidate]:
    """Every form fitted to all points with this count of N, with its record; weights are still to
    come.
    """
    data, groups = _data(task.points, count), task.points.groups
    fits = fit_each(list(FORMS), data, task.objective)
    records = _records(count, data, task)
    found = []
    for fitted, record in zip(fits, records, strict=True):
        noise, residuals = _noise(fitted.form, fitted.coordinates, data, groups, task.least)
        one = Candidate(
            count=count,
            fit=fitted,
            record=record,
            score=_score(record),
            weight=0.0,
            noise=noise,
            misfit=float(np.sqrt((residuals**2).mean())),
        )
        found.append(one)
    return found


def _records(count: str, data: LossData, task: _Task) -> list[tuple[Tried, ...]]:
    """Of every form: fitted to the points below each cut, and held against those above it."""
    if not task.cuts:
        return [()] * len(FORMS)
    # All cuts in one fit: what lies above a cut has no weight in its table.
    kept = np.array([cut.kept for cut in task.cuts])
    below = [data.select(cut.kept) for cut in task.cuts]
    laws = optima(list(FORMS), replace(data, weights=data.weights * kept), task.objective)
    records = []
    for form, at_cuts in zip(FORMS, laws, strict=True):
        of_form = []
        for cut, law, points in zip(task.cuts, at_cuts, below, strict=True):
            of_form.append(_tried(form, count, cut, law, points, task))
        records.append(tuple(of_form))
    return records


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
    return Tried(
        cut=cut,
        errors=errors,
        surprise=float(np.sqrt((tamed(errors / said) ** 2).mean())),
    )


def _noise(
    form: str, coordinates: Array, data: LossData, groups: Groups, least: float
) -> tuple[NoisePosterior, Array]:
    """The noise about a law, and the log residuals (n,) that tell it."""
    model, jacobian = log_slopes(coordinates, data.x, data.y)
    residuals = np.log(data.loss / model)
    free = FORMS[form].free
    # An outlier says nothing of the noise of the others.
    signed = np.sign(residuals) * tamed(residuals)
    return NoisePosterior.about(signed, jacobian[:, free], groups, least), residuals


def _score(record: tuple[Tried, ...]) -> float:
    """Root mean square of the relative error of extrapolation, each axis counting alike. Without a
    record all forms are alike.
    """
    if not record:
        return 1.0
    by_axis: dict[Axis, list[float]] = defaultdict(list)
    for tried in record:
        by_axis[tried.cut.axis].append(float(np.sqrt((tamed(tried.errors) ** 2).mean())))
    return float(np.mean([np.mean(errors) for errors in by_axis.values()]))


def _quantiles(values: Array, weights: Array, levels: tuple[float, ...]) -> Array:
    """Quantiles (levels,) of weighted values (n,)."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    # Each value stands in the middle of its weight.
    return np.interp(levels, (cumulated - weights[order] / 2) / cumulated[-1], values[order])
