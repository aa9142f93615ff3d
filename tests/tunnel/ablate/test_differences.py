"""Differences to the base arm, and their intervals, where the truth is known."""

import numpy as np
import pytest

from windtunnel.tunnel.ablate.differences import differences


def test_what_a_seed_does_to_all_arms_is_no_noise(rng: np.random.Generator) -> None:
    seeds = rng.normal(0, 1.0, (4, 1, 2))
    losses = 3.0 + seeds + np.array([[[0.0, 0.0], [0.1, -0.2], [0.0, 0.3]]])
    found, noise = differences(losses)
    assert [[d.mean for d in arm] for arm in found] == [
        pytest.approx([0.1, -0.2]),
        pytest.approx([0.0, 0.3]),
    ]
    assert noise == pytest.approx([0.0, 0.0], abs=1e-12)


def test_the_intervals_of_two_seeds_by_hand() -> None:
    losses = np.array([[[2.0], [2.10], [2.3]], [[2.0], [2.14], [2.3]]])  # (seeds, arms, sources)
    (first, second), (noise,) = differences(losses)
    # differences .10 and .14: mean .12, SD .0283; t at 5% is 6.314 with 1 degree of freedom,
    # 2.920 with the two of both
    assert first[0].alone == pytest.approx((0.12 - 6.314 * 0.02, 0.12 + 6.314 * 0.02), abs=1e-4)
    assert noise == pytest.approx(0.02)  # the other arm's is zero: the root of the mean square
    assert first[0].interval == pytest.approx(
        (0.12 - 2.920 * 0.02 / 2**0.5, 0.12 + 2.920 * 0.02 / 2**0.5), abs=1e-4
    )
    assert second[0].alone == pytest.approx((0.3, 0.3))


def test_nine_tenths_of_intervals_hold_the_truth(rng: np.random.Generator) -> None:
    truth, hits, alone = np.array([0.0, 0.02, -0.01, 0.05]), [], []
    for _ in range(600):
        losses = (
            truth[None, :, None] + rng.normal(0, 0.01, (3, 4, 1)) + rng.normal(0, 0.1, (3, 1, 1))
        )
        found, _ = differences(losses)
        for (difference,), true in zip(found, truth[1:], strict=True):
            assert difference.interval and difference.alone
            hits.append(difference.interval[0] <= true <= difference.interval[1])
            alone.append(difference.alone[0] <= true <= difference.alone[1])
    assert (
        0.86 <= np.mean(hits) <= 0.93
    )  # arms share the base arm's noise: a little under nine tenths
    assert 0.87 <= np.mean(alone) <= 0.93


def test_one_seed_gives_no_interval() -> None:
    found, noise = differences(np.array([[[2.0], [2.1]]]))
    assert found[0][0].interval is None and found[0][0].alone is None
    assert noise == [None]
