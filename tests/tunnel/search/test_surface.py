"""What a search reads off its surface: the noise of its trials, and what each setting explains."""

from typing import Any

import numpy as np
import pytest

from windtunnel.tunnel.search.surface import importances, noise_of


def test_noise_is_told_apart_into_that_of_seeds_and_that_of_runs(rng: np.random.Generator) -> None:
    """Points that differ are no noise; what a seed does to all of them is a part of its own."""
    points, seeds = rng.normal(size=(300, 1)), 0.03 * rng.normal(size=(1, 200))
    found = noise_of((points + seeds + 0.01 * rng.normal(size=(300, 200))).tolist())
    assert found
    assert (found.seed, found.run) == pytest.approx((0.03, 0.01), rel=0.15)


def test_noise_of_two_points_and_two_seeds_by_hand() -> None:
    """Rest +-0.01: mean square 4e-4 with one degree of freedom. Means of seeds 1.02 and 1.10:
    variance 32e-4, of which 2e-4 are the runs'.
    """
    found = noise_of([[1.01, 1.11], [1.03, 1.09]])
    assert found and found.run**2 == pytest.approx(4e-4)
    assert found.seed**2 == pytest.approx(32e-4 - 2e-4)


@pytest.mark.parametrize("losses", [[], [[1.0, 2.0]], [[1.0], [2.0]]])
def test_one_point_or_one_seed_tells_no_noise(losses: list) -> None:
    assert noise_of(losses) is None


class Known:
    """A surface that is known: 2 x + y, from -1 to 1 each."""

    bounds = np.array([-1.0, -1.0]), np.array([1.0, 1.0])

    def __init__(self, *slopes: float) -> None:
        self.slopes = np.array(slopes)

    def mean(self, at: np.ndarray) -> np.ndarray:
        return at @ self.slopes

    def spread(self, count: int, seed: int) -> np.ndarray:
        even = (np.arange(32) + 0.5) / 16 - 1
        return np.stack(np.meshgrid(even, even), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(
    ("slopes", "shares"), [((2, 1), (0.8, 0.2)), ((3, 0), (1.0, 0.0)), ((0, 0), (0.0, 0.0))]
)
def test_a_setting_explains_its_share_of_the_variance(
    slopes: tuple[float, float], shares: tuple[float, float]
) -> None:
    known: Any = Known(*slopes)
    assert importances(known, known) == pytest.approx(shares, abs=0.02)
