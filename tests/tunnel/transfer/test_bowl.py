"""The parabola near a minimum: where it is, and whether the stated intervals hold that often."""

import math

import numpy as np
import pytest

from windtunnel.tunnel.transfer.bowl import Bowl, _Curves, bowl, drift

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
    assert found.loss == pytest.approx(4.01, abs=1e-5), "the mean of two seeds 0.02 apart"


def test_the_loss_is_the_mean_of_the_seeds_however_many_points_each_has() -> None:
    x = [-1.0, -0.5, 0.0, 0.5, 1.0, 0.0, 0.5]
    seed = [0] * 5 + [1] * 2
    found = bowl(x, [4 + 0.03 * u**2 + 0.1 * s for u, s in zip(x, seed, strict=True)], seed)
    assert found and found.loss == pytest.approx(4.05, abs=1e-4)


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
        for index, share in ((2, 0.4), (3, 0.12)):
            assert found.covariances[:, index, index] == pytest.approx((share * curvature) ** 2)
        assert found.mean == pytest.approx([0, curvature, 0, 0], abs=1e-9)


def test_the_noise_is_what_its_prior_and_the_points_say() -> None:
    """By Bayes, with the integral over everything else taken numerically at each noise: a prior
    about 0.005 nats whose logarithm varies by 1.
    """
    rng = np.random.default_rng(2)
    x = np.linspace(-1, 1, 9)
    design = np.column_stack([np.ones(9), x, x**2, np.zeros(9), np.zeros(9)])
    losses = 0.03 * x**2 + rng.normal(0, 0.02, 9)
    losses -= losses.mean()
    found = _Curves.of(design, losses, 0.03)
    assert found.noises[32] == pytest.approx(0.005) and found.noises[0] == pytest.approx(
        0.005 * math.exp(-4)
    )
    basis = design[:, :3]
    residual = losses - basis @ np.linalg.lstsq(basis, losses, rcond=None)[0]
    # three free coefficients take three of the nine powers of the noise
    logs = -float(residual @ residual) / 2 / found.noises**2 - 6 * np.log(found.noises)
    logs -= np.log(found.noises / 0.005) ** 2 / 2
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    assert found.weights == pytest.approx(weights, abs=1e-9)
    assert found.noise == pytest.approx(float(weights @ found.noises))
    # drawn curves scatter as the coefficients' posterior says
    drawn = found.drawn()
    assert drawn.shape == (4000, 4)
    deviation = np.sqrt(weights @ found.covariances[:, 1, 1])
    assert drawn[:, 1].std() == pytest.approx(deviation, rel=0.06)
    assert drawn[:, 1].mean() == pytest.approx(found.mean[1], abs=0.06 * deviation)


def bowl_at(vertex: float, error: float, rng: np.random.Generator) -> Bowl:
    """With normal errors of its vertex."""
    return Bowl(
        vertex=vertex,
        interval=(vertex - 1.645 * error, vertex + 1.645 * error),
        curvature=0.03,
        loss=4.0,
        noise=0.005,
        vertices=vertex + error * rng.standard_normal(4000),
    )


def test_the_spread_of_a_bowl_is_half_of_the_inner_two_thirds(rng: np.random.Generator) -> None:
    # 2/3 of a normal distribution lie within 0.967 standard deviations
    assert bowl_at(1.0, 0.2, rng).spread == pytest.approx(0.967 * 0.2, rel=0.05)


def test_a_drift_is_a_line_weighted_by_the_errors_of_the_vertices(rng: np.random.Generator) -> None:
    """Of three points, of which the last is nearly unknown, the slope is that of the first two."""
    bowls = [bowl_at(at, error, rng) for at, error in ((0.0, 0.01), (0.3, 0.01), (5.0, 10.0))]
    found = drift([0.0, 1.0, 2.0], bowls)
    assert found.slope == pytest.approx(0.3, abs=0.001)


def test_the_interval_of_a_drift_is_that_of_least_squares(rng: np.random.Generator) -> None:
    """Vertices on a line: their own errors alone, 1.645 of the slope's standard error."""
    x = [0.0, 1.0, 2.0, 4.0]
    found = drift(x, [bowl_at(0.2 * at, 0.05, rng) for at in x])
    deviation = 0.05 / math.sqrt(float(((np.array(x) - 1.75) ** 2).sum()))
    low, high = found.interval
    assert found.slope == pytest.approx(0.2)
    reach = (1.645 * deviation, 1.645 * deviation)
    assert (found.slope - low, high - found.slope) == pytest.approx(reach, rel=0.06)


def test_scatter_that_errors_do_not_explain_widens_it_by_birges_ratio(
    rng: np.random.Generator,
) -> None:
    x = [0.0, 1.0, 2.0, 3.0]
    offsets = np.array([0.3, -0.3, -0.3, 0.3])  # without a slope, and without a mean
    straight = drift(x, [bowl_at(0.0, 0.05, np.random.default_rng(i)) for i in range(4)])
    crooked = drift(
        x, [bowl_at(at, 0.05, np.random.default_rng(i)) for i, at in enumerate(offsets)]
    )
    width, wider = (np.diff(one.interval).item() for one in (straight, crooked))
    # chi square over its two degrees of freedom, by the spreads, which are 0.967 of the errors
    ratio = math.sqrt(4 * 0.3**2 / (0.967 * 0.05) ** 2 / 2)
    assert wider / width == pytest.approx(ratio, rel=0.05)
    assert crooked.slope == pytest.approx(0, abs=0.02)


def test_two_bowls_have_a_drift_without_a_scatter(rng: np.random.Generator) -> None:
    found = drift([0.0, 1.0], [bowl_at(0.0, 0.05, rng), bowl_at(0.3, 0.05, rng)])
    low, high = found.interval
    assert found.slope == pytest.approx(0.3)
    assert (high - low) / 2 == pytest.approx(1.645 * 0.05 * math.sqrt(2), rel=0.06)


def test_bowls_without_noise_have_an_error_all_the_same(rng: np.random.Generator) -> None:
    """Of a thousandth of an octave: else one would weigh without end."""
    found = drift([0.0, 1.0, 2.0], [bowl_at(at, 0.0, rng) for at in (0.0, 0.5, 0.4)])
    assert found.slope == pytest.approx(0.2)


def test_the_curvature_is_half_of_the_second_derivative_at_the_vertex() -> None:
    """Of u^2 + 0.2 u^3 + 0.1 u^4 about a vertex that lies off the centre of the points."""
    x = np.linspace(-2, 2, 41)
    u = x - 0.5
    found = bowl(x.tolist(), (4 + 0.1 * (u**2 + 0.2 * u**3 + 0.1 * u**4)).tolist(), [0] * 41)
    assert found
    assert found.vertex == pytest.approx(0.5, abs=1e-3)
    assert found.curvature == pytest.approx(0.1, rel=0.01)


def test_five_points_of_one_seed_are_enough_and_four_of_two_are_not() -> None:
    """More points than a constant a seed, a slope and a curvature."""
    points = [-1.0, 0.0, 1.0, 2.0]
    losses = [x * x for x in points]
    assert bowl(points, losses, [0] * 4)
    with pytest.raises(ValueError, match="4 points can't tell a parabola of 4 parameters"):
        bowl(points, losses, [0, 0, 1, 1])


def test_seeds_may_be_any_numbers(rng: np.random.Generator) -> None:
    measured = losses(rng, 0.1, noise=0.0)
    found = [bowl(X, measured, seeds) for seeds in (SEED, [7] * 5 + [-2] * 5)]
    assert found[0] and found[1] and found[0].vertex == pytest.approx(found[1].vertex)
