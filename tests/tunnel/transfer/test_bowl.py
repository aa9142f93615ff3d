"""The parabola near a minimum: where it is, and whether the stated intervals hold that often."""

import numpy as np
import pytest

from windtunnel.tunnel.transfer.bowl import _FLATNESS, _SKEW, _Curves, _lowest, bowl, drift

X = [-1.0, -0.5, 0.0, 0.5, 1.0] * 2
SEED = [0] * 5 + [1] * 5


def losses(
    rng: np.random.Generator,
    vertex: float,
    noise: float = 0.004,
    curvature: float = 0.03,
    skew: float = 0.0,
) -> list[float]:
    """Two seeds, of which one is 0.02 nats above the other at every point. Near the vertex all
    bowls are alike; with `skew` s they are (exp(s u) - s u - 1) 2 / s^2, steeper above it.
    """
    found = []
    for x, seed in zip(X, SEED, strict=True):
        u = x - vertex
        height = 2 * (np.expm1(skew * u) - skew * u) / skew**2 if skew else u**2
        found.append(4 + curvature * height + 0.02 * seed + rng.normal(0, noise))
    return found


def test_without_noise_it_is_exact(rng: np.random.Generator) -> None:
    found = bowl(X, losses(rng, 0.13, noise=0.0), SEED)
    assert found
    assert found.vertex == pytest.approx(0.13, abs=1e-4)
    assert found.curvature == pytest.approx(0.03, rel=1e-3)
    assert found.interval == pytest.approx((0.13, 0.13), abs=0.02)
    assert found.regret(1.13) == pytest.approx(0.03, rel=1e-3)


@pytest.mark.parametrize("skew", [-1.2, 1.2])
def test_a_skewed_bowl_is_lowest_where_it_is_lowest(rng: np.random.Generator, skew: float) -> None:
    """A parabola's vertex would be 0.17 octaves on the gentler side."""
    found = bowl(X, losses(rng, 0.05, noise=1e-5, skew=skew), SEED)
    assert found
    assert found.vertex == pytest.approx(0.05, abs=0.02)
    assert found.interval[0] < 0.05 < found.interval[1]
    assert found.curvature == pytest.approx(0.03, rel=0.1)


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


@pytest.mark.parametrize("skew", [0.0, 0.6, 1.2])
def test_ninety_percent_intervals_hold_nine_times_in_ten(
    rng: np.random.Generator, skew: float
) -> None:
    vertices, drifts, rounds = 0, 0, 150
    for _ in range(rounds):
        found = [bowl(X, losses(rng, 0.1 + 0.1 * w, skew=skew), SEED) for w in range(4)]
        bowls = [b for b in found if b]
        vertices += bowls[0].interval[0] <= 0.1 <= bowls[0].interval[1]
        slope = drift([0, 1, 2, 3], bowls)
        drifts += slope.interval[0] <= 0.1 <= slope.interval[1]
    # 90% within three standard errors
    assert 0.82 <= vertices / rounds <= 0.97
    # on the safe side: scatter about the line widens it, and the skew that sizes share does not
    # move their slope
    assert 0.82 <= drifts / rounds <= 0.98


def test_more_seeds_make_a_skewed_bowl_surer_and_not_wrong(rng: np.random.Generator) -> None:
    held, widths = 0, []
    for _ in range(100):
        many, seeds = [], []
        for seed in range(4):
            many += losses(rng, 0.1, noise=0.002, skew=1.2)
            seeds += [2 * seed + which for which in SEED]
        found = bowl(X * 4, many, seeds)
        assert found
        held += found.interval[0] <= 0.1 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert 0.81 <= held / 100 <= 0.98
    assert np.median(widths) < 0.1


def test_scatter_about_the_line_widens_the_drifts_interval(rng: np.random.Generator) -> None:
    straight = [b for v in (0.0, 0.2, 0.4, 0.6) if (b := bowl(X, losses(rng, v, 0.001), SEED))]
    crooked = [b for v in (0.0, 0.6, 0.0, 0.6) if (b := bowl(X, losses(rng, v, 0.001), SEED))]
    widths = [np.diff(drift([0, 1, 2, 3], bowls).interval).item() for bowls in (straight, crooked)]
    assert widths[1] > 5 * widths[0]


def test_what_points_do_not_tell_of_a_bowl_is_as_uncertain_as_it_is_taken_to_be() -> None:
    """A design in which skew and flatness do nothing: they keep their prior, in proportion to the
    curvature.
    """
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    design = np.column_stack([np.ones(5), x, x**2, np.zeros(5), np.zeros(5)])
    for curvature in (0.05, 0.2):
        found = _Curves.of(design, 4 + curvature * x**2, curvature)
        for index, share in ((2, _SKEW), (3, _FLATNESS)):
            assert found.covariances[:, index, index] == pytest.approx((share * curvature) ** 2)
        assert found.mean == pytest.approx([0, curvature, 0, 0], abs=1e-9)


def test_the_lowest_point_of_a_curve_lies_between_those_that_are_looked_at() -> None:
    around = np.linspace(-3, 3, 25)
    curves = np.array([[-2 * at, 1.0, 0.0, 0.0] for at in (-1.9, 0.06, 1.23)])  # (x - at)^2
    assert _lowest(curves, around) == pytest.approx([-1.9, 0.06, 1.23])
    falling = np.array([[-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert list(_lowest(falling, around)) == [3.0, -3.0]
