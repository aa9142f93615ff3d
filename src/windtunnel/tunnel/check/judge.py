"""Slopes of what was read against the size of the model, held against the theory, and the probable
causes where they differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from windtunnel.recipe import Recipe
from windtunnel.results.check import Axis, Slope
from windtunnel.tunnel.check import theory
from windtunnel.tunnel.check.probe import Reading

CLOSE = 0.1  # how far a slope may lie from what the theory allows
FAR = 0.2  # how far its interval may reach from it
_CONFIDENCE = 0.95
_RULE = 0.02  # a factor of the table is measured without noise but for the draw of the init
_TOO_WIDE = "the interval is too wide to tell: more seeds"
_NO_RULE = (
    "no rule of the table is broken: the sizes are too small, or the rate too small or large for "
    "the steps"
)

# what a slope is of: quantity, statistic, and steps trained
_Key = tuple[str, str, int]
# of each size, a number for each seed
_Values = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class SizeReadings:
    """The readings of one size on one axis."""

    axis: Axis
    size: int
    recipe: Recipe
    readings: list[Reading]


def judge(
    sizes: Sequence[SizeReadings], axis: Axis, parametrization: str, optimizer: str = "adamw"
) -> list[Slope]:
    """The slope of everything the theory speaks of, with verdicts and causes."""
    here = [one for one in sizes if one.axis == axis]
    if len(here) < 2:
        return []
    table: dict[_Key, list[tuple[float, ...]]] = {}
    for one in here:
        for reading in one.readings:
            key = (reading.quantity, reading.statistic, reading.t)
            table.setdefault(key, []).append(reading.values)
    along = [one.size for one in here]
    broken = _broken(table, along, theory.rules(axis, parametrization))
    found = []
    for (quantity, statistic, t), values in table.items():
        expected = theory.allowed(axis, parametrization, quantity, statistic, t, optimizer)
        if expected is None:
            continue
        if statistic == "eps" and np.max(values) < theory.NEGLIGIBLE_EPS:
            continue
        # a slope that could not be measured is NaN, which passes nothing and which JSON has not
        slope, low, high = slope_of(along, values)
        good = passes(slope, low, high, expected)
        causes: tuple[str, ...] = ()
        if not good:
            acting = _acting_on(quantity, statistic, t, broken)
            causes = acting or (_unexplained((low, high), expected),)
        measured = not np.isnan(slope)
        found.append(
            Slope(
                axis=axis,
                quantity=quantity,
                statistic=statistic,
                t=t,
                slope=slope if measured else None,
                low=low if measured else None,
                high=high if measured else None,
                expected=expected,
                verdict="pass" if good else "fail",
                causes=causes,
            )
        )
    return found


def slope_of(sizes: Sequence[int], values: _Values) -> tuple[float, float, float]:
    """Slope of log2 on log2 and its 95% interval (Student's t over seeds). `values`: (sizes,
    seeds); what is zero at every size has slope 0, what is zero or not finite at some has none
    (NaN).
    """
    table = np.asarray(values, float)
    if not table.any():
        return 0.0, 0.0, 0.0
    if not (np.isfinite(table).all() and (table > 0).all()):
        return np.nan, np.nan, np.nan
    # least squares of each seed by itself: slope = sum x (y - mean y) / sum x^2, with x centred
    x = np.log2(sizes) - np.log2(sizes).mean()
    slopes = x @ np.log2(table) / (x @ x)
    seeds = len(slopes)
    mean = float(slopes.mean())
    quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, seeds - 1)
    half = float(quantile * slopes.std(ddof=1) / np.sqrt(seeds))
    return mean, mean - half, mean + half


def passes(slope: float, low: float, high: float, expected: tuple[float, float]) -> bool:
    """Whether a slope lies close to what is allowed, and its interval does not reach far from it.
    NaN does not pass.
    """
    close = expected[0] - CLOSE <= slope <= expected[1] + CLOSE
    return close and expected[0] - FAR <= low and high <= expected[1] + FAR


def causes_of(slopes: Sequence[Slope], axis: Axis) -> tuple[str, ...]:
    """The causes of an axis' failures, each once, the most frequent first; what has no rule for a
    cause counts only where no rule is broken, since a broken rule carries everything else with
    it.
    """
    found: list[str] = []
    for slope in slopes:
        if slope.axis == axis:
            found += slope.causes
    named = [cause for cause in found if cause not in (_TOO_WIDE, _NO_RULE)] or found
    return tuple(sorted(dict.fromkeys(named), key=lambda cause: -found.count(cause)))


def _broken(
    table: Mapping[_Key, _Values], sizes: Sequence[int], rules: Mapping[str, tuple[float, str]]
) -> dict[str, str]:
    """The factors of the table of roles that go otherwise than the theory has it, and how."""
    found = {}
    for name, (expected, fault) in rules.items():
        values = table.get((name, "rule", 0))
        slope = slope_of(sizes, values)[0] if values else expected
        if not abs(slope - expected) <= _RULE:  # a slope that is NaN is broken, too
            found[name] = f"{fault} (slope {slope:+.2f}, expected {expected:+.2f})"
    return found


def _acting_on(quantity: str, statistic: str, t: int, broken: Mapping[str, str]) -> tuple[str, ...]:
    """Broken rules that can act on the quantity: its own for updates, decay and eps; no rates
    before the first step. Decay and eps are too small to act on anything else.
    """
    own = {
        "rule": [quantity],
        "eps": ["gain eps" if quantity == theory.LAST_GAIN else f"{quantity} eps"],
        "update": [f"{quantity} init", f"{quantity} lr"],
    }
    if statistic in own:
        names = own[statistic]
    else:
        idle = (" decay", " eps") if t else (" decay", " eps", " lr")
        names = [name for name in broken if not name.endswith(idle)]
    return tuple(broken[name] for name in names if name in broken)


def _unexplained(interval: tuple[float, float], expected: tuple[float, float]) -> str:
    """What to say of a failure that no broken rule explains."""
    overlap = interval[0] <= expected[1] and expected[0] <= interval[1]
    return _TOO_WIDE if overlap else _NO_RULE
