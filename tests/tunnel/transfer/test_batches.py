"""The law of the batch through the best batches of a transfer study: what it needs to be told."""

import numpy as np
import pytest

from windtunnel.tunnel.transfer.batches import batch_law, best_batches

BATCHES, LENGTHS = (512, 1024, 2048, 4096), (160_000, 480_000, 1_280_000)


def losses(best: dict[int, float]) -> list[list[float]]:
    """Of each batch at each length, by the best batch of a length."""
    return [[4 + 0.04 * np.log2(batch / best[at]) ** 2 for at in LENGTHS] for batch in BATCHES]


def law_of(*best: float) -> tuple[list[str], float | None]:
    """Where the best batches are found, and the power of the law through them."""
    found = best_batches(BATCHES, LENGTHS, losses(dict(zip(LENGTHS, best, strict=True))))
    fitted = batch_law(found, BATCHES, 20_000)
    return [valley.where for valley in found], fitted.law.p if fitted else None


def test_a_law_goes_through_the_best_batches() -> None:
    where, power = law_of(600, 600 * 3**0.7, 600 * 8**0.7)
    assert where == ["inside"] * 3 and power == pytest.approx(0.7, abs=0.03)


def test_best_batches_outside_of_the_sampled_ones_may_agree_with_it() -> None:
    where, power = law_of(250, 900, 2200)
    assert where == ["below", "inside", "inside"]
    assert power == pytest.approx(np.log(2200 / 900) / np.log(1280 / 480), abs=0.05)


@pytest.mark.parametrize("best", [(480, 1063, 2085), (600, 1500, 4600)])
def test_a_best_batch_just_outside_does_not_refute_it(best: tuple[float, ...]) -> None:
    """As on C, where the law has 540 tokens a step for 160k and less than 512 were best."""
    where, power = law_of(*best)
    assert set(where) > {"inside"} and power is not None


@pytest.mark.parametrize(
    "best",
    [
        (2000, 1990, 20_000),  # the law has 2,000 where more than 4,096 is best
        (200, 900, 900),  # and 900 where less than 512 is
        (200, 900, 20_000),  # one length tells no power
    ],
)
def test_there_is_no_law_that_the_study_itself_contradicts(best: tuple[float, ...]) -> None:
    where, power = law_of(*best)
    assert set(where) > {"inside"} and power is None


def test_a_length_at_which_too_few_batches_have_a_loss_has_no_best_one() -> None:
    measured = losses(dict.fromkeys(LENGTHS, 1000.0))
    measured[0][1] = np.nan
    found = best_batches(BATCHES, LENGTHS, measured)
    assert [valley.tokens for valley in found] == [LENGTHS[0], LENGTHS[2]]
