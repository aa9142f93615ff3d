"""The parabola near a minimum: where it is, and whether the stated intervals hold that often."""

import numpy as np
import pytest

from windtunnel.tunnel.transfer.bowl import bowl, drift

X = [-1.0, -0.5, 0.0, 0.5, 1.0] * 2
SEED = [0] * 5 + [1] * 5


def losses(
    rng: np.random.Generator, vertex: float, noise: float = 0.004, curvature: float = 0.03
) -> list[float]:
    """Two seeds, of which one is 0.02 nats above the other at every point."""
    return [
        4 + curvature * (x - vertex) ** 2 + 0.02 * s + rng.normal(0, noise)
        for x, s in zip(X, SEED, strict=True)
    ]


def test_without_noise_it_is_exact(rng: np.random.Generator) -> None:
    found = bowl(X, losses(rng, 0.13, noise=0.0), SEED)
    assert found
    assert found.vertex == pytest.approx(0.13) and found.curvature == pytest.approx(0.03)
    assert found.interval == pytest.approx((0.13, 0.13), abs=1e-6)
    assert found.regret(1.13) == pytest.approx(0.03)


def test_the_difference_between_seeds_is_no_noise(rng: np.random.Generator) -> None:
    found = bowl(X, losses(rng, 0.0, noise=0.001), SEED)
    assert found and found.noise < 0.003


def test_what_curves_downwards_has_no_minimum() -> None:
    assert bowl(X, [-x * x for x in X], SEED) is None


def test_nothing_is_known_outside_of_the_range(rng: np.random.Generator) -> None:
    found = bowl(X, losses(rng, 3.0, noise=0.0), SEED)
    assert found and found.vertex == 1.0 and found.vertices.max() <= 1.0


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="4 points"):
        bowl([0, 1, 2, 3], [1, 0, 1, 4], [0, 0, 1, 1])


def test_ninety_percent_intervals_hold_nine_times_in_ten(rng: np.random.Generator) -> None:
    vertices, drifts, rounds = 0, 0, 150
    for _ in range(rounds):
        found = [bowl(X, losses(rng, 0.1 + 0.2 * w), SEED) for w in range(4)]
        bowls = [b for b in found if b]
        vertices += bowls[0].interval[0] <= 0.1 <= bowls[0].interval[1]
        slope = drift([0, 1, 2, 3], bowls)
        drifts += slope.interval[0] <= 0.2 <= slope.interval[1]
    assert 0.82 <= vertices / rounds <= 0.97  # 90% within three standard errors
    assert 0.82 <= drifts / rounds <= 0.99  # on the safe side: scatter about the line widens it


def test_scatter_about_the_line_widens_the_drifts_interval(rng: np.random.Generator) -> None:
    straight = [b for v in (0.0, 0.2, 0.4, 0.6) if (b := bowl(X, losses(rng, v, 0.001), SEED))]
    crooked = [b for v in (0.0, 0.6, 0.0, 0.6) if (b := bowl(X, losses(rng, v, 0.001), SEED))]
    widths = [np.diff(drift([0, 1, 2, 3], bowls).interval).item() for bowls in (straight, crooked)]
    assert widths[1] > 5 * widths[0]
