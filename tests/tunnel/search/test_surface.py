"""The surface through runs, held against the formulas of Gaussian processes; and what a search
reads off it.
"""

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import gamma, kv
from scipy.stats import multivariate_normal, norm

from windtunnel.tunnel.search.settings import SETTINGS
from windtunnel.tunnel.search.space import Octaves, Space
from windtunnel.tunnel.search.surface import (
    Surface,
    TrialNoise,
    Vector,
    expected_gain,
    fit_surface,
    importances,
    minus_log_likelihood,
    noise_of,
    profiles,
)

Normal: Any = multivariate_normal
PAIR = Space((SETTINGS["lr"], SETTINGS["init_std"]))
POINTS = np.array([[0.0, 0.0], [1.0, 0.5], [-1.0, 2.0], [0.4, -0.7], [2.0, 1.0]])
HEIGHTS = np.array([4.0, 4.1, 4.3, 4.05, 4.2])
SEEDS = np.array([0, 0, 1, 1, 2])
LENGTHS, HEIGHT, NOISE = np.array([1.5, 3.0]), 0.3, TrialNoise(0.05, 0.02)
ELSEWHERE = np.array([[0.2, 0.1], [1.5, -1.0], [-3.0, 3.0]])


def surface(heights: Vector = HEIGHTS, noise: TrialNoise = NOISE) -> Surface:
    return Surface(POINTS, heights, LENGTHS, HEIGHT, noise, 4.0, SEEDS)


def matern(a: Octaves, b: Octaves, lengths: Vector, height: float) -> Vector:
    """By the general formula (Rasmussen and Williams, eq. 4.14) with nu = 5/2."""
    far = np.sqrt((((a[:, None] - b[None]) / lengths) ** 2).sum(-1))
    scaled = np.sqrt(5) * np.maximum(far, 1e-9)
    return height**2 * 2 ** (1 - 2.5) / gamma(2.5) * scaled**2.5 * kv(2.5, scaled)


def measured_covariance(lengths: Vector, height: float, noise: TrialNoise) -> Vector:
    """Of the measured heights, without the level."""
    same = (SEEDS[:, None] == SEEDS[None]).astype(float)
    between = noise.seed**2 * same + noise.run**2 * np.eye(len(SEEDS))
    return matern(POINTS, POINTS, lengths, height) + between


def log_density(residual: Vector, covariance: Vector) -> float:
    """Of a normal distribution about zero."""
    return float(Normal(cov=covariance).logpdf(residual))


def test_the_posterior_is_that_of_a_process_whose_level_may_be_any() -> None:
    """A level of which nothing is known is a constant with a very wide prior."""
    wide = 1e4
    measured = measured_covariance(LENGTHS, HEIGHT, NOISE) + wide
    across = matern(ELSEWHERE, POINTS, LENGTHS, HEIGHT) + wide
    found = surface()
    mean = across @ np.linalg.solve(measured, HEIGHTS)
    assert found.mean(ELSEWHERE) == pytest.approx(mean, abs=1e-4)
    # the level counts as known in the covariance: differences of points are what it is asked for
    known = measured_covariance(LENGTHS, HEIGHT, NOISE)
    here = matern(ELSEWHERE, POINTS, LENGTHS, HEIGHT)
    prior = matern(ELSEWHERE, ELSEWHERE, LENGTHS, HEIGHT)
    expected = prior - here @ np.linalg.solve(known, here.T)
    assert found.covariance(ELSEWHERE) == pytest.approx(expected, abs=1e-9)


def test_draws_have_the_posteriors_mean_and_covariance(rng: np.random.Generator) -> None:
    found = surface()
    drawn = found.draws(ELSEWHERE, 40_000, rng)
    assert drawn.shape == (40_000, 3)
    assert drawn.mean(0) == pytest.approx(found.mean(ELSEWHERE), abs=0.006)
    assert np.cov(drawn.T) == pytest.approx(found.covariance(ELSEWHERE), rel=0.05, abs=0.001)


def test_the_likelihood_is_that_of_the_measured_heights() -> None:
    """Up to a constant: a difference of two."""

    def true(heights: Vector, noise: TrialNoise) -> float:
        level = surface(heights, noise)._level
        covariance = measured_covariance(LENGTHS, HEIGHT, noise)
        return -log_density(heights - level, covariance)

    moved = np.array([0.1, -0.2, 0.0, 0.05, 0.3])
    others = HEIGHTS + moved, TrialNoise(0.01, 0.1)
    apart = minus_log_likelihood(surface(*others))[0] - minus_log_likelihood(surface())[0]
    assert apart == pytest.approx(true(*others) - true(HEIGHTS, NOISE), rel=1e-6)


def test_heights_are_losses_near_the_best_and_grow_as_a_logarithm_far_above() -> None:
    losses = [4.0, 4.001, 4.25, 4.0 + 0.25 * (math.e**4 - 1), 4.1]
    found = fit_surface(POINTS, losses, SEEDS.tolist(), NOISE)
    expected = [4.0, 4.001, 4 + 0.25 * math.log(2), 5.0, 4 + 0.25 * math.log(1.4)]
    assert found.heights == pytest.approx(expected, abs=3e-6)
    assert [found.loss(height) for height in found.heights] == pytest.approx(losses)
    assert found.floor == 4.0 and found.loss(3.9) == pytest.approx(3.9)
    assert found.noise is NOISE


def test_lengths_height_and_noise_are_the_likeliest_with_their_priors() -> None:
    """Medians of 3 octaves, 0.3, 0.012 and 0.005 nats, with logarithms that vary by 0.7, 1, 0.7
    and 1; whatever is moved from what was found is less likely.
    """
    losses = [4.0, 4.02, 4.2, 4.03, 4.1]
    centre = np.log([3.0, 3.0, 0.3, 0.012, 0.005])
    spread = np.array([0.7, 0.7, 1.0, 0.7, 1.0])
    found = fit_surface(POINTS, losses, SEEDS.tolist())
    logs = np.log([*found.lengths, found.height, found.noise.seed, found.noise.run])

    def unlikely(logs: Vector) -> float:
        *lengths, height, seed, run = np.exp(logs)
        noise = TrialNoise(seed, run)
        other = Surface(POINTS, found.heights, np.array(lengths), height, noise, 4.0, SEEDS)
        covariance = measured_covariance(np.array(lengths), height, noise)
        residual = found.heights - other._level
        prior = norm.logpdf(logs, centre, spread).sum()
        return -log_density(residual, covariance) - float(prior)

    for axis in range(5):
        for step in (-0.05, 0.05):
            moved = logs + step * np.eye(5)[axis]
            assert unlikely(moved) > unlikely(logs) - 1e-6, axis
    gradient = [unlikely(logs + 1e-4 * e) - unlikely(logs - 1e-4 * e) for e in np.eye(5)]
    assert np.array(gradient) / 2e-4 == pytest.approx(0, abs=2e-3)


def test_what_is_above_a_point_has_the_interval_of_a_difference() -> None:
    found = surface()
    at, reference = ELSEWHERE[0], POINTS[0]
    both = np.stack([at, reference])
    here, there = found.mean(both)
    covariance = found.covariance(both)
    error = 1.6449 * math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    ends = [found.loss(height) - found.loss(there) for height in (here, here - error, here + error)]
    assert found.above(at, reference) == pytest.approx(ends)
    assert found.above(at, at) == pytest.approx((0, 0, 0), abs=1e-6)
    assert ends[1] < ends[0] < ends[2]


def test_profiles_go_from_end_to_end_of_every_setting_about_the_chosen_point() -> None:
    low, high = PAIR.bounds
    tried = PAIR.spread(24, 1)
    best = (low + high) / 2
    losses = 4 + 0.05 * ((tried - best) ** 2) @ [1.0, 0.4]
    found = profiles(fit_surface(tried, losses.tolist(), [0] * 24), PAIR, best)
    assert [len(profile.octaves) for profile in found] == [13, 13]
    for axis, profile in enumerate(found):
        assert (profile.octaves[0], profile.octaves[-1]) == pytest.approx((low[axis], high[axis]))
        middle = profile.octaves[6]
        assert middle == pytest.approx(best[axis], abs=0.51)
        # of a bowl along one axis the other setting's best stays where it is
        bend = 0.05 * (1.0, 0.4)[axis]
        for x, (mean, less, more) in zip(profile.octaves, profile.above, strict=True):
            assert mean == pytest.approx(bend * (x - best[axis]) ** 2, abs=0.03)
            assert less <= mean <= more
        assert profile.best[0] < best[axis] < profile.best[1]
        assert profile.best[1] - profile.best[0] < 1.5


class Drawn:
    """A surface of which draws are known: the chosen point is 0, the second and the third differ
    from it by normal numbers of their own, and all others are worse.
    """

    bounds = PAIR.bounds

    def draws(self, at: Octaves, count: int, rng: np.random.Generator) -> Vector:
        drawn = np.ones((count, len(at)))
        drawn[:, 0] = 0.0
        drawn[:, 1:3] = rng.standard_normal((count, 2))
        return drawn


def test_what_more_trials_gain_is_the_mean_of_the_best_of_them() -> None:
    known: Any = Drawn()
    middle = np.mean(PAIR.bounds, axis=0)
    none, one, both, further = expected_gain(known, PAIR, middle, (0, 1, 2, 5))
    # E max(0, X) = 1 / sqrt(2 pi), and E max(0, X, Y) is larger by the root of 1/2
    first = 1 / math.sqrt(2 * math.pi)
    assert none == 0
    assert one == pytest.approx(first, abs=0.06)
    assert both == pytest.approx(first * (1 + math.sqrt(0.5)), abs=0.07)
    assert further == both, "the others are never better"


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
