"""A second optimiser comes to the same optimum, and sees a fit that has not come to it."""

from dataclasses import replace

import numpy as np
import pytest
from made_tables import TRUTH, D, N

from windtunnel.laws.fit import SQUARES, LossData, Objective, fit_loss
from windtunnel.laws.loss import FORMS
from windtunnel.laws.witness import AGREE, disagreement


@pytest.mark.parametrize("objective", [SQUARES, Objective("log"), Objective("log", 1e-3)])
@pytest.mark.parametrize("form", FORMS)
def test_two_optimisers_agree_under_noise(form: str, objective: Objective) -> None:
    rng = np.random.default_rng(3)
    loss = TRUTH["additive"].at(N, D) * np.exp(0.003 * rng.standard_normal(len(N)))
    found = fit_loss(form, LossData.of(N, D, loss), objective)
    assert disagreement(found) <= AGREE


def test_a_fit_that_has_not_come_to_the_optimum_is_seen() -> None:
    found = fit_loss("additive", LossData.of(N, D, TRUTH["additive"].at(N, D)))
    beside = replace(found, coordinates=found.coordinates + 0.01)
    assert disagreement(found) <= AGREE < disagreement(beside)
