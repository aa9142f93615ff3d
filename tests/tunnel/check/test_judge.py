"""Slopes with their intervals, and what of them passes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from windtunnel.recipe import Recipe
from windtunnel.results.check import Axis, Slope
from windtunnel.tunnel.check.judge import SizeReadings, causes_of, judge, passes, slope_of
from windtunnel.tunnel.check.probe import Reading


def test_the_slope_of_a_power_law_and_its_interval() -> None:
    sizes = [32, 64, 128]
    exact = [[3 * size**-0.5] * 4 for size in sizes]
    assert slope_of(sizes, exact) == pytest.approx((-0.5, -0.5, -0.5))
    slopes = np.array([0.1, 0.2, 0.3])
    mean, low, high = slope_of(sizes, [(size**slopes).tolist() for size in sizes])
    # Student's t of 2 degrees of freedom at 97.5%: 4.3027
    assert (mean, high - mean, mean - low) == pytest.approx(
        (0.2, 4.3027 * 0.1 / math.sqrt(3), 4.3027 * 0.1 / math.sqrt(3)), rel=1e-4
    )


def test_what_has_no_slope_does_not_pass() -> None:
    assert slope_of([1, 2], [[0.0, 0.0], [0.0, 0.0]]) == (0.0, 0.0, 0.0)
    for bad in (0.0, -1.0, math.inf, math.nan):
        assert all(map(math.isnan, slope_of([1, 2], [[1.0, 1.0], [1.0, bad]])))
        assert not passes(*slope_of([1, 2], [[1.0, 1.0], [1.0, bad]]), (-9, 9))


@pytest.mark.parametrize(
    ("slope", "low", "high", "good"),
    [
        (0.09, 0.0, 0.18, True),
        (0.11, 0.1, 0.12, False),
        (0.05, -0.21, 0.31, False),
        (-0.59, -0.69, -0.5, True),
    ],
)
def test_the_verdict_takes_the_slope_and_its_interval(
    slope: float, low: float, high: float, good: bool
) -> None:
    assert passes(slope, low, high, (-0.5, 0.0)) is good


@pytest.mark.parametrize(
    ("slope", "reach", "good"),
    [
        (0.099, 0.05, True),
        (0.101, 0.05, False),
        (-0.599, 0.05, True),
        (-0.601, 0.05, False),
        (0.0, 0.199, True),
        (0.0, 0.201, False),
        (-0.5, 0.199, True),
        (-0.5, 0.201, False),
    ],
)
def test_a_slope_may_be_a_tenth_off_and_its_interval_a_fifth(
    slope: float, reach: float, good: bool
) -> None:
    assert passes(slope, slope - reach, slope + reach, (-0.5, 0.0)) is good


SEEDS = 3
Powers = dict[tuple[str, str, int], float]


@pytest.fixture
def judged(recipe: Callable[..., Recipe]) -> Callable[..., list[Slope]]:
    """The slopes of readings that go as a power of the size, without noise."""

    def found(
        powers: Powers, axis: Axis = "width", sizes: Sequence[int] = (32, 64, 128), **more: Any
    ) -> list[Slope]:
        def readings(size: int) -> list[Reading]:
            return [
                Reading(t, quantity, statistic, (size**power,) * SEEDS)
                for (quantity, statistic, t), power in powers.items()
            ]

        every = [
            SizeReadings(axis=axis, size=size, recipe=recipe(), readings=readings(size))
            for size in sizes
        ]
        return judge(every, axis, more.pop("parametrization", "minicpm"), **more)

    return found


Judged = Callable[..., list[Slope]]


def test_what_the_theory_speaks_of_is_judged_and_nothing_else(judged: Judged) -> None:
    """Factors of the table are judged by their effect, but for decay, which has none."""
    powers = {
        ("logits", "value", 30): 0.0,
        ("logits", "value", 29): -0.5,
        ("matrix", "update", 3): 1.0,
        ("matrix lr", "rule", 0): -1.0,
        ("matrix decay", "rule", 0): 0.0,
    }
    found = judged(powers)
    assert [(one.quantity, one.statistic, one.t) for one in found] == [
        ("logits", "value", 30),
        ("logits", "value", 29),
        ("matrix decay", "rule", 0),
    ]
    assert {one.verdict for one in found} == {"pass"} and {one.axis for one in found} == {"width"}
    assert found[1].slope == pytest.approx(-0.5) and found[1].expected == (-0.5, 0.0)
    assert all(one.causes == () for one in found)


def test_one_size_or_the_other_axis_has_no_slope(judged: Judged) -> None:
    powers: Powers = {("logits", "value", 30): 0.0}
    assert judged(powers, sizes=(32,)) == []
    assert len(judged(powers, sizes=(32, 64))) == 1
    assert judged(powers, axis="depth")[0].axis == "depth"


@pytest.mark.parametrize(("off", "broken"), [(0.0, False), (0.019, False), (0.021, True)])
def test_a_factor_of_the_table_is_broken_where_its_slope_is_a_fiftieth_off(
    judged: Judged, off: float, broken: bool
) -> None:
    powers = {("logits", "value", 30): 1.0, ("matrix lr", "rule", 0): -1.0 + off}
    (found,) = judged(powers)
    assert found.verdict == "fail"
    (cause,) = found.causes
    named = f"hidden lr not 1/m (slope {-1 + off:+.2f}, expected -1.00)"
    assert cause == (
        named
        if broken
        else "no rule of the table is broken: the sizes are too small, or the rate too small or "
        "large for the steps"
    )


def test_a_rule_acts_on_what_it_can_act_on(judged: Judged) -> None:
    """No rate before the first step; decay and eps on nothing but themselves; an update by its own
    init and rate.
    """
    broken = ("matrix lr", "matrix init", "matrix eps", "matrix decay", "embedding lr")
    powers: Powers = {(name, "rule", 0): 2.0 for name in broken}
    powers |= {
        ("logits", "value", 0): 1.0,
        ("logits", "value", 1): 1.0,
        ("matrix", "update", 1): 1.0,
        ("matrix", "eps", 1): 1.0,
    }
    named = {
        "matrix lr": "hidden lr not",
        "matrix init": "hidden init not",
        "matrix eps": "hidden Adam eps not",
        "matrix decay": "hidden weight decay not",
        "embedding lr": "embedding lr not",
    }
    found = {(one.quantity, one.statistic, one.t): one for one in judged(powers)}
    acting = {
        ("logits", "value", 0): ["matrix init"],
        ("logits", "value", 1): ["matrix lr", "matrix init", "embedding lr"],
        ("matrix", "update", 1): ["matrix init", "matrix lr"],
        ("matrix", "eps", 1): ["matrix eps"],
        ("matrix decay", "rule", 0): ["matrix decay"],
    }
    assert set(found) == set(acting)
    for key, names in acting.items():
        begun = sorted(named[name] for name in names)
        assert sorted(cause.split(" not")[0] + " not" for cause in found[key].causes) == begun, key


def test_the_last_norms_eps_has_the_rule_of_gains(judged: Judged) -> None:
    powers = {("last gain", "eps", 1): 1.0, ("gain eps", "rule", 0): 2.0}
    (found,) = judged(powers)
    assert found.expected == (-1.0, 0.0)
    assert found.causes[0].startswith("gain Adam eps not 1/m")


def test_an_eps_that_changes_nothing_is_not_judged(
    judged: Judged, recipe: Callable[..., Recipe]
) -> None:
    """Below a hundredth of the gradient at every size; above it at one is enough."""

    def with_eps(largest: float) -> list[Slope]:
        sizes = [
            SizeReadings(
                axis="width",
                size=size,
                recipe=recipe(),
                readings=[Reading(1, "matrix", "eps", (share,) * SEEDS)],
            )
            for size, share in ((32, 0.001), (64, largest))
        ]
        return judge(sizes, "width", "minicpm")

    assert with_eps(0.0099) == []
    assert [one.verdict for one in with_eps(0.0101)] == ["fail"]


def test_what_could_not_be_measured_fails_without_a_number(recipe: Callable[..., Recipe]) -> None:
    sizes = [
        SizeReadings(
            axis="width",
            size=size,
            recipe=recipe(),
            readings=[
                Reading(30, "logits", "value", (1.0, 1.0, value)),
                Reading(0, "matrix lr", "rule", (1 / size, 1 / size, value)),
            ],
        )
        for size, value in ((32, 1.0), (64, math.nan))
    ]
    (found,) = judge(sizes, "width", "minicpm")
    assert (found.slope, found.low, found.high, found.verdict) == (None, None, None, "fail")
    assert found.causes == ("hidden lr not 1/m (slope +nan, expected -1.00)",)


def test_an_interval_that_reaches_what_is_allowed_is_too_wide_to_tell(
    recipe: Callable[..., Recipe],
) -> None:
    def with_slopes(*slopes: float) -> Slope:
        sizes = []
        for size in (32, 64):
            values = tuple(size**slope for slope in slopes)
            readings = [Reading(30, "logits", "value", values)]
            sizes.append(SizeReadings(axis="width", size=size, recipe=recipe(), readings=readings))
        (found,) = judge(sizes, "width", "minicpm")
        return found

    wide, apart, below = (with_slopes(x - 0.3, x, x + 0.3) for x in (0.5, 0.9, -0.9))
    # Student's t of 2 degrees of freedom at 97.5%: a reach of 4.3027 * 0.3 / sqrt(3) = 0.745
    assert wide.causes == ("the interval is too wide to tell: more seeds",)
    assert apart.causes[0].startswith("no rule of the table is broken")
    assert below.causes[0].startswith("no rule of the table is broken")


def test_causes_of_an_axis_are_the_most_frequent_first_and_named_ones_before_all() -> None:
    def slope(axis: Axis, *causes: str) -> Slope:
        return Slope(
            axis=axis,
            quantity="logits",
            statistic="value",
            t=1,
            slope=1.0,
            low=1.0,
            high=1.0,
            expected=(0.0, 0.0),
            verdict="fail",
            causes=causes,
        )

    unknown = "the interval is too wide to tell: more seeds"
    slopes = [
        slope("width", "rare", "often"),
        slope("width", "often"),
        slope("width", unknown),
        slope("depth", unknown),
        slope("depth"),
    ]
    assert causes_of(slopes, "width") == ("often", "rare")
    assert causes_of(slopes, "depth") == (unknown,)
    assert causes_of([], "width") == ()
