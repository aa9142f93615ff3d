"""The law of the best rate: powers found again, and held where the points can't tell them."""

import math

import numpy as np
import pytest

from windtunnel.laws.rate import BestRates, RateLaw, constant_rate, fit_rate

N, D, B = (
    np.array(x, float)
    for x in zip(
        *[(n, d, b) for n in (2e4, 1e5, 4e5) for d in (2e5, 8e5, 3e6) for b in (512, 2048)],
        strict=True,
    )
)


ONE = BestRates(
    lr=np.array([0.01]),
    params=np.array([1e5]),
    tokens=np.array([1e6]),
    batch=np.array([1024.0]),
    error=np.array([0.1]),
)


def truth(n: float, d: float, b: float) -> float:
    return 0.012 * (n / 1e5) ** 0.05 * (d / 1e6) ** -0.33 * (b / 1024) ** 0.45


def measured(error: float, seed: int = 0) -> BestRates:
    rng = np.random.default_rng(seed)
    exact = np.array([truth(*at) for at in zip(N, D, B, strict=True)])
    noisy = exact * np.exp(error * rng.standard_normal(len(N)))
    return BestRates(lr=noisy, params=N, tokens=D, batch=B, error=np.full(len(N), error))


def test_exact_points_give_the_powers_and_the_rate_anywhere() -> None:
    law = fit_rate(measured(1e-9))
    assert law.by_params == pytest.approx(0.05, abs=1e-3)
    assert law.by_tokens == pytest.approx(-0.33, abs=1e-3)
    assert law.by_batch == pytest.approx(0.45, abs=1e-3)
    assert law.largest_batch == 2048
    assert law.at(1e7, 1e8, 16384) == pytest.approx(truth(1e7, 1e8, 16384), rel=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        law = fit_rate(measured(0.2, seed))
        low, high = law.interval(4e6, 2e7, 4096)
        inside += low < truth(4e6, 2e7, 4096) < high
    assert 165 <= inside <= 199, "90% of them, and a little more for what is known beforehand"


def test_points_that_scatter_more_than_their_errors_say_make_all_less_sure() -> None:
    scattered = measured(0.3)
    sure = BestRates(lr=scattered.lr, params=N, tokens=D, batch=B, error=np.full(len(N), 0.03))
    low, high = fit_rate(sure).interval_of("by_tokens")
    honest = fit_rate(scattered).interval_of("by_tokens")
    assert high - low == pytest.approx(honest[1] - honest[0], rel=0.4)


def test_what_the_points_do_not_tell_is_held_by_what_is_known() -> None:
    law = fit_rate(ONE)
    assert (law.by_params, law.by_tokens, law.by_batch) == pytest.approx((0.0, -0.15, 0.3))
    assert law.at(1e5, 1e6, 1024) == pytest.approx(0.01)
    near, far = law.interval(1e5, 1e6, 1024), law.interval(1e6, 1e7, 1024)
    width = math.log(near[1] / near[0])
    assert width == pytest.approx(2 * 1.645 * 0.1, rel=0.01)
    assert math.log(far[1] / far[0]) > 4 * width


def test_theory_says_where_the_power_of_the_parameters_is_looked_for() -> None:
    assert fit_rate(ONE, by_params=-0.5).by_params == pytest.approx(-0.5)
    assert fit_rate(measured(1e-9), by_params=-0.5).by_params == pytest.approx(0.05, abs=0.02)


def test_one_rate_for_all_has_no_interval() -> None:
    law: RateLaw = constant_rate(0.02)
    assert law.at(1e9, 1e12, 4e6) == 0.02 and law.interval(1.0, 1.0, 1.0) == (0.02, 0.02)


def test_without_a_point_there_is_no_law() -> None:
    none = np.zeros(0)
    with pytest.raises(ValueError, match="no best rate was measured"):
        fit_rate(BestRates(lr=none, params=none, tokens=none, batch=none, error=none))
