"""The laws of the best batch: exponents found again, intervals that hold them, points that can't
tell, laws by name, and published runs.
"""

from dataclasses import dataclass, replace

import batch_laws as bench
import numpy as np
import pytest
from numpy.typing import ArrayLike
from shared_data import shared

from windtunnel.laws.batch import (
    BATCH_LAWS,
    BatchLaw,
    ByLoss,
    ByTokens,
    ByTokensParams,
    Optima,
    _logs,
    best_available,
    by_regret,
    fit_batch,
    fit_by_tokens,
    interval_of,
)
from windtunnel.laws.loss import Array

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
    return Optima(batch=batch, loss=loss, tokens=tokens, params=params, error=errors)


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


@pytest.mark.parametrize("said", [0.05, 2.0])
def test_draws_are_as_wide_as_the_points_scatter_and_no_narrower_than_drawn(
    said: float, rng: np.random.Generator
) -> None:
    """By the root of chi square over its degrees of freedom, about the law itself."""
    optima = replace(measured("tokens", rng, 0.2), error=np.full(15, said))
    redrawn = [
        replace(optima, batch=optima.batch * np.exp(0.3 + 0.01 * rng.normal(size=15)))
        for _ in range(99)
    ]
    found = fit_batch("tokens", optima, redrawn)
    plain = np.array([[np.log(law.c), law.p] for law in map(ByTokens.fit, redrawn)])
    off = np.log(optima.batch / found.law.at(optima.loss, optima.tokens, optima.params))
    chi = float(off @ off) / said**2 / (15 - 2)
    assert found.draws.std(0) == pytest.approx(max(1.0, chi**0.5) * plain.std(0))
    assert np.median(found.draws, axis=0) == pytest.approx(_logs(found.law))


def test_a_point_counts_by_its_error(rng: np.random.Generator) -> None:
    """Four points on a line, and a fifth far off it that is known to say little."""
    optima = measured("tokens", rng, 1e-9)
    optima = optima.select(optima.params == 1e5)
    batch, error = optima.batch.copy(), np.full(5, 0.01)
    batch[4] *= 10
    error[4] = 100.0
    found = ByTokens.fit(replace(optima, batch=batch, error=error))
    assert vars(found) == pytest.approx(vars(TRUTHS["tokens"]), rel=1e-4)


def test_the_batch_of_a_length_and_the_length_of_a_batch_are_inverse() -> None:
    law = ByTokens(1.52, 0.49)
    assert law.tokens(law.predict(3e6)) == pytest.approx(3e6)


def test_the_covariance_keeps_an_interval_whose_errors_are_shared(
    rng: np.random.Generator,
) -> None:
    """Where a law is told elsewhere: two draws a size, which all of its lengths share."""
    optima = measured("tokens", rng, 0.1)
    redrawn = []
    for _ in range(2000):
        by_size = dict(zip(np.unique(optima.params), rng.normal(0, 0.3, 3), strict=True))
        shift = np.array([by_size[size] for size in optima.params])
        redrawn.append(replace(optima, batch=optima.batch * np.exp(shift)))
    found = fit_batch("tokens", optima, redrawn)
    for loss, tokens, params in ((3.5, 4e6, 4e5), (2.5, 1.6e8, 4e5)):
        _, low, high = found.predicted(loss, tokens, params)
        kept = interval_of(found.law, found.covariance, loss, tokens, params)
        assert np.log(kept) == pytest.approx(np.log((low, high)), abs=0.03)
        # 0.3 of each of three sizes, and not of fifteen contours
        assert np.log(kept[1] / kept[0]) / 2 > 1.5 * 1.6449 * 0.3 / 15**0.5


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
    assert by_regret() == ["tokens_params", "tokens", "loss"]
    assert best_available(optima)[0] == "tokens_params"
    one_size = optima.select(optima.params == 1e5)
    name, found = best_available(one_size)
    assert name == "tokens" and found.law == fit_batch("tokens", one_size).law
    assert best_available(optima.select(optima.tokens == 1e6))[0] == "loss"
    with pytest.raises(
        ValueError, match=r"no law of the batch: tokens_params: .*; tokens: .*; loss: "
    ):
        best_available(one_size.select(np.arange(5) < 1))


@dataclass(frozen=True)
class ByRoot(BatchLaw):
    """bs = c sqrt(D) / L^k: a law that a test adds."""

    formula = "bs = {c:.3g} sqrt(D) / L^{k:.2f}"

    k: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [np.log(tokens) / 2 - np.log(loss)]


@pytest.fixture
def by_root(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(BATCH_LAWS, "root", ByRoot)
    return "root"


def test_a_law_is_added_in_one_place(by_root: str, rng: np.random.Generator) -> None:
    optima = measured("tokens", rng, 0.05)
    truth = ByRoot(0.1, 2.0)
    optima = replace(optima, batch=truth.at(optima.loss, optima.tokens, optima.params))
    found = fit_batch(by_root, optima).law
    assert vars(found) == pytest.approx(vars(truth))
    assert found.formula.format(**vars(found)) == "bs = 0.1 sqrt(D) / L^2.00"
    assert by_regret()[-1] == by_root, "what was not measured is tried last"


def test_an_unknown_law_is_refused_with_the_known_ones(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="law of the batch 'steps': expected one of loss, tokens"):
        fit_batch("steps", measured("tokens", rng, 0.05))


def test_published_runs_give_the_known_exponents() -> None:
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


def test_the_default_costs_least_where_it_was_not_fitted() -> None:
    cells, _ = bench.read(shared("steplaw/dense_lr_bs_loss.csv"))
    regret = {
        law: bench.measure(bench.CHOOSERS[law], cells).mean
        for law in (*by_regret(), "three_term", "constant")
    }
    best = by_regret()[0]
    assert min(regret, key=regret.__getitem__) == best, regret
    assert sorted(BATCH_LAWS, key=regret.__getitem__) == by_regret(), regret
    assert regret[best] < 0.001 < 0.005 < regret["constant"], regret
    for name, law in BATCH_LAWS.items():
        assert regret[name] == pytest.approx(law.regret, abs=1e-5), "as the law's record says"


def along(power: float, error: float, seed: int = 0, points: int = 3) -> Optima:
    """Best batches of one size at a few lengths over eight times."""
    rng = np.random.default_rng(seed)
    tokens = np.geomspace(1.6e5, 1.28e6, points)
    batch = 1e3 * (tokens / 5e5) ** power * np.exp(error * rng.standard_normal(points))
    alike = np.ones(points)
    return Optima(
        batch=batch, loss=4 * alike, tokens=tokens, params=2e4 * alike, error=error * alike
    )


def test_few_lengths_tell_the_power_as_far_as_they_can() -> None:
    sure = fit_by_tokens(along(0.85, 0.02))
    assert isinstance(sure.law, ByTokens) and sure.law.p == pytest.approx(0.85, abs=0.03)
    unsure = fit_by_tokens(along(0.85, 0.5)).law
    assert isinstance(unsure, ByTokens) and 0.5 < unsure.p < 0.75, "held by what is known of it"
    alone = fit_by_tokens(along(0.85, 0.1, points=1))
    assert isinstance(alone.law, ByTokens) and alone.law.p == pytest.approx(0.53)
    assert alone.law.predict(1.6e5) == pytest.approx(along(0.85, 0.1, points=1).batch[0])
    with pytest.raises(ValueError, match="no best batch"):
        fit_by_tokens(along(0.85, 0.1, points=0))


def test_the_interval_of_a_batch_far_out_holds_it_as_often_as_it_says() -> None:
    inside = 0
    truths = np.random.default_rng(1).normal(0.53, 0.15, 200)
    for seed, power in enumerate(truths):
        fitted = fit_by_tokens(along(float(power), 0.2, seed))
        _, low, high = fitted.predicted(3.0, 1.2e7, 2e4)
        inside += low < 1e3 * (1.2e7 / 5e5) ** power < high
    assert 170 <= inside <= 196
