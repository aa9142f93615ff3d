"""The space of a search: its points in octaves, spread within its bounds, and its edges."""

import numpy as np

from windtunnel.tunnel.search.settings import SETTINGS
from windtunnel.tunnel.search.space import EDGE, Space

SPACE = Space(tuple(SETTINGS[name] for name in ("lr", "weight_decay")))


def test_points_are_spread_over_the_whole_space_and_no_further() -> None:
    low, high = SPACE.bounds
    points = SPACE.spread(100, seed=0)
    assert points.shape == (100, 2) and (points >= low).all() and (points <= high).all()
    share = (points - low) / (high - low)
    assert (np.abs(share.mean(0) - 0.5) < 0.05).all()
    assert (share.min(0) < 0.05).all() and (share.max(0) > 0.95).all()


def test_a_point_at_an_end_is_at_its_edge() -> None:
    low, high = SPACE.bounds
    middle = (low + high) / 2
    assert SPACE.edges(middle) == {}
    assert SPACE.edges(np.array([low[0], high[1]])) == {
        SPACE.names[0]: "low",
        SPACE.names[1]: "high",
    }
    within = np.array([low[0] + 1.01 * EDGE, high[1] - 1.01 * EDGE])
    assert SPACE.edges(within) == {}


def test_octaves_and_points_are_one_another() -> None:
    points = [SPACE.defaults]
    (octaves,) = SPACE.octaves(points)
    assert SPACE.point(octaves) == SPACE.defaults
