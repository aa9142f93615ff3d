"""The batch laws: exponents found again, intervals that hold them, and points that can't tell."""

from dataclasses import replace

import numpy as np
import pytest

from windtunnel.laws.batch import LAWS, LossLaw, Optima, TokensLaw, TokensParamsLaw, fit

TRUTHS = {
    "loss": LossLaw(1.21e9, 6.24),  # the paper's
    "tokens": TokensLaw(0.5, 0.6),
    "tokens_params": TokensParamsLaw(3.0, 0.69, -0.2),
}


def measured(name: str, rng: np.random.Generator, error: float) -> Optima:
    """Five lengths of three sizes, with a batch that follows the law up to a scatter of `error`."""
    params, tokens = (grid.ravel() for grid in np.meshgrid([1e5, 4e5, 1.6e6], np.geomspace(1e6, 1.6e7, 5)))
    loss = 1.5 + 40 * params**-0.3 + 90 * tokens**-0.3
    errors = np.full(len(params), error)
    batch = TRUTHS[name].at(loss, tokens, params) * np.exp(error * rng.normal(size=len(params)))
    return Optima(batch, loss, tokens, params, errors)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_found_again(name: str, rng: np.random.Generator) -> None:
    exact = measured(name, rng, 1e-9)
    assert vars(LAWS[name].fit(exact)) == pytest.approx(vars(TRUTHS[name]), rel=1e-5)


def test_predictions_by_name_and_in_one_way_agree() -> None:
    where = {"loss": 3.1, "tokens": 2e6, "params": 5e5}
    for law, value in (
        (TRUTHS["loss"], LossLaw(1.21e9, 6.24).predict(3.1)),
        (TRUTHS["tokens"], TokensLaw(0.5, 0.6).predict(2e6)),
        (TRUTHS["tokens_params"], TokensParamsLaw(3.0, 0.69, -0.2).predict(2e6, 5e5)),
    ):
        assert float(law.at(**where)) == pytest.approx(value)
    assert LossLaw(1.21e9, 6.24).predict(2.505) == pytest.approx(3.93e6, rel=0.01), "the batch the paper trained with"


@pytest.mark.parametrize("name", LAWS)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str, rng: np.random.Generator) -> None:
    """Whatever the errors claim to be: what counts is their scatter. 200 repeats: 90% +- 2.1%."""
    where = {"loss": 2.9, "tokens": 4e7, "params": 3e6}
    held = {parameter: 0 for parameter in [*vars(TRUTHS[name]), "predicted"]}
    for _ in range(200):
        optima = measured(name, rng, 0.2)
        found = fit(LAWS[name], replace(optima, error=optima.error * 5))
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
    found = fit(TokensLaw, optima, redrawn)
    low, high = found.interval("p")
    assert high - low < 0.01, "a common shift leaves the exponent alone"
    low, high = found.interval("c")
    expected = np.log(np.quantile(np.exp(shifts), [0.05, 0.95]))
    assert np.log([low, high]) - np.log(found.law.c) == pytest.approx(expected, abs=0.1)


def test_points_that_cannot_tell_are_refused(rng: np.random.Generator) -> None:
    optima = measured("tokens_params", rng, 0.05)
    one_size = optima.select(optima.params == 1e5)
    with pytest.raises(ValueError, match="can't tell c, p, q apart"):
        fit(TokensParamsLaw, one_size)
    two = one_size.select(np.arange(5) < 2)
    with pytest.raises(ValueError, match="no error to see"):
        fit(TokensLaw, two)
    with pytest.raises(ValueError, match="can't tell"):
        fit(LossLaw, one_size.select(np.arange(5) < 0))
