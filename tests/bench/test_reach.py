"""Predictors are fitted below a cut, and scored on what lies above it."""

import numpy as np
import pytest
import reach

from windtunnel.laws.loss import LossLaw
from windtunnel.laws.points import LossPoints

TRUTH = LossLaw.of(E=2.4, A=30.0, alpha=0.3, B=300.0, beta=0.4)
N, D = (
    grid.ravel()
    for grid in np.meshgrid(np.geomspace(1e5, 2e6, 6), np.geomspace(1e6, 3e7, 6), indexing="ij")
)
POINTS = LossPoints.of(N, D, TRUTH.at(N, D))
SPLITS = list(reach.splits("truth", POINTS))


def test_what_lies_above_a_cut_was_not_fitted() -> None:
    assert {split.axis for split in SPLITS} == {"size", "tokens", "FLOPs", "both"}
    for split in SPLITS:
        below, above = split.below, split.above
        if split.axis in ("size", "both"):
            assert below.size.max() < above.size.min()
        if split.axis in ("tokens", "both"):
            assert below.tokens.max() < above.tokens.min()
        if split.axis == "FLOPs":
            assert below.flops.max() < above.flops.min()


@pytest.mark.parametrize("name", ["additive", "coupled+floor", "additive by curve_fit"])
def test_who_knows_the_form_predicts_it(name: str) -> None:
    for scored in reach._scored(reach.PREDICTORS[name], SPLITS[:4]):
        assert scored.error < 1e-3 and scored.intervals is None


def test_farseer_follows_a_law_that_it_holds() -> None:
    (scored,) = reach._scored(reach.farseer, SPLITS[2:3])
    assert scored.error < 0.02


def test_a_predictor_is_scored_with_its_intervals() -> None:
    """It says 3% too much, by intervals of 2% either way, and of 5%."""
    for half, holds in ((0.02, 0.0), (0.05, 1.0)):

        def fit(points: LossPoints, half: float = half) -> reach.Predict:
            def predict(others: LossPoints) -> reach.Said:
                loss = 1.03 * others.loss
                return reach.Said(loss=loss, low=loss * np.exp(-half), high=loss * np.exp(half))

            return predict

        for scored in reach._scored(fit, SPLITS):
            assert scored.error == scored.signed == pytest.approx(np.log(1.03))
            assert scored.intervals is not None
            assert scored.intervals.holds == holds
            assert scored.intervals.half_width == pytest.approx(half)
            outside = max(0.0, np.log(1.03) - half)
            assert scored.intervals.winkler == pytest.approx(2 * half + 20 * outside)
