"""Decays priced by a law: what is priced is what the law says, the best is the lowest of all, and
a decay pays.
"""

import numpy as np
import pytest

from windtunnel.laws.annealing import AnnealingLaw, MultiPower, Tissue
from windtunnel.laws.decay import price_decays
from windtunnel.laws.schedule import Schedule

LAWS: dict[str, AnnealingLaw] = {
    "multi-power": MultiPower(
        L0=3.04045,
        A=0.52469,
        alpha=0.50787,
        B=363.788,
        C=2.06561,
        beta=0.58279,
        gamma=0.64142,
        power=0.8,
    ),
    "tissue": Tissue(L0=3.04, A=0.52, alpha=0.5, C=0.8, memory=600.0),
}
STEM = Schedule.of_steps(3e-4 * np.minimum(1, np.arange(1, 8001) / 200))
DONE = np.linspace(0, 1, 201)
SHAPES = {
    "linear": 1 - DONE,
    "cosine": (1 + np.cos(np.pi * DONE)) / 2,
    "1-sqrt": 1 - DONE**0.5,
    "none": DONE * 0 + 1,
}


@pytest.mark.parametrize("name", LAWS)
def test_a_price_is_what_the_law_says_of_the_whole_schedule(name: str) -> None:
    (decay,) = price_decays(LAWS[name], STEM, 10_000, [2_000], {"linear": SHAPES["linear"]})
    steps = np.arange(10_000)
    rates = 3e-4 * np.minimum(1, (steps + 1) / 200) * np.clip((10_000 - steps - 0.5) / 2000, 0, 1)
    assert decay.loss == pytest.approx(
        float(LAWS[name].at(Schedule.of_steps(rates), 10_000)[0]), abs=2e-4
    )


def test_a_shape_is_taken_at_the_middle_of_each_step() -> None:
    """Straight between its points, so that its area is that of the curve."""
    (straight,) = price_decays(LAWS["tissue"], STEM, 10_000, [2_000], {"straight": [1.0, 0.0]})
    steps = len(straight.rates)
    assert straight.rates == pytest.approx(1 - (np.arange(steps) + 0.5) / steps)
    assert straight.rates.mean() == pytest.approx(0.5)


@pytest.mark.parametrize("name", LAWS)
def test_the_best_comes_first_and_a_decay_pays(name: str) -> None:
    lengths = [500, 1000, 2000, 4000]
    priced = price_decays(LAWS[name], STEM, 8_000, lengths, SHAPES)
    assert len(priced) == 16
    losses = [decay.loss for decay in priced]
    assert losses == sorted(losses)
    assert {decay.shape for decay in priced[-4:]} == {"none"}


def test_what_cannot_be_priced_is_refused() -> None:
    law = LAWS["tissue"]
    with pytest.raises(ValueError, match="less than the run"):
        price_decays(law, STEM, 8_000, [8_000], SHAPES)
    with pytest.raises(ValueError, match="more than 0"):
        price_decays(law, STEM, 8_000, [0], SHAPES)
    for bad in ([1, -1], [1], [[1, 0], [1, 0]], [1, np.nan], [1, np.inf]):
        with pytest.raises(ValueError, match=r"shape bad: expected two or more .* none negative"):
            price_decays(law, STEM, 8_000, [100], {"bad": bad})
