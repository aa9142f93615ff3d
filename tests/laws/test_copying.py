"""What longer runs may learn at once: how far intervals reach down for it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_tables import LENGTHS, SIZES, TRUTH, D, N

from windtunnel.laws.choice import choose
from windtunnel.laws.copying import by_then, learns, yet_to_save
from windtunnel.laws.points import LossPoints


def test_what_is_learnt_already_is_not_to_come() -> None:
    assert not learns(0.1) and learns(0.34)
    assert yet_to_save(0.34, 0.3) == 0
    assert yet_to_save(0.0, 0.0) == 0
    assert math.exp(-yet_to_save(0.01, 0.32)) == pytest.approx(1 - 0.7 * 0.32)


def test_it_comes_with_the_distance() -> None:
    found = by_then(0.2, [0.1, 1, math.sqrt(30), 30, 300])
    assert found == pytest.approx([0, 0, 0.1, 0.2, 0.2])


def test_losses_are_lower_by_it_and_intervals_reach_down() -> None:
    points = LossPoints.of(N, D, TRUTH["coupled"].at(N, D))
    plain = choose(points, 0.01, draws=20)
    wary = replace(plain, unlearnt=0.2)
    inside = SIZES[2], LENGTHS[2]
    assert wary.predict(*inside) == plain.predict(*inside)
    far = 3 * SIZES[-1], 10 * LENGTHS[-1]
    one, other = plain.predict(*far), wary.predict(*far)
    assert np.log(one.loss / other.loss) == pytest.approx(0.25 * 0.2)
    assert other.loss == pytest.approx(float(wary.loss(*far)))
    for part, name in ((0.5, "interval50"), (0.9, "interval90")):
        (low, high), (lower, higher) = getattr(one, name), getattr(other, name)
        assert higher == high
        assert np.log(low / lower) == pytest.approx(part * 0.2)
        assert lower < other.loss < higher
    again = choose(points, 0.01, draws=20, unlearnt=0.2)
    assert again.predict(*far) == other
