"""The family of loss laws: limits, slopes, and coordinates that are the same law."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.laws.loss import Frame, LossLaw, log_slopes, slopes, surface

N, D = np.array([1e5, 1e6, 1e7, 3e5]), np.array([1e6, 3e7, 1e8, 5e8])
LAWS = st.builds(
    LossLaw.of,
    E=st.floats(0.0, 2.5),
    A=st.floats(1.0, 1e4),
    alpha=st.floats(0.1, 0.9),
    B=st.floats(1.0, 1e5),
    beta=st.floats(0.1, 0.9),
    c=st.floats(0.1, 3.0),
    gamma=st.just(0.0) | st.floats(0.0, 0.2),
).filter(lambda law: law.at(N, D).max() < 30)


@settings(deadline=None)
@given(LAWS)
def test_coordinates_are_the_same_law(law: LossLaw) -> None:
    frame = Frame.of(N, D)
    at = frame.coordinates(law)
    assert surface(at, *frame.logs(N, D)) == pytest.approx(law.at(N, D), rel=1e-9)
    again = frame.law(at)
    assert again.at(10 * N, D / 3) == pytest.approx(law.at(10 * N, D / 3), rel=1e-9)


@settings(deadline=None)
@given(LAWS)
def test_slopes_are_those_of_the_surface(law: LossLaw) -> None:
    frame = Frame.of(N, D)
    at, (x, y) = frame.coordinates(law), frame.logs(N, D)
    _, by_coordinate = slopes(at, x, y)
    losses, of_logarithm = log_slopes(at, x, y)
    for i in range(7):
        step = np.zeros(7)
        step[i] = 1e-6
        numeric = (surface(at + step, x, y) - surface(at - step, x, y)) / 2e-6
        assert by_coordinate[:, i] == pytest.approx(numeric, rel=1e-4, abs=1e-6)
        assert of_logarithm[:, i] * losses == pytest.approx(numeric, rel=1e-4, abs=1e-6)


@settings(deadline=None)
@given(LAWS)
def test_gradient_is_the_worth_of_an_e_fold(law: LossLaw) -> None:
    by_size, by_data = law.gradient(N, D)
    up = np.exp(1e-6)
    assert by_size == pytest.approx(
        (law.at(N * up, D) - law.at(N / up, D)) / 2e-6, rel=1e-3, abs=1e-7
    )
    assert by_data == pytest.approx(
        (law.at(N, D * up) - law.at(N, D / up)) / 2e-6, rel=1e-3, abs=1e-7
    )
    assert (by_data <= 0).all()
    if law.gamma == 0:
        assert (by_size <= 0).all()


def test_additive_law_is_the_papers() -> None:
    law = LossLaw.of(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
    assert law.at(7.225e10, 1.329e12) == pytest.approx(1.9744, abs=1e-4)
    assert law.at(1e9, 1e10) == pytest.approx(
        1.8172 + 482.01 / 1e9**0.3478 + 2085.43 / 1e10**0.3658, rel=1e-12
    )


def test_a_small_c_becomes_the_larger_of_two_power_laws() -> None:
    at = np.array([0.0, 1.0, 0.1, 1.5, 0.2, 0.05, np.log(0.001)])
    x, y = np.array([0.0, 5.0]), np.array([8.0, 0.0])
    assert surface(at, x, y) == pytest.approx(
        np.exp(np.maximum(1.0 - 0.1 * x, 1.5 - 0.2 * y + 0.05 * x)), rel=1e-3
    )
    assert np.isfinite(slopes(at, x, y)[1]).all()


def test_a_term_of_zero_is_not_there() -> None:
    law = LossLaw.of(E=2.0, A=0.0, alpha=0.3, B=10.0, beta=0.5)
    assert law.at(1e6, 1e4) == pytest.approx(2.1)
    assert law.A == 0.0 and law.log_A == -np.inf


def test_a_term_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="B = -3: expected 0 or more"):
        LossLaw.of(E=2.0, A=1.0, alpha=0.3, B=-3.0, beta=0.5)


@pytest.mark.parametrize("log_size", [-2500.0, 2500.0])
def test_a_law_is_itself_where_no_float_holds_a_coefficient(log_size: float) -> None:
    """c = 0.02, with A near e^2500 or its inverse: the loss is where it is at any other c."""
    frame = Frame.of(N, D)
    at = np.array([0.3, 0.02 * log_size / 10, 0.4, 0.1, 0.3, 0.0, np.log(0.02)])
    x, y = frame.logs(N, D)
    law = frame.law(at)
    away = replace(law, log_A=law.log_A + log_size)
    assert law.A is not None and away.A is None
    assert law.at(N, D) == pytest.approx(surface(at, x, y), rel=1e-12)
    moved = frame.coordinates(away)
    assert moved[1] - at[1] == pytest.approx(0.02 * log_size)
    assert np.delete(moved, 1) == pytest.approx(np.delete(at, 1))
    assert away.at(N, D) == pytest.approx(surface(moved, x, y), rel=1e-12)


def test_parameters_by_name_have_a_and_b_as_they_were_given() -> None:
    given = {"E": 2.0, "A": 482.01, "alpha": 0.3, "B": 2e230, "beta": 0.5, "c": 0.5, "gamma": 0.1}
    told = LossLaw.of(**given).as_dict()
    assert {name: told[name] for name in given} == pytest.approx(given)
    assert (told["log_A"], told["log_B"]) == pytest.approx((np.log(482.01), np.log(2e230)))
    assert LossLaw(E=2.0, log_A=710.0, alpha=0.3, log_B=-710.0, beta=0.5).as_dict()["B"] is None
