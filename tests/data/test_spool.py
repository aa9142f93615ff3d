"""What is held out for validation: a share by hash, raised for little text, never all and never
nothing.
"""

import numpy as np
import pytest

from windtunnel.data.spool import ENOUGH_VALIDATION, MOST_VALIDATION, held_out, validation_share


def test_the_share_is_raised_for_little_text_but_not_beyond_its_most() -> None:
    assert validation_share(0.01, 200 * ENOUGH_VALIDATION) == 0.01
    assert validation_share(0.01, 50 * ENOUGH_VALIDATION) == 0.02
    assert validation_share(0.01, ENOUGH_VALIDATION) == validation_share(0.01, 0) == MOST_VALIDATION
    assert validation_share(0.3, ENOUGH_VALIDATION) == 0.3
    assert validation_share(0.0, ENOUGH_VALIDATION) == 0.0


@pytest.mark.parametrize("share", [1e-9, 0.5, 1.0])
@pytest.mark.parametrize(
    "keys", [[1, 2], [2**64 - 2, 2**64 - 1], [0, 2**64 - 1], [7, 2**63, 2**64 - 1]]
)
def test_of_two_or_more_at_least_one_and_not_all(keys: list[int], share: float) -> None:
    chosen = held_out(np.array(keys, np.uint64), share)
    assert chosen[0] and not chosen[-1]
    assert not held_out(np.array(keys, np.uint64), 0.0).any()


def test_what_is_held_out_is_the_share_and_stays_so_when_it_grows() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64, endpoint=False)
    few, more = held_out(keys, 0.02), held_out(keys, 0.1)
    assert few.mean() == pytest.approx(0.02, rel=0.1) and more.mean() == pytest.approx(0.1, rel=0.1)
    assert not (few & ~more).any()
