"""The batch laws: exponents found again, intervals that hold them, points that can't tell, and
published runs.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared

from windtunnel.laws.batch import (
    BATCH_LAWS,
    DEFAULT,
    ORDER,
    ByLoss,
    ByTokens,
    ByTokensParams,
    Hyperbola,
    Optima,
    ThreeTerm,
    best_available,
    fit_batch,
)

TRUTHS = {
    "loss": ByLoss(1.21e9, 6.24),  # the paper's
    "tokens": ByTokens(0.5, 0.6),
    "tokens_params": ByTokensParams(3.0, 0.69, -0.2),
}


def measured(name: str, rng: np.random.Generator, error: float) -> Optima:
    """Five lengths of three sizes, with a batch that follows the law up to a scatter of `error`."""
    params, tokens = (
        grid.ravel() for grid in np.meshgrid([1e5, 4e5, 1.6e6], np.geomspace(1e6, 1.6e7, 5))
    )
    loss = 1.5 + 40 * params**-0.3 + 90 * tokens**-0.3
    errors = np.full(len(params), error)
    batch = TRUTHS[name].at(loss, tokens, params) * np.exp(error * rng.normal(size=len(params)))
    return Optima(batch, loss, tokens, params, errors)


@pytest.mark.parametrize("name", BATCH_LAWS)
def test_a_law_is_found_again(name: str, rng: np.random.Generator) -> None:
    exact = measured(name, rng, 1e-9)
    assert vars(BATCH_LAWS[name].fit(exact)) == pytest.approx(vars(TRUTHS[name]), rel=1e-5)


def test_predictions_by_name_and_in_one_way_agree() -> None:
    where = {"loss": 3.1, "tokens": 2e6, "params": 5e5}
    for law, value in (
        (TRUTHS["loss"], ByLoss(1.21e9, 6.24).predict(3.1)),
        (TRUTHS["tokens"], ByTokens(0.5, 0.6).predict(2e6)),
        (TRUTHS["tokens_params"], ByTokensParams(3.0, 0.69, -0.2).predict(2e6, 5e5)),
    ):
        assert float(law.at(**where)) == pytest.approx(value)
    assert ByLoss(1.21e9, 6.24).predict(2.505) == pytest.approx(3.93e6, rel=0.01), (
        "the batch the paper trained with"
    )


@pytest.mark.parametrize("name", BATCH_LAWS)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str, rng: np.random.Generator) -> None:
    """Whatever the errors claim to be: what counts is their scatter. 200 repeats: 90% +- 2.1%."""
    where = {"loss": 2.9, "tokens": 4e7, "params": 3e6}
    held = {parameter: 0 for parameter in [*vars(TRUTHS[name]), "predicted"]}
    for _ in range(200):
        optima = measured(name, rng, 0.2)
        found = fit_batch(name, replace(optima, error=optima.error * 5))
        for parameter, truth in vars(TRUTHS[name]).items():
            low, high = found.interval(parameter)
            held[parameter] += low < truth < high
        _, low, high = found.predicted(**where)
        held["predicted"] += low < float(TRUTHS[name].at(**where)) < high
    assert all(0.84 < count / 200 < 0.96 for count in held.values()), held


def test_shared_errors_widen_the_interval(rng: np.random.Generator) -> None:
    """Points that all err together say less about c than independent ones, and draws know it."""
    optima = measured("tokens", rng, 0.02)
    shifts = 0.3 * rng.normal(size=500)
    redrawn = [replace(optima, batch=optima.batch * np.exp(shift)) for shift in shifts]
    found = fit_batch("tokens", optima, redrawn)
    low, high = found.interval("p")
    assert high - low < 0.01, "a common shift leaves the exponent alone"
    low, high = found.interval("c")
    expected = np.log(np.quantile(np.exp(shifts), [0.05, 0.95]))
    assert np.log([low, high]) - np.log(found.law.c) == pytest.approx(expected, abs=0.1)


def test_points_that_cannot_tell_are_refused(rng: np.random.Generator) -> None:
    optima = measured("tokens_params", rng, 0.05)
    one_size = optima.select(optima.params == 1e5)
    with pytest.raises(ValueError, match="can't tell c, p, q apart"):
        fit_batch("tokens_params", one_size)
    two = one_size.select(np.arange(5) < 2)
    with pytest.raises(ValueError, match="no error to see"):
        fit_batch("tokens", two)
    with pytest.raises(ValueError, match="can't tell"):
        fit_batch("loss", one_size.select(np.arange(5) < 0))


def test_the_first_law_of_the_order_that_the_points_can_tell(rng: np.random.Generator) -> None:
    optima = measured("tokens", rng, 0.05)
    assert ORDER[0] == DEFAULT and set(ORDER) == set(BATCH_LAWS)
    assert best_available(optima)[0] == DEFAULT == "tokens_params"
    one_size = optima.select(optima.params == 1e5)
    name, found = best_available(one_size)
    assert name == "tokens" and found.law == fit_batch("tokens", one_size).law
    assert best_available(optima.select(optima.tokens == 1e6))[0] == "loss"
    with pytest.raises(
        ValueError, match=r"no law of the batch: tokens_params: .*; tokens: .*; loss: "
    ):
        best_available(one_size.select(np.arange(5) < 1))


BATCHES = np.geomspace(2e5, 6e6, 6)


@given(st.floats(1e6, 1e12), st.floats(1e4, 1e7))
def test_the_critical_batch_needs_twice_the_tokens_and_twice_the_steps(
    least: float, critical: float
) -> None:
    """McCandlish's hyperbola: (E / Emin - 1) (S / Smin - 1) = 1 at every batch."""
    found = Hyperbola.fit(BATCHES, least * (1 + BATCHES / critical), falls=False)
    assert float(found.critical) == pytest.approx(critical, rel=1e-6)
    tokens = found.at(BATCHES)
    assert (tokens / found.floor - 1) * (tokens / BATCHES / found.rising - 1) == pytest.approx(
        1, rel=1e-5
    )
    assert found.at([critical]) == pytest.approx([2 * least], rel=1e-6)
    assert float(found.best) == 0, "the smaller the better, where the rate is tuned for it"


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_lowest_point_of_a_hyperbola_is_its_best_batch(rising: float, falling: float) -> None:
    best = (falling / rising) ** 0.5 * 1e6
    found = Hyperbola.fit(BATCHES, 3e9 * (1 + rising * BATCHES / 1e6 + falling * 1e6 / BATCHES))
    assert float(found.best) == pytest.approx(best, rel=1e-5)
    assert float(found.fewest) == pytest.approx(float(found.at([best])[0]), rel=1e-9)
    assert (found.at([best / 1.1, best * 1.1]) > found.fewest).all()


def test_many_hyperbolas_are_fitted_at_once_and_those_without_a_lowest_point_say_so() -> None:
    rising, falling = np.array([1, 1, -1, -1.0]), np.array([1, -0.1, 1, -0.1])
    tokens = 1e9 * (9 + rising[:, None] * BATCHES / 1e6 + falling[:, None] * 1e6 / BATCHES)
    found = Hyperbola.fit(BATCHES, tokens)
    assert found.best.tolist() == [
        pytest.approx(1e6),
        0,
        np.inf,
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert found.at(BATCHES) == pytest.approx(tokens)
    assert float(found.rising[0]) == pytest.approx(float(Hyperbola.fit(BATCHES, tokens[0]).rising))
    with pytest.raises(ValueError, match="expected 3 or more"):
        Hyperbola.fit(BATCHES[:2], tokens[0, :2])


TRUTH = ThreeTerm(1.5, 40, 0.3, 5, 0.2, 4, 0.15, 0)


def grid(params: list[float]) -> list[np.ndarray]:
    """(N, D, batch) of every point."""
    return [
        axis.ravel()
        for axis in np.meshgrid(params, np.geomspace(1e9, 3e10, 4), np.geomspace(6e4, 1e6, 5))
    ]


def test_the_three_term_law_is_found_again() -> None:
    points = grid([1e8, 3e8, 1e9])
    found = ThreeTerm.fit(*points, TRUTH.loss(*points))
    assert vars(found) == pytest.approx(vars(TRUTH), rel=2e-3, abs=1e-6)
    points = grid([1e8])
    one_size = ThreeTerm.fit(*points, TRUTH.loss(*points))
    floor = TRUTH.E + TRUTH.A * 1e8**-TRUTH.a
    assert one_size.A == 0
    assert abs(one_size.E - floor) < 1e-3
    assert one_size.predict(1e11) == pytest.approx(TRUTH.predict(1e11), rel=0.01), (
        "the best batch needs no second size"
    )


@given(
    st.floats(0.05, 1),
    st.floats(0.05, 1),
    st.floats(1, 100),
    st.floats(1, 100),
    st.floats(1e6, 1e12),
)
def test_no_other_batch_is_better_than_the_three_term_laws(
    b: float, c: float, B: float, C: float, d: float
) -> None:
    law = replace(TRUTH, b=b, c=c, B=B, C=C)
    best = law.predict(d)
    assert (law.loss(1e8, d, best * np.array([0.5, 0.9, 1.1, 2])) >= law.loss(1e8, d, best)).all()
    assert law.predict(10 * d) / best == pytest.approx(10**law.exponent)


def test_runs_that_cannot_tell_the_three_terms_are_refused() -> None:
    params, tokens, batch = grid([1e8, 3e8])
    loss = TRUTH.loss(params, tokens, batch)
    for kept, said in (
        (batch == batch[0], "1 batches"),
        (tokens == tokens[0], "1 lengths"),
        (batch < 0, "8 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            ThreeTerm.fit(params[kept], tokens[kept], batch[kept], loss[kept])
    with pytest.raises(ValueError, match="loss: expected positive"):
        ThreeTerm.fit(params, tokens, batch, loss * np.nan)
    for gone, off, said in (
        ({"C": 0.0}, batch, "only rise"),
        ({"B": 0.0}, tokens / batch, "only fall"),
    ):
        opposite = replace(TRUTH, **gone).loss(params, tokens, batch) + 0.02 * np.log(off)
        with pytest.raises(ValueError, match=said):
            ThreeTerm.fit(params, tokens, batch, opposite)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """`bench/batch_laws.py`, whose claims these tests hold."""
    file = Path(__file__).resolve().parents[2] / "bench" / "batch_laws.py"
    spec = importlib.util.spec_from_file_location("batch_laws", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_runs_give_the_known_exponents(bench: ModuleType) -> None:
    cells, fixed = bench.read(shared("steplaw/dense_lr_bs_loss.csv"))
    assert len(cells) == len(fixed) == 17
    law = bench.three_term(cells)
    assert [law.a, law.b, law.c, law.exponent, law.rmse] == pytest.approx(
        [0.284, 0.186, 0.120, 0.61, 0.0117], rel=0.01
    )
    optima = bench.optima(cells)
    assert ByLoss.fit(optima).k == pytest.approx(6.14, rel=0.1)
    assert ByTokens.fit(optima).p == pytest.approx(0.641, abs=0.05)
    both = ByTokensParams.fit(optima)
    assert (both.p, both.q) == (pytest.approx(0.692, abs=0.05), pytest.approx(-0.41, abs=0.1))


def test_the_default_costs_least_where_it_was_not_fitted(bench: ModuleType) -> None:
    cells, _ = bench.read(shared("steplaw/dense_lr_bs_loss.csv"))
    regret = {
        law: bench.measure(bench.CHOOSERS[law], cells).mean
        for law in (*ORDER, "three_term", "constant")
    }
    assert min(regret, key=regret.__getitem__) == DEFAULT, regret
    assert sorted(ORDER, key=regret.__getitem__) == list(ORDER), regret
    assert regret[DEFAULT] < 0.001 < 0.005 < regret["constant"], regret
