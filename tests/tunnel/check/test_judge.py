"""Slopes with their intervals, and what of them passes."""

import math

import numpy as np
import pytest

from windtunnel.tunnel.check.judge import passes, slope_of


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
