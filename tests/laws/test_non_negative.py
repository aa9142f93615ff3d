"""Weights that are not below 0 are those that scipy finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from windtunnel.laws.non_negative import non_negative


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
def test_non_negative_least_squares_is_scipys(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    designs, wanted = rng.exponential(size=(5, 12, columns)), rng.standard_normal(12)
    found, misfits = non_negative(designs, wanted)
    for design, linear, misfit in zip(designs, found, misfits, strict=True):
        expected, least = nnls(design, wanted)
        assert misfit == pytest.approx(least, rel=1e-9)
        assert linear == pytest.approx(expected, abs=1e-7)
