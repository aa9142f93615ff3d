"""Which of two models is better: they are compared item by item.

What makes an item hard makes it hard for both. So items are drawn in pairs, and the interval of the
difference is narrower than two standard errors side by side would have it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.results.evaluation import Difference, Evaluation, Measure, Verdict

_RESAMPLES = 2000
_SEED = 0
_ROOM = 1 << 22  # numbers of a bootstrap at once
ALL = "all tasks"
MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two models' values of the same items."""

    first: np.ndarray
    """(items,)"""
    second: np.ndarray
    weights: np.ndarray
    higher_is_better: bool

    @property
    def scores(self) -> tuple[float, float]:
        """Of the first and of the second."""
        total = self.weights.sum()
        return float(self.first.sum() / total), float(self.second.sum() / total)

    def resampled(self, draw: np.random.Generator) -> np.ndarray:
        """Differences, second minus first, of items that are drawn anew: (resamples,)."""
        count, found = len(self.weights), []
        off = self.second - self.first
        for size in _parts(count):
            drawn = draw.integers(count, size=(size, count), dtype=np.int32)
            found.append(off[drawn].sum(axis=1) / self.weights[drawn].sum(axis=1))
        return np.concatenate(found)


def compared(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> list[Difference]:
    """The second model against the first, on every measure of items that both were scored on; and
    where there are several tasks, on the mean of them all.
    """
    draw = np.random.default_rng(_SEED)
    found, drawn = [], {}
    for task, one, pair in _pairs(first, second):
        resamples = pair.resampled(draw)
        found.append(_difference(task, one, pair, resamples))
        # of each task the first measure counts, and of bits none: they are no share of items
        if one.higher_is_better and task not in drawn:
            drawn[task] = (pair, resamples)
    if len(drawn) > 1:
        found.append(_over_all([*drawn.values()]))
    return found


def _pairs(
    first: Sequence[Evaluation], second: Sequence[Evaluation]
) -> Iterator[tuple[str, Measure, Paired]]:
    for one in first:
        for other in second:
            same = one.task == other.task and one.settings == other.settings
            if not same:
                continue
            for measure in one.measures:
                pair = _paired(one, other, measure)
                if pair:
                    yield one.task, measure, pair


def _paired(one: Evaluation, other: Evaluation, measure: Measure) -> Paired | None:
    """None where items have no values of their own, or the models share no item."""
    match = [
        theirs
        for theirs in other.measures
        if (theirs.metric, theirs.filter) == (measure.metric, measure.filter)
    ]
    if not match or measure.values is None or match[0].values is None:
        return None
    places = {item: place for place, item in enumerate(other.items)}
    both = [(at, places[item]) for at, item in enumerate(one.items) if item in places]
    if not both:
        return None
    ours, theirs = (list(index) for index in zip(*both, strict=True))
    weights = np.ones(len(both)) if measure.weights is None else np.array(measure.weights)[ours]
    return Paired(
        first=np.array(measure.values)[ours],
        second=np.array(match[0].values)[theirs],
        weights=weights,
        higher_is_better=measure.higher_is_better,
    )


def interval_of(pair: Paired, resamples: np.ndarray) -> tuple[float, float]:
    """95% of the resampled differences, widened to what they would be of a sample that is no
    narrower than what it was drawn from.
    """
    count = len(pair.weights)
    first, second = pair.scores
    low, high = np.quantile(resamples, [0.025, 0.975])
    # a resample's variance is short by (n - 1) / n, and few items have heavier tails than many
    wider = _widening(count)
    middle = second - first
    return float(middle + (low - middle) * wider), float(middle + (high - middle) * wider)


def _widening(count: int) -> float:
    from scipy.stats import norm, t

    if count < 2:
        return 1.0
    return float(np.sqrt(count / (count - 1)) * t.ppf(0.975, count - 1) / norm.ppf(0.975))


def _difference(task: str, measure: Measure, pair: Paired, resamples: np.ndarray) -> Difference:
    first, second = pair.scores
    interval = interval_of(pair, resamples)
    return Difference(
        task=task,
        metric=measure.metric,
        filter=measure.filter,
        items=len(pair.weights),
        first=first,
        second=second,
        difference=second - first,
        interval=interval,
        verdict=_verdict(interval, measure.higher_is_better),
    )


def _over_all(drawn: list[tuple[Paired, np.ndarray]]) -> Difference:
    """The mean over tasks, each with the same weight; items are drawn within their tasks."""
    scores = np.array([pair.scores for pair, _ in drawn])
    first, second = scores.mean(axis=0)
    low, high = np.quantile(np.mean([resamples for _, resamples in drawn], axis=0), [0.025, 0.975])
    # each task's own widening, of which the largest holds for all
    wider = max(_widening(len(pair.weights)) for pair, _ in drawn)
    middle = float(second - first)
    interval = (middle + (float(low) - middle) * wider, middle + (float(high) - middle) * wider)
    return Difference(
        task=ALL,
        metric=MEAN,
        filter="none",
        items=sum(len(pair.weights) for pair, _ in drawn),
        first=float(first),
        second=float(second),
        difference=middle,
        interval=interval,
        verdict=_verdict(interval, True),
    )


def _verdict(interval: tuple[float, float], higher_is_better: bool) -> Verdict:
    low, high = interval
    if low <= 0 <= high:
        return "no difference"
    return "better" if (low > 0) == higher_is_better else "worse"


def _parts(count: int) -> Iterator[int]:
    """The resamples, as many at a time as fit."""
    left, most = _RESAMPLES, max(1, _ROOM // count)
    while left:
        yield min(most, left)
        left -= min(most, left)
