"""How errors of predictions that are known grow with the distance."""

import numpy as np
import pytest

from windtunnel.laws.growth import Growth, HeldOut, growth_of

RNG = np.random.default_rng(0)
LEAST, EXPECTED = 0.003, 0.008


def held(runs: int, noise: float, params: float, tokens: float) -> HeldOut:
    """Runs up to two e-folds beyond, with errors of these standard deviations."""
    by_size, by_tokens = RNG.uniform(0, 2, (2, runs))
    sd = np.sqrt(noise**2 + (params * by_size) ** 2 + (tokens * by_tokens) ** 2)
    return HeldOut(errors=sd * RNG.standard_normal(runs), by_size=by_size, by_tokens=by_tokens)


def test_what_errors_grow_by_is_found() -> None:
    found = growth_of([held(4000, 0.002, 0.02, 0.01) for _ in range(3)], noise=0.0)
    # an outlier counts as far as the others scatter, and so tails count for less
    assert found.params == pytest.approx(0.02, rel=0.2)
    assert found.tokens == pytest.approx(0.01, rel=0.25)


def test_a_cut_counts_alike_however_many_runs_lie_above_it() -> None:
    few = HeldOut(errors=np.full(4, 0.015), by_size=np.ones(4), by_tokens=np.zeros(4))
    many = HeldOut(errors=np.full(400, 0.01), by_size=np.ones(400), by_tokens=np.zeros(400))
    # each error counts with the root of its share of a cut, and least squares with its square
    wanted = np.sqrt((0.015**2 + 0.01**2) / 2)
    for cuts in ([few, many], [many, few]):
        found = growth_of(cuts, noise=0.0)
        total = np.hypot(found.noise, found.params)
        assert total == pytest.approx(wanted, rel=0.02)


def test_without_a_run_that_was_held_out_it_is_what_is_known_beforehand() -> None:
    assert growth_of([], noise=0.003) == Growth(noise=0.003, params=EXPECTED, tokens=EXPECTED)


def test_runs_within_half_an_e_fold_tell_little_and_those_far_out_the_most() -> None:
    """By runs that are predicted exactly: how far is that believed?"""
    found = []
    for distance in (0.2, 0.6, 3.0):
        exact = HeldOut(
            errors=np.zeros(9), by_size=np.full(9, distance), by_tokens=np.full(9, distance)
        )
        found.append(growth_of([exact] * 3, noise=0.003))
    near, further, far = (growth.params for growth in found)
    assert EXPECTED > near > 0.95 * EXPECTED
    assert near > further > far == LEAST
    assert all(growth.noise == 0.003 for growth in found)
    assert [growth.tokens for growth in found] == pytest.approx([near, further, far])


def test_one_run_that_went_wrong_does_not_count_in_full() -> None:
    plain = held(200, 0.002, 0.01, 0.01)
    errors = plain.errors.copy()
    errors[7] = 0.5
    wrong = HeldOut(errors=errors, by_size=plain.by_size, by_tokens=plain.by_tokens)
    before, after = growth_of([plain], 0.0), growth_of([wrong], 0.0)
    assert after.params == pytest.approx(before.params, rel=0.1)
    assert after.tokens == pytest.approx(before.tokens, rel=0.1)


def test_variances_add_up() -> None:
    growth = Growth(noise=0.003, params=0.01, tokens=0.02)
    assert growth.variance(0, 0) == pytest.approx(0.003**2)
    assert growth.variance(2, [0, 3]) == pytest.approx(
        [0.003**2 + 0.02**2, 0.003**2 + 0.02**2 + 0.06**2]
    )
