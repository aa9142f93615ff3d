"""Regret of laws on losses whose best batch is known."""

import numpy as np
import pytest

from windtunnel.laws.batch import ByTokens, Optima
from windtunnel.laws.batch_cost import ThreeTerm
from windtunnel.tunnel.batch.regret import Fold, MeasuredSizes, three_term
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.valley import LossGrid

TRUTH = ThreeTerm(E=1.5, A=40, a=0.3, B=8, b=0.3, C=6, c=0.25, rmse=0)  # best batch about D^0.55
PARAMS = {Size(32, 2): 20_000, Size(32, 4): 40_000, Size(64, 2): 80_000}
BATCHES, TOKENS = 2.0 ** np.arange(6, 14), 2e5 * 2.0 ** np.arange(4)
GRIDS = {
    size: LossGrid(BATCHES, TOKENS, np.asarray(TRUTH.loss(params, TOKENS, BATCHES[:, None])))
    for size, params in PARAMS.items()
}
EVERYWHERE: list[tuple[Size, int | None]] = [(size, None) for size in GRIDS]
MEASURED = MeasuredSizes(GRIDS, PARAMS)


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
    assert MEASURED.regret(TRUTH, EVERYWHERE) == pytest.approx(0, abs=1e-4)
    single = [(Size(32, 2), 1)]
    batch = 4 * float(TRUTH.predict(TOKENS[1]))
    excess = float(TRUTH.loss(20_000, TOKENS[1], batch) - TRUTH.loss(20_000, TOKENS[1], batch / 4))
    assert MEASURED.regret(ByTokens(batch, 0.0), single) == pytest.approx(excess, rel=0.05)
    assert MEASURED.regret(None, EVERYWHERE) is None


def test_laws_are_held_out_from_the_optima_and_the_three_terms_from_the_losses() -> None:
    found = optima()
    folds = []
    for size, params in PARAMS.items():
        others = {other: GRIDS[other] for other in GRIDS if other != size}
        folds.append(Fold(kept=found.params != params, grids=others, tried=[(size, None)]))
    regret = MEASURED.held_out(found, folds)
    assert regret["three_term"] == pytest.approx(0, abs=2e-4)
    assert regret["tokens"] == pytest.approx(0, abs=2e-4)
    assert regret["constant"] is not None and regret["constant"] > 0.003
    assert found.select(found.params < 0).batch.size == 0
    nothing = Fold(kept=found.params < 0, grids={}, tried=EVERYWHERE)
    assert set(MEASURED.held_out(found, [nothing]).values()) == {None}


def test_diverged_runs_are_left_out_of_the_three_terms() -> None:
    holes = {size: LossGrid(s.batches, s.tokens, s.loss.copy()) for size, s in GRIDS.items()}
    holes[Size(32, 2)].loss[-1] = np.nan
    law = three_term(holes, PARAMS)
    assert law is not None and law.exponent == pytest.approx(TRUTH.exponent, rel=0.01)


def test_one_batch_for_all_is_the_geometric_mean_of_the_best_ones() -> None:
    """Of those that a fold keeps, tried where it is left out, and meant over the folds."""
    found = optima()
    folds, expected = [], []
    for size, params in PARAMS.items():
        kept = found.params != params
        folds.append(Fold(kept=kept, grids={}, tried=[(size, None)]))
        mean = float(np.exp(np.log(found.batch[kept]).mean()))
        expected.append(MEASURED.regret(ByTokens(mean, 0.0), [(size, None)]))
    told = MEASURED.held_out(found, folds)["constant"]
    assert told == pytest.approx(np.mean(expected)) and told is not None and told > 0


def test_a_law_that_one_fold_can_not_tell_has_no_regret() -> None:
    """The mean of the others would be of other sizes."""
    found = optima()
    whole = Fold(kept=found.params > 0, grids=GRIDS, tried=EVERYWHERE)
    none = Fold(kept=found.params < 0, grids=GRIDS, tried=EVERYWHERE)
    assert MEASURED.held_out(found, [whole])["tokens"] is not None
    assert MEASURED.held_out(found, [whole, none])["tokens"] is None
    assert MEASURED.held_out(found, [])["tokens"] is None


def test_a_law_is_tried_at_one_length_or_at_all() -> None:
    """The mean over all lengths is that of the single ones."""
    law = ByTokens(2000.0, 0.0)
    single = [MEASURED.regret(law, [(Size(32, 2), at)]) for at in range(4)]
    whole = MEASURED.regret(law, [(Size(32, 2), None)])
    assert len(set(single)) == 4
    assert whole == pytest.approx(np.mean([nats for nats in single if nats is not None]))
    assert MEASURED.regret(law, []) is None
    assert MEASURED.regret(law, [(Size(32, 2), 9)]) is None, "no such length"
