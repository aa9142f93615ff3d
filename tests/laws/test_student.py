"""Quantiles of Student's t are scipy's."""

import pytest
from scipy.stats import t

from windtunnel.laws.student import quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 12, 13, 100, 4001])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_quantiles_are_scipys(freedom: int, share: float) -> None:
    assert quantile(share, freedom) == pytest.approx(t.ppf((1 + share) / 2, freedom), rel=1e-9)
