"""Regret of laws on surfaces whose best batch is known."""

import numpy as np
import pytest

from windtunnel.laws.batch import ByTokens, Optima
from windtunnel.laws.batch_cost import ThreeTerm
from windtunnel.tunnel.batch.contours import Surface
from windtunnel.tunnel.batch.regret import Fold, held_out, regret_of, three_term

TRUTH = ThreeTerm(E=1.5, A=40, a=0.3, B=8, b=0.3, C=6, c=0.25, rmse=0)  # best batch about D^0.55
PARAMS = {(32, 2): 20_000, (32, 4): 40_000, (64, 2): 80_000}
BATCHES, TOKENS = 2.0 ** np.arange(6, 14), 2e5 * 2.0 ** np.arange(4)
SURFACES = {
    size: Surface(BATCHES, TOKENS, np.asarray(TRUTH.loss(params, TOKENS, BATCHES[:, None])))
    for size, params in PARAMS.items()
}
EVERYWHERE = [(size, None) for size in SURFACES]


def optima() -> Optima:
    """The true best batches, at every length of every size."""
    params, tokens = (
        axis.ravel() for axis in np.meshgrid(list(PARAMS.values()), TOKENS, indexing="ij")
    )
    batch = TRUTH.predict(tokens)
    return Optima(
        batch=batch,
        loss=TRUTH.loss(params, tokens, batch),
        tokens=tokens,
        params=params,
        error=np.full(len(batch), 0.1),
    )


def test_the_true_law_has_no_regret_and_another_has_what_its_batch_costs() -> None:
    assert regret_of(TRUTH, EVERYWHERE, SURFACES, PARAMS) == pytest.approx(0, abs=1e-4)
    single = [((32, 2), 1)]
    batch = 4 * float(TRUTH.predict(TOKENS[1]))
    excess = float(TRUTH.loss(20_000, TOKENS[1], batch) - TRUTH.loss(20_000, TOKENS[1], batch / 4))
    assert regret_of(ByTokens(batch, 0.0), single, SURFACES, PARAMS) == pytest.approx(
        excess, rel=0.05
    )
    assert regret_of(None, EVERYWHERE, SURFACES, PARAMS) is None


def test_laws_are_held_out_from_the_optima_and_the_three_terms_from_the_surfaces() -> None:
    found = optima()
    folds: list[Fold] = [
        (
            found.params != params,
            {other: SURFACES[other] for other in SURFACES if other != size},
            [(size, None)],
        )
        for size, params in PARAMS.items()
    ]
    regret = held_out(found, folds, SURFACES, PARAMS)
    assert regret["three_term"] == pytest.approx(0, abs=2e-4)
    assert regret["tokens"] == pytest.approx(0, abs=2e-4)
    assert regret["constant"] is not None and regret["constant"] > 0.003
    assert found.select(found.params < 0).batch.size == 0
    nothing: list[Fold] = [(found.params < 0, {}, EVERYWHERE)]
    assert set(held_out(found, nothing, SURFACES, PARAMS).values()) == {None}


def test_diverged_runs_are_left_out_of_the_three_terms() -> None:
    holes = {size: Surface(s.batches, s.tokens, s.loss.copy()) for size, s in SURFACES.items()}
    holes[32, 2].loss[-1] = np.nan
    law = three_term(holes, PARAMS)
    assert law is not None and law.exponent == pytest.approx(TRUTH.exponent, rel=0.01)
