"""Contours of losses whose best batch is known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import brentq

from windtunnel.tunnel.batch.contours import (
    Form,
    LossGrid,
    Valley,
    better_form,
    noise_of,
    valleys,
)
from windtunnel.tunnel.batch.design import LEAST_BATCHES

BATCHES = 2.0 ** np.arange(8, 14)
TOKENS = 2e5 * 2.0 ** np.arange(4)
C, K = 5e5, 4.0  # best batch: c / L^k, 1170 at a loss of 4.55


def tokens_needed(loss: float, batch: float, form: Form, best: float) -> float:
    """Of a batch, for a loss."""
    fewest = 1e6 * (loss / 4.6) ** -14
    off = np.log2(batch / best)
    worse = (
        0.08 * off**2 if form == "parabola" else np.log((1 + 0.3 * np.cosh(off * np.log(2))) / 1.3)
    )
    return fewest * np.exp(worse)


def grid_of(
    form: Form = "hyperbola", best: Callable[[float], float] = lambda loss: C / loss**K
) -> LossGrid:
    def loss(batch: float, tokens: float) -> float:
        return brentq(
            lambda level: tokens_needed(level, batch, form, best(level)) - tokens, 2.0, 12.0
        )

    return LossGrid(BATCHES, TOKENS, np.array([[loss(b, t) for t in TOKENS] for b in BATCHES]))


@pytest.mark.parametrize("form", ["parabola", "hyperbola"])
def test_the_best_batch_of_each_contour_is_found(form: Form) -> None:
    made = grid_of(form)
    assert better_form([made])[0] == form
    (found,) = valleys([made], form, noise=0.0, draws=20)
    assert len(found) == 8 and all(valley.where == "inside" for valley in found)
    for valley in found:
        assert valley.batch == pytest.approx(C / valley.loss**K, rel=0.03)
        assert valley.tokens == pytest.approx(1e6 * (valley.loss / 4.6) ** -14, rel=0.02)


def test_levels_span_what_enough_batches_reach() -> None:
    made = grid_of()
    levels = made.levels()
    assert len(levels) == 8 and (np.diff(levels) < 0).all()
    assert (made.covers(levels[[0, -1]]).sum(0) >= LEAST_BATCHES).all()
    beyond = levels[[0, -1]] * [1.02, 1 / 1.02]
    assert (made.covers(beyond).sum(0) < LEAST_BATCHES).all()


def test_the_error_of_a_best_batch_is_half_of_the_inner_two_thirds_of_its_draws(
    rng: np.random.Generator,
) -> None:
    draws = np.exp(7 + 0.2 * rng.standard_normal(20_000))
    valley = Valley(
        loss=4.0,
        where="inside",
        batch=1100.0,
        interval=(800.0, 1500.0),
        tokens=1e6,
        batches=draws,
        tokens_drawn=draws,
    )
    assert valley.error == pytest.approx(0.2 * 0.9674, rel=0.03)


@pytest.mark.parametrize(("best", "where"), [(100.0, "below"), (40_000.0, "above")])
def test_a_vertex_outside_of_the_sampled_batches_is_dropped(best: float, where: str) -> None:
    (found,) = valleys([grid_of(best=lambda loss: best)], "hyperbola", noise=0.0, draws=20)
    assert found
    assert all((v.where, v.batch, v.interval) == (where, None, None) for v in found)


def test_noise_is_measured_and_intervals_hold_the_truth(rng: np.random.Generator) -> None:
    """15 noisy grids of 8 contours; neighbouring contours share their noise, hence the wide
    margin.
    """
    exact, held, number, sigmas = grid_of(), 0, 0, []
    for _ in range(15):
        noisy = LossGrid(BATCHES, TOKENS, exact.loss + 0.01 * rng.normal(size=exact.loss.shape))
        sigmas.append(noise_of([noisy], "hyperbola"))
        (found,) = valleys([noisy], "hyperbola", sigmas[-1], draws=200)
        for valley in found:
            if valley.interval:
                held += valley.interval[0] <= C / valley.loss**K <= valley.interval[1]
                number += 1
    assert np.sqrt(np.mean(np.square(sigmas))) == pytest.approx(0.01, rel=0.2)
    assert number > 110 and 0.8 < held / number < 0.97, held / number


def test_a_run_that_failed_leaves_the_others(rng: np.random.Generator) -> None:
    whole = grid_of()
    failed = LossGrid(BATCHES, TOKENS, whole.loss.copy())
    failed.loss[-1, 1:] = np.nan  # one length is no curve
    (found,) = valleys([failed], "hyperbola", noise=0.0, draws=20)
    assert found and all(v.batch == pytest.approx(C / v.loss**K, rel=0.03) for v in found)
    failed.loss[:3] = np.nan
    assert valleys([failed], "hyperbola", noise=0.0, draws=20) == [[]], "two batches are no contour"
    assert failed.compared() == []


def test_losses_that_do_not_fall_do_not_break_the_curve() -> None:
    bumpy = grid_of()
    bumpy.loss[2, 1], bumpy.loss[2, 2] = bumpy.loss[2, 2], bumpy.loss[2, 1]
    needed = bumpy.log_tokens(bumpy.levels(), bumpy.loss)
    assert (np.diff(needed[2]) > 0).all()


def test_regret_is_what_the_batch_costs() -> None:
    losses = 4.0 + 0.03 * (np.log2(BATCHES) - 10.3) ** 2
    flat = LossGrid(BATCHES, TOKENS[:1], losses[:, None])
    assert flat.best(0) == pytest.approx(4.0, abs=1e-5)
    assert flat.regret(0, 2**10.3) == pytest.approx(0, abs=1e-5)
    assert flat.regret(0, 2**12.3) == pytest.approx(0.12, abs=1e-5)
    assert flat.regret(0, 1e9) == pytest.approx(flat.regret(0, BATCHES[-1])), (
        "only what was sampled is known"
    )
