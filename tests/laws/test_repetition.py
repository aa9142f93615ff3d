"""What repeated tokens are worth: known limits, R* found again from made-up runs, and the
published ones.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repetition import (
    FRESH,
    PUBLISHED_OBJECTIVE,
    Runs,
    fit_pairs,
    fit_repetition,
    objective,
    read,
)
from shared_data import shared

from windtunnel.laws.loss import LossLaw
from windtunnel.laws.repetition import PUBLISHED, Repetition, fed

LAW = LossLaw.of(E=1.87, A=521, alpha=0.353, B=1488, beta=0.353)
positive = st.floats(0.2, 200)


@given(positive, st.floats(1.0, 1000), st.floats(1e3, 1e12))
def test_tokens_are_worth_less_the_more_often_they_are_read(
    decay: float, epochs: float, unique: float
) -> None:
    law = Repetition(decay)
    worth = float(law.effective(epochs * unique, unique))
    assert unique * (1 - 1e-9) <= worth <= min(epochs, 1 + decay) * unique * (1 + 1e-9)
    assert float(law.limit(unique)) == pytest.approx(unique * (1 + decay))
    assert float(law.effective(2 * epochs * unique, unique)) <= 2 * worth
    assert float(law.effective(0.3 * unique, unique)) == pytest.approx(0.3 * unique), (
        "the first epoch counts in full"
    )


@given(positive, st.floats(0.1, 5))
def test_the_tokens_needed_for_a_worth_have_that_worth(decay: float, share: float) -> None:
    law = Repetition(decay)
    tokens = (1 + share * decay) * 1e6
    assert float(law.needed(law.effective(tokens, 1e6), 1e6)) == pytest.approx(tokens, rel=1e-6)
    assert float(law.needed(5e5, 1e6)) == 5e5
    assert float(law.needed(law.limit(1e6) * 1.01, 1e6)) == np.inf


def test_the_published_worth_of_a_few_epochs() -> None:
    """The paper: up to four epochs are almost as good as fresh tokens."""
    assert PUBLISHED.effective([1, 4], 1) == pytest.approx([1, 3.73], abs=0.01)
    tokens_alone = Repetition(PUBLISHED.tokens)
    assert 0 < float(tokens_alone.loss(LAW, 1e9, 4e9, 1e9)) - float(LAW.at(1e9, 4e9)) < 0.02


def test_a_size_is_fed_where_both_terms_fall_alike() -> None:
    coupled = LossLaw.of(E=0.3, A=1e4, alpha=0.5, B=3e4, beta=0.4, c=0.3)
    for law in (LAW, coupled, replace(LAW, gamma=0.1)):
        size, data = law.gradient(fed(law, 3e8), 3e8)
        assert float(size) == pytest.approx(float(data))


def test_one_epoch_of_a_size_that_is_fed_is_the_law_of_fresh_tokens() -> None:
    assert float(PUBLISHED.loss(LAW, 1e6, 1e9, 1e9)) == pytest.approx(float(LAW.at(1e6, 1e9)))
    assert float(PUBLISHED.loss(LAW, 1e6, 1e9, 5e10)) == pytest.approx(float(LAW.at(1e6, 1e9))), (
        "more than are read"
    )
    assert float(Repetition(9.0).loss(LAW, 1e12, 1e9, 1e9)) == pytest.approx(
        float(LAW.at(1e12, 1e9))
    )
    assert float(PUBLISHED.loss(LAW, 1e12, 1e9, 1e9)) > float(LAW.at(1e12, 1e9)), (
        "parameters that nothing feeds"
    )


def made(truth: Repetition, rng: np.random.Generator, noise: float) -> Runs:
    """Four sizes, three lengths, read once and from 2 to 16 times."""
    params, tokens, epochs = (
        axis.ravel()
        for axis in np.meshgrid([1e7, 5e7, 2e8, 1e9], [1e9, 4e9, 1.6e10], [1, 2, 4, 8, 12, 16.0])
    )
    loss = truth.loss(LAW, params, tokens, tokens / epochs)
    return Runs(
        params=params,
        tokens=tokens,
        unique=tokens / epochs,
        loss=loss * np.exp(noise * rng.normal(size=len(loss))),
    )


def test_what_made_the_runs_is_found_again(rng: np.random.Generator) -> None:
    truth = Repetition(9.0, 4.0)
    found = fit_repetition(made(truth, rng, 0), LAW, draws=0)
    assert (found.repetition.tokens, found.repetition.params) == pytest.approx((9, 4), rel=1e-4)
    assert found.disagreement < 1e-8
    noisy = fit_repetition(made(truth, rng, 0.003), LAW, draws=30)
    for name, value in vars(truth).items():
        low, high = noisy.interval(name)
        assert low < value < high and high / low < 3, (name, low, high)


def test_pairs_find_it_whatever_is_wrong_with_the_law_of_the_sizes(
    rng: np.random.Generator,
) -> None:
    runs = made(Repetition(9.0), rng, 0.0)
    wrong = LossLaw.of(E=2.5, A=100, alpha=0.2, B=1488, beta=LAW.beta)
    found = fit_pairs(runs, wrong, draws=20)
    assert found.repetition.tokens == pytest.approx(9, rel=1e-3)
    assert found.repetition.params == np.inf == found.interval("params")[1]
    off = fit_repetition(runs, wrong, draws=0).repetition
    assert abs(off.tokens - 9) > 1, "together with the parameters, R* takes the error upon itself"


def test_runs_that_tell_nothing_are_refused(rng: np.random.Generator) -> None:
    runs = made(PUBLISHED, rng, 0.0)
    once = runs.select(runs.epochs == 1)
    with pytest.raises(ValueError, match="0 runs with repeated tokens"):
        fit_repetition(once, LAW)
    with pytest.raises(ValueError, match="beside one of the same size"):
        fit_pairs(runs.select(runs.epochs > 1), LAW)
    with pytest.raises(ValueError, match="loss: expected positive"):
        replace(runs, loss=-runs.loss)
    with pytest.raises(ValueError, match="one length"):
        replace(runs, params=runs.params[1:])


def test_the_published_fit_is_reproduced_and_bettered() -> None:
    """Its R* is a valley of the objective, and not the lowest one."""
    kept, _ = read(shared("datablations/c4_runs.csv"))
    assert len(kept) == 182
    assert objective(kept, PUBLISHED) == pytest.approx(PUBLISHED_OBJECTIVE, abs=1e-7)
    for nearby in (
        Repetition(14.5, 5.31),
        Repetition(16.3, 5.31),
        Repetition(15.39, 5.0),
        Repetition(15.39, 5.6),
    ):
        assert objective(kept, nearby) > objective(kept, PUBLISHED)
    found = fit_repetition(kept, FRESH, draws=0)
    assert found.objective < 0.015805 and found.disagreement < 1e-8
    assert objective(kept, found.repetition) == pytest.approx(found.objective, rel=1e-9)


def test_published_pairs_give_nearly_the_published_worth_of_tokens() -> None:
    _, runs = read(shared("datablations/c4_runs.csv"))
    found = fit_pairs(runs, FRESH, draws=50)
    assert found.repetition.tokens == pytest.approx(PUBLISHED.tokens, rel=0.15)
    low, high = found.interval("tokens")
    assert low < found.repetition.tokens < high < 20
