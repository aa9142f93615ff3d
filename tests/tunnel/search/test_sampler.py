"""The sampler: what expected improvement is, where it looks, and that it finds a known minimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from windtunnel.tunnel.search.sampler import APART, believing, log_improvement, promise, suggest
from windtunnel.tunnel.search.settings import SETTINGS
from windtunnel.tunnel.search.space import Octaves, Space
from windtunnel.tunnel.search.surface import TrialNoise, fit_surface

PAIR = Space((SETTINGS["lr"], SETTINGS["init_std"]))
LOW, HIGH = PAIR.bounds
BEST = np.log2([0.02, 0.07])
NONE_RUNNING = np.empty((0, 2))


def bowl(at: Octaves) -> NDArray[np.float64]:
    """Nats/token: flat near its minimum, with a wall where the rate is too high."""
    lr, init = (at - BEST).T
    return 4.8 + 0.02 * lr**2 + 0.01 * init**2 + 0.3 * np.maximum(0, lr - 1) ** 2


@pytest.mark.parametrize("z", [2.0, 0.0, -0.99, -1.01, -4.0])
def test_expected_improvement_is_the_integral(z: float) -> None:
    """Of a standard normal below z."""
    expected = quad(lambda x: (z - x) * norm.pdf(x), -12, z, epsabs=0, epsrel=1e-10)[0]
    assert log_improvement(np.array([z]))[0] == pytest.approx(np.log(expected), rel=1e-7)


@given(st.floats(-1e4, 1e3), st.floats(-1e4, 1e3))
def test_expected_improvement_rises(a: float, b: float) -> None:
    low, high = log_improvement(np.sort([a, b]))
    assert np.isfinite([low, high]).all()
    assert low <= high or low == pytest.approx(high, rel=1e-14), "but for the last bits"


@settings(max_examples=25)
@given(st.integers(3, 20), st.integers(0, 5), st.integers(0, 1000))
def test_it_stays_within_the_bounds_and_off_what_was_tried(
    tried: int, running: int, seed: int
) -> None:
    points = PAIR.spread(tried + running, seed)
    found = suggest(PAIR, points[:tried], bowl(points[:tried]).tolist(), points[tried:], seed)
    assert (found >= LOW).all() and (found <= HIGH).all()
    assert np.abs(points - found).max(axis=1).min() >= APART


def test_the_same_question_has_the_same_answer() -> None:
    points = PAIR.spread(12, 1)
    asked = [suggest(PAIR, points[:9], bowl(points[:9]).tolist(), points[9:], 5) for _ in range(2)]
    assert asked[0].tolist() == asked[1].tolist()


@pytest.mark.parametrize("batch", [1, 4])
def test_it_finds_the_minimum(batch: int) -> None:
    """Also when it is asked for many at once, and one diverged."""
    tried = PAIR.spread(8, 2)
    losses = np.where(np.arange(8) == 3, bowl(tried).max(), bowl(tried)).tolist()
    while len(tried) < 28:
        running = NONE_RUNNING
        for _ in range(batch):
            running = np.vstack(
                [running, suggest(PAIR, tried, losses, running, len(tried) + len(running))]
            )
        tried, losses = np.vstack([tried, running]), [*losses, *bowl(running)]
    assert min(losses) < 4.8 + 0.002
    chance = bowl(PAIR.spread(28, 2)).min()
    assert min(losses) < chance


def test_when_all_that_was_tried_diverged_it_still_asks() -> None:
    points = PAIR.spread(8, 0)
    found = suggest(PAIR, points, [0.0] * 8, points[:0], 0)
    assert np.isfinite(found).all() and np.abs(points - found).max(axis=1).min() >= APART


def test_a_lucky_run_is_not_what_has_to_be_improved_upon(rng: np.random.Generator) -> None:
    """The promise is of what lies below the best posterior mean, in draws of the surface; not
    below a run that was 0.1 nats lucky.
    """
    points = PAIR.spread(20, 4)
    losses = bowl(points)
    losses[np.argsort(losses)[3]] -= 0.1
    surface = fit_surface(points, losses.tolist(), [0] * 20, TrialNoise(0.01, 0.05))
    best = surface.mean(points).min()
    assert best > losses.min() + 0.03
    grid = PAIR.spread(64, 9)
    promised = promise(surface, grid)
    told = np.isfinite(promised)
    drawn = np.maximum(0.0, best - surface.draws(grid[told], 4000, rng)).mean(0)
    assert np.exp(promised[told]) == pytest.approx(drawn, rel=0.3, abs=5e-4)


def test_what_is_running_is_believed() -> None:
    """It moves no mean, and takes the promise from about it."""
    points = PAIR.spread(10, 4)
    surface = fit_surface(points, bowl(points).tolist(), [0] * 10, TrialNoise(0.01, 0.003))
    grid = PAIR.spread(256, 9)
    first = grid[promise(surface, grid).argmax()][None]
    believed = believing(surface, first)
    assert believed.mean(grid) == pytest.approx(surface.mean(grid), abs=1e-6)
    assert promise(believed, first)[0] == -np.inf
    beside = first + APART * 1.1
    assert promise(believed, beside)[0] < promise(surface, beside)[0]
    assert believing(surface, NONE_RUNNING) is surface


def test_a_point_a_quarter_octave_off_in_one_setting_may_be_asked_for() -> None:
    points = PAIR.spread(6, 4)
    surface = fit_surface(points, bowl(points).tolist(), [0] * 6, TrialNoise(0.01, 0.003))
    low = points[points[:, 0].argmin()]
    beside = low + np.array([[-0.2499, 0.2499], [-0.2501, 0.0], [0.0, 0.0]])
    assert APART == 0.25 and np.isfinite(promise(surface, beside)).tolist() == [False, True, False]


def test_a_promise_is_the_expected_improvement_by_hand() -> None:
    """Of a point whose mean and deviation are known, below the best mean of the points."""
    points = PAIR.spread(8, 4)
    surface = fit_surface(points, bowl(points).tolist(), [0] * 8, TrialNoise(0.01, 0.01))
    at = PAIR.spread(40, 9)
    at = at[np.abs(at[:, None] - points).max(-1).min(1) >= APART]
    best = surface.mean(points).min()
    deviation = np.sqrt(np.diag(surface.covariance(at)))
    z = (best - surface.mean(at)) / deviation
    expected = deviation * (norm.pdf(z) + z * norm.cdf(z))
    assert np.exp(promise(surface, at)) == pytest.approx(expected, rel=1e-6)
