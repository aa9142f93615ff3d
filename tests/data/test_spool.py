"""What is held out for validation: a share by hash, raised for little text, never all and never
nothing.
"""

import numpy as np
import pytest

from windtunnel.data.spool import (
    ENOUGH_VALIDATION,
    FEWEST_VALIDATION,
    MOST_VALIDATION,
    held_out,
    validation_share,
)


def test_the_share_is_raised_for_little_text_but_not_beyond_its_most() -> None:
    assert validation_share(0.01, 200 * ENOUGH_VALIDATION) == 0.01
    assert validation_share(0.01, 50 * ENOUGH_VALIDATION) == 0.02
    assert validation_share(0.01, ENOUGH_VALIDATION) == validation_share(0.01, 0) == MOST_VALIDATION
    assert validation_share(0.3, ENOUGH_VALIDATION) == 0.3
    assert validation_share(0.0, ENOUGH_VALIDATION) == 0.0


def keys_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64, endpoint=False)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 300])
def test_something_is_held_out_where_it_may_be_and_never_far_more_than_the_share(
    count: int, share: float
) -> None:
    for seed in range(50):
        keys, sizes = keys_of(seed, count), np.random.default_rng(seed).integers(1, 100, count)
        held = sizes[held_out(keys, share, sizes)].sum() / sizes.sum()
        most = min(1.5 * share, 0.5)
        assert held <= most
        assert held > 0 or sizes.min() > most * sizes.sum()
        assert not held_out(keys, 0.0, sizes).any()


def test_what_is_alike_is_not_all_held_out() -> None:
    """Pieces of a text that says one thing again and again have one hash."""
    for key in (0, 2**64 - 1):
        chosen = held_out(np.full(20, key, np.uint64), 0.1, np.full(20, 5))
        assert 1 <= chosen.sum() <= 3


def test_of_what_is_too_much_the_smallest_hashes_are_held_out() -> None:
    keys = np.array([5, 3, 4, 2**63, 2**63 + 1], np.uint64)
    chosen = held_out(keys, 0.1, np.array([10, 5, 10, 50, 25]))
    assert chosen.tolist() == [False, True, True, False, False]


def test_what_is_held_out_is_the_share_and_stays_so_when_it_grows() -> None:
    keys, sizes = keys_of(0, 100_000), np.ones(100_000, int)
    few, more = held_out(keys, 0.02, sizes), held_out(keys, 0.1, sizes)
    assert few.mean() == pytest.approx(0.02, rel=0.1) and more.mean() == pytest.approx(0.1, rel=0.1)
    assert not (few & ~more).any()


def test_no_document_is_a_large_part_of_what_is_held_out() -> None:
    """An attachment of half a megabyte among mails of a few kilobytes."""
    for seed in range(20):
        keys, sizes = keys_of(seed, 2000), np.random.default_rng(seed).integers(1000, 8000, 2000)
        giant = int(np.argmin(keys))  # the first to be held out
        alone = held_out(keys, 0.02, sizes)
        sizes[giant] = 500_000
        chosen = held_out(keys, 0.02, sizes)
        assert alone[giant] and not chosen[giant]
        assert not (chosen ^ alone)[np.arange(2000) != giant].any()
        assert sizes[chosen].max() <= 0.02 * sizes.sum() / FEWEST_VALIDATION
