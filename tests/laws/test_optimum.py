"""The best size at a budget: the published numbers, the closed form against the search, and what
lies outside.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windtunnel.laws.loss import Frame, LossLaw, surface
from windtunnel.laws.optimum import (
    Optimum,
    closed_form,
    exponents,
    log_ratio,
    outside,
    search,
    slope,
)

# Besiroglu et al. 2024 (arXiv 2404.10102), of 240 runs of Chinchilla
CHINCHILLA = LossLaw.of(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
# MiniCPM (arXiv 2404.06395), figure 10: N and D in 1e9, C in 1e18; ratio D/N at C = 1e21 from the
# rounded constants
PAPER = {
    "code": ((0.17, 3.32e-2, 0.37, 2.17e-1, 0.34), 0.01, -0.05, 194),
    "english": ((0.27, 8.08e-2, 0.26, 2.97e-1, 0.18), 0.02, -0.18, 177),
    "chinese": ((0.40, 5.14e-2, 0.35, 3.90e-1, 0.18), 0.01, -0.33, 879),
    "ultratext": ((0.25, 7.54e-2, 0.30, 2.92e-1, 0.30), 0.01, 0.0, 91),
    "yayi": ((0.35, 1.53e-1, 0.19, 3.76e-1, 0.17), 0.01, -0.05, 106),
    "average": ((0.31, 7.15e-2, 0.29, 3.00e-1, 0.23), 0.01, -0.10, 184),
}


def searched(law: LossLaw, flops: float) -> Optimum:
    return search(law.at, lambda n: flops / (6 * n), flops**0.5 / 1e6, flops**0.5 * 1e6)


@pytest.mark.parametrize(
    ("flops", "params", "tokens", "loss"),
    [(5.76e23, 7.225e10, 1.329e12, 1.9744), (1e21, 2.778e9, 5.999e10, 2.3055)],
)
def test_chinchilla_at_the_published_values(
    flops: float, params: float, tokens: float, loss: float
) -> None:
    best = closed_form(CHINCHILLA, flops)
    assert best.params == pytest.approx(params, rel=1e-3) and best.tokens == pytest.approx(
        tokens, rel=1e-3
    )
    assert best.loss == pytest.approx(loss, abs=1e-4)
    found = searched(CHINCHILLA, flops)
    assert found.params == pytest.approx(best.params, rel=1e-8)
    assert found.tokens == pytest.approx(best.tokens, rel=1e-8)
    assert not found.at_edge


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.2])
def test_the_closed_form_is_the_search_where_size_and_data_interact(gamma: float) -> None:
    law = replace(CHINCHILLA, gamma=gamma)
    for flops in (1e19, 1e23):
        best, found = closed_form(law, flops), searched(law, flops)
        assert found.params == pytest.approx(best.params, rel=1e-7)
        assert found.loss == pytest.approx(best.loss, rel=1e-12)
        k2, eta = exponents(law)
        assert best.params / best.tokens == pytest.approx(k2 * (flops / 6) ** eta, rel=1e-9)
        ratio = log_ratio(law, flops)
        assert ratio is not None and np.exp(ratio) == pytest.approx(best.ratio)


@pytest.mark.parametrize("corpus", PAPER)
def test_the_papers_constants(corpus: str) -> None:
    (floor, size, alpha, data, beta), k_squared, eta, ratio = PAPER[corpus]
    law = LossLaw.of(E=floor, A=size, alpha=alpha, B=data, beta=beta)
    found = exponents(law)
    assert found[0] == pytest.approx(k_squared, abs=0.0065) and found[1] == pytest.approx(
        eta, abs=0.02
    )
    assert closed_form(law, 1000).ratio == pytest.approx(ratio, rel=0.01)
    assert searched(law, 1000).ratio == pytest.approx(closed_form(law, 1000).ratio, rel=1e-8)


def test_the_papers_ratio_of_192_lies_outside_what_it_sampled() -> None:
    (floor, size, alpha, data, beta), *_ = PAPER["average"]
    law = LossLaw.of(E=floor, A=size, alpha=alpha, B=data, beta=beta)
    assert [round(closed_form(law, c).ratio) for c in (10, 1000, 1e5)] == [108, 184, 313]
    warning = outside(closed_form(law, 1000).ratio, (10, 66))
    assert warning and "184 tokens a parameter" in warning and "10 to 66" in warning
    assert outside(20, (10, 66)) is None
    assert "below" in (outside(5, (10, 66)) or "")


laws = st.builds(
    LossLaw.of,
    E=st.floats(0, 3),
    A=st.floats(1, 1e4),
    alpha=st.floats(0.1, 0.9),
    B=st.floats(1, 1e5),
    beta=st.floats(0.1, 0.9),
    c=st.floats(0.1, 2),
)


@settings(max_examples=50, deadline=None)
@given(law=laws, log_flops=st.floats(14, 26))
def test_no_other_size_is_better(law: LossLaw, log_flops: float) -> None:
    flops = 10**log_flops
    best = closed_form(law, flops)
    assert 6 * best.params * best.tokens == pytest.approx(flops)
    k_squared, eta = exponents(law)
    assert best.params / best.tokens == pytest.approx(k_squared * (flops / 6) ** eta)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert law.at(best.params * factor, best.tokens / factor) >= best.loss


@settings(max_examples=30, deadline=None)
@given(law=laws)
@example(law=LossLaw.of(E=1.0, A=1.0, alpha=0.75, B=1.0, beta=0.5, c=2.0))
def test_the_search_finds_the_closed_form(law: LossLaw) -> None:
    """Without E, which moves no optimum: beside it a reducible loss of 1e-10 nats is lost in
    rounding.
    """
    best = closed_form(law, 1e18)
    found = search(
        replace(law, E=0.0).at, lambda n: 1e18 / (6 * n), best.params / 30, best.params * 50
    )
    assert found.params == pytest.approx(best.params, rel=1e-6)


def test_a_best_size_beyond_the_range_is_said_to_be_at_the_edge() -> None:
    best = closed_form(CHINCHILLA, 1e21)
    found = search(CHINCHILLA.at, lambda n: 1e21 / (6 * n), best.params * 2, best.params * 100)
    assert found.at_edge and found.params == pytest.approx(2 * best.params)


def test_the_slope_is_of_the_sixth_order() -> None:
    assert slope(lambda x: np.exp(-0.3 * x), 2.0) == pytest.approx(-0.3 * np.exp(-0.6), rel=1e-11)


@pytest.mark.parametrize("flops", [1e18, 1e21, 1e24])
def test_the_log_of_the_best_ratio_is_that_of_the_closed_form(flops: float) -> None:
    found = log_ratio(CHINCHILLA, flops)
    assert found == pytest.approx(np.log(closed_form(CHINCHILLA, flops).ratio))
    assert log_ratio(replace(CHINCHILLA, log_B=-math.inf), flops) is None


@pytest.mark.parametrize(
    "law",
    [
        LossLaw.of(E=1, A=0, alpha=0.3, B=1, beta=0.3),
        LossLaw.of(E=1, A=1, alpha=0.3, B=1, beta=0.0),
        # by this one e^-1.9e6 tokens a parameter are best: no number at all
        LossLaw.of(E=1, A=3, alpha=1e-5, B=1e-12, beta=2e-5),
    ],
)
def test_a_law_in_which_data_or_size_is_worth_nothing_has_no_best_size(law: LossLaw) -> None:
    with pytest.raises(ValueError, match="no best size"):
        closed_form(law, 1e18)
    with pytest.raises(ValueError, match="no best size"):
        exponents(law)
    assert log_ratio(law, 1e18) is None


def test_a_ratio_needs_no_number_that_is_too_large_or_too_small() -> None:
    """With a small c, A is beyond and B below what a number can hold; the ratio is where it is."""
    frame = Frame(n0=math.log(1e6), d0=math.log(1e8))
    at = np.array([2.0, -0.5, 2.0, 0.1, 0.3, 1.9, math.log(0.02)])
    law = frame.law(at)
    assert law.A is None and law.B is None
    ratio = log_ratio(law, 6e14)
    assert ratio is not None
    # where both terms fall alike with 6ND held: of the logarithm of the loss, by the coordinates
    log_n = (math.log(1e14) - ratio) / 2
    x, y = log_n - frame.n0, math.log(1e14) - log_n - frame.d0
    slope = [np.log(surface(at, np.array([x + h]), np.array([y - h])))[0] for h in (-1e-4, 1e-4)]
    assert slope[1] - slope[0] == pytest.approx(0, abs=1e-7)
    assert log_ratio(replace(law, alpha=0.0), 6e14) is None
