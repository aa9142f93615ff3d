"""The measured numbers of laptop scale against what they were measured from, and one another."""

import numpy as np
import pytest

from windtunnel.laws import laptop
from windtunnel.laws.batch import ByTokens


def test_the_law_of_the_batch_is_the_line_through_its_optima() -> None:
    found = ByTokens.fit(laptop.BATCH_OPTIMA)
    assert found.c == pytest.approx(laptop.BATCH_LAW.c, rel=0.02)
    assert found.p == pytest.approx(laptop.BATCH_LAW.p, abs=0.005)


def test_the_laws_of_the_loss_agree_where_they_were_measured() -> None:
    """Four sizes at five lengths, on which both forms were fitted."""
    params, tokens = np.meshgrid(np.geomspace(24e3, 530e3, 4), np.geomspace(0.8e6, 12.8e6, 5))
    additive, coupled = (law.at(params, tokens) for law in laptop.LOSS_LAWS.values())
    assert np.abs(np.log(additive / coupled)).max() < 0.08
    assert additive.min() > 3 and additive.max() < 6.5


def test_most_of_a_tiny_runs_time_is_not_its_matrix_products() -> None:
    """A width of 16, 2 layers, 512 tokens a step: what is counted a step and layer tells; at a
    width of 256 and 2048 tokens the products do.
    """

    def shares(width: int, depth: int, batch: int) -> np.ndarray:
        flops = 6 * (12 * width**2 * depth) * batch
        parts = np.array(
            [
                laptop.SECONDS_A_FLOP * flops,
                laptop.SECONDS_A_TOKEN * batch * depth,
                laptop.SECONDS_A_STEP * depth,
            ]
        )
        return parts / parts.sum()

    assert shares(16, 2, 512)[2] > 0.9
    assert shares(256, 4, 2048)[0] > 0.4


def test_the_base_and_the_proportions_are_those_of_the_models_that_were_measured() -> None:
    """Widths of 16 to 96; at a width of 32 and a depth of 4 all multipliers are those of the
    base.
    """
    assert (laptop.BASE_WIDTH, laptop.BASE_DEPTH) == (32, 4)
    ratio, spread = laptop.WIDTH_PER_DEPTH, laptop.SPREAD_OF_DEPTHS
    assert (laptop.WIDTH, ratio / spread, ratio * spread) == pytest.approx((96, 8, 24))
