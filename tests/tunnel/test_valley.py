"""The valley of losses whose best batch is known."""

from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
from scipy.optimize import brentq

from windtunnel.tunnel.design import LEAST_BATCHES
from windtunnel.tunnel.valley import (
    _FLATNESS,
    _SKEW,
    LossGrid,
    Valley,
    _Bowl,
    _fitted,
    _whitened,
    valleys,
)

BATCHES = 2.0 ** np.arange(8, 14)
TOKENS = 2e5 * 2.0 ** np.arange(4)
C, K = 5e5, 4.0  # best batch: c / L^k, 1170 at a loss of 4.55

# the log of what a batch wastes, over its octaves from the best one
CONTOURS: dict[str, Callable[[float], float]] = {
    "parabola": lambda off: 0.08 * off**2,
    "hyperbola": lambda off: float(np.log((1 + 0.3 * np.cosh(off * np.log(2))) / 1.3)),
    "skewed": lambda off: 0.08 * off**2 - 0.01 * off**3 + 0.002 * off**4,
}


def grid_of(
    contour: str = "hyperbola", best: Callable[[float], float] = lambda loss: C / loss**K
) -> LossGrid:
    """Losses on contours whose lowest points are given: the best batch of each loss."""

    def loss(batch: float, tokens: float) -> float:
        def beyond(level: float) -> float:
            needed = np.log(1e6) - 14 * np.log(level / 4.6)
            needed += CONTOURS[contour](np.log2(batch / best(level)))
            return needed - np.log(tokens)

        return brentq(beyond, 2.0, 12.0)

    return LossGrid(BATCHES, TOKENS, np.array([[loss(b, t) for t in TOKENS] for b in BATCHES]))


def three_term(rng: np.random.Generator, stem: float, own: float) -> list[LossGrid]:
    """Three sizes of a three-term law, whose best batch is 1.75 D^0.5; with noise in nats/token."""
    grids = []
    for size in range(3):
        steps = TOKENS / BATCHES[:, None]
        loss = 3 + 0.2 * size + 6 * steps**-0.3 + 8.4 * BATCHES[:, None] ** -0.3
        loss += stem * rng.standard_normal((len(BATCHES), 1))
        grids.append(LossGrid(BATCHES, TOKENS, loss + own * rng.standard_normal(loss.shape)))
    return grids


@pytest.mark.parametrize("contour", CONTOURS)
def test_a_length_has_the_best_batch_of_the_contour_that_it_touches(contour: str) -> None:
    """The best batch at a length is the lowest point of the contour of its loss."""
    (found,) = valleys([grid_of(contour)]).by_grid
    assert [valley.tokens for valley in found] == TOKENS.tolist()
    for valley in found:
        assert valley.where == "inside"
        assert valley.batch == pytest.approx(C / valley.loss**K, rel=0.015)
        assert valley.loss == pytest.approx(4.6 * (valley.tokens / 1e6) ** (-1 / 14), rel=2e-4)


def test_a_three_term_law_has_its_best_batches(rng: np.random.Generator) -> None:
    for valley in chain(*valleys(three_term(rng, 0.0, 0.0)).by_grid):
        assert valley.batch == pytest.approx((8.4 / 6) ** (1 / 0.6) * valley.tokens**0.5, rel=0.005)


def test_skew_and_flatness_are_those_of_the_bowls() -> None:
    off = np.log2(BATCHES)[:, None] - [9.9, 10.2, 10.5, 10.8]
    losses = 4 + 0.04 * (off**2 + 0.12 * off**3 + 0.03 * off**4)
    found = valleys([LossGrid(BATCHES, TOKENS, losses)] * 2)
    assert found.skew == pytest.approx(0.12, rel=0.02)
    assert found.flatness == pytest.approx(0.03, rel=0.05)
    for valley, true in zip(found.by_grid[0], [9.9, 10.2, 10.5, 10.8], strict=True):
        assert valley.batch and np.log2(valley.batch) == pytest.approx(true, abs=0.005)
        assert valley.loss == pytest.approx(4, abs=1e-4)


def test_three_points_leave_skew_and_flatness_to_what_bowls_are_known_to_have() -> None:
    """The lowest batch is the first of four: a parabola goes through it and the two next to it."""
    losses = 4 + 0.04 * (np.log2(BATCHES[:4]) - 8.2)[:, None] ** 2
    grid = LossGrid(BATCHES[:4], TOKENS[:1], losses)
    fit = _fitted([_Bowl.of(0, grid, 0)])
    assert fit.bowls[0].x.tolist() == [8, 9, 10]
    assert fit.mean[-2:] == pytest.approx([0, 0], abs=1e-9)
    assert fit.drawn(20_000)[:, -2:].std(0) == pytest.approx([_SKEW, _FLATNESS], rel=0.03)


def test_noise_is_measured_and_intervals_hold_the_truth() -> None:
    """25 studies with noise of stems and of points, 12 best batches each. Those of a study share
    much of their error, hence the wide margin.
    """
    held, errors, sigmas = [], [], []
    for seed in range(25):
        found = valleys(three_term(np.random.default_rng(seed), 0.004, 0.006))
        sigmas.append(found.noise)
        for valley in chain(*found.by_grid):
            true = (8.4 / 6) ** (1 / 0.6) * valley.tokens**0.5
            assert valley.interval
            held.append(valley.interval[0] <= true <= valley.interval[1])
            errors.append(np.log(valley.batch / true))
    assert np.mean(sigmas) == pytest.approx(np.hypot(0.004, 0.006), rel=0.15)
    assert abs(np.mean(errors)) < 0.03
    assert 0.84 < np.mean(held) < 0.97, np.mean(held)


@pytest.mark.parametrize(("stem", "own", "alike"), [(0.01, 0.001, True), (0.0, 0.01, False)])
def test_lengths_of_a_size_share_the_error_that_their_stems_share(
    stem: float, own: float, alike: bool
) -> None:
    """How far the last two lengths of a size move together in the draws, over ten studies."""
    together = []
    for seed in range(10):
        found = valleys(three_term(np.random.default_rng(seed), stem, own))
        for size in found.by_grid:
            third, fourth = (np.log(valley.batches) for valley in size[2:])
            together.append(np.corrcoef(third, fourth)[0, 1])
    assert (np.mean(together) > 0.8) == alike and np.mean(together) > 0


def test_what_all_batches_share_at_a_length_says_nothing_of_the_best(
    rng: np.random.Generator,
) -> None:
    """They read the same text."""
    grid = three_term(rng, 0.0, 0.002)[0]
    lifts = np.array([0.1, -0.2, 0.05, 0.3])
    lifted = LossGrid(grid.batches, grid.tokens, grid.loss + lifts)
    before, after = (valleys([each]).by_grid[0] for each in (grid, lifted))
    for one, other, lift in zip(before, after, lifts, strict=True):
        assert other.batch == pytest.approx(one.batch, rel=1e-6)
        assert other.interval == pytest.approx(one.interval, rel=1e-6)
        assert other.loss == pytest.approx(one.loss + lift, abs=1e-6)


def test_correlations_are_taken_off_as_by_their_inverse(rng: np.random.Generator) -> None:
    stems = np.array([0, 1, 0, 2, 1, 0, 2, 2, 2])
    design, losses, share = rng.normal(size=(9, 3)), rng.normal(size=9), 0.3
    correlations = np.where(stems[:, None] == stems, share, 0.0)
    np.fill_diagonal(correlations, 1.0)
    inverse = np.linalg.inv(correlations)
    normal, moment, square, log_volume = _whitened(design, losses, stems, share)
    assert normal == pytest.approx(design.T @ inverse @ design)
    assert moment == pytest.approx(design.T @ inverse @ losses)
    assert square == pytest.approx(losses @ inverse @ losses)
    assert log_volume == pytest.approx(np.linalg.slogdet(correlations)[1])


def test_the_error_of_a_best_batch_is_half_of_the_inner_two_thirds_of_its_draws(
    rng: np.random.Generator,
) -> None:
    draws = np.exp(7 + 0.2 * rng.standard_normal(20_000))
    valley = Valley(
        tokens=1e6,
        loss=4.0,
        where="inside",
        batch=1100.0,
        interval=(800.0, 1500.0),
        batches=draws,
        losses=draws,
    )
    assert valley.error == pytest.approx(0.2 * 0.9674, rel=0.03)


@pytest.mark.parametrize(("best", "where"), [(100.0, "below"), (40_000.0, "above")])
def test_a_best_batch_outside_of_the_sampled_ones_is_dropped(best: float, where: str) -> None:
    (found,) = valleys([grid_of(best=lambda loss: best)]).by_grid
    assert len(found) == len(TOKENS)
    assert all((v.where, v.batch, v.interval) == (where, None, None) for v in found)


def test_a_run_that_failed_leaves_the_others() -> None:
    failed = grid_of()
    failed.loss[-1, 1:] = np.nan
    (found,) = valleys([failed]).by_grid
    assert len(found) == len(TOKENS)
    assert all(v.batch == pytest.approx(C / v.loss**K, rel=0.015) for v in found)
    failed.loss[:2, 1:] = np.nan  # leaves three batches there
    assert failed.compared() == [0] and LEAST_BATCHES == 4
    (found,) = valleys([failed]).by_grid
    assert [valley.tokens for valley in found] == [TOKENS[0]]
    failed.loss[:3] = np.nan
    nothing = valleys([failed])
    assert nothing.by_grid == [[]], "three batches are no bowl"


def test_regret_is_what_the_batch_costs() -> None:
    losses = 4.0 + 0.03 * (np.log2(BATCHES) - 10.3) ** 2
    flat = LossGrid(BATCHES, TOKENS[:1], losses[:, None])
    assert flat.best(0) == pytest.approx(4.0, abs=1e-5)
    assert flat.regret(0, 2**10.3) == pytest.approx(0, abs=1e-5)
    assert flat.regret(0, 2**12.3) == pytest.approx(0.12, abs=1e-5)
    assert flat.regret(0, 1e9) == pytest.approx(flat.regret(0, BATCHES[-1])), (
        "only what was sampled is known"
    )
