"""The lowest points of curves."""

import numpy as np
import pytest

from windtunnel.tunnel.lowest import lowest


def test_thelowest_point_of_a_curve_lies_between_those_that_are_looked_at() -> None:
    around = np.linspace(-3, 3, 25)
    curves = np.array([[-2 * at, 1.0, 0.0, 0.0] for at in (-1.9, 0.06, 1.23)])  # (x - at)^2
    assert lowest(curves, around) == pytest.approx([-1.9, 0.06, 1.23])
    falling = np.array([[-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert list(lowest(falling, around)) == [3.0, -3.0]
