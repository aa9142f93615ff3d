"""The space of a search: its points in octaves, spread within its bounds, and its edges."""

import numpy as np
import pytest

from windtunnel.tunnel.search.settings import SETTINGS
from windtunnel.tunnel.search.space import EDGE, Space, changes, space

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


def test_an_edge_is_a_quarter_of_an_octave_from_the_end() -> None:
    low, high = SPACE.bounds
    assert EDGE == 0.25
    just_outside = np.array([low[0] + 0.249, high[1] - 0.249])
    assert SPACE.edges(just_outside) == {"lr": "low", "weight_decay": "high"}
    assert SPACE.edges(np.array([low[0] + EDGE, high[1] - EDGE])) == {}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9])
def test_as_many_points_are_spread_as_are_asked_for_and_more_go_on_from_fewer(count: int) -> None:
    points = SPACE.spread(count, seed=3)
    assert points.shape == (count, 2)
    assert points.tolist() == SPACE.spread(16, seed=3)[:count].tolist()
    assert count == 0 or points.tolist() != SPACE.spread(count, seed=4).tolist()


def test_coordinates_are_clipped_to_the_bounds() -> None:
    low, high = SPACE.bounds
    middle = (low + high) / 2
    assert SPACE.clip(np.array([low - 1, middle, high + 1])).tolist() == [
        low.tolist(),
        middle.tolist(),
        high.tolist(),
    ]


def test_the_papers_settings_come_first_and_those_asked_for_in_their_order() -> None:
    assert space(("warmup", "beta2")).names == [
        "lr",
        "scale_depth",
        "scale_emb",
        "init_std",
        "warmup",
        "beta2",
    ]


def test_a_point_is_sections_of_a_recipe_and_a_warmup_is_in_tokens() -> None:
    point = {"lr": 0.02, "beta2": 0.9, "init_std": 0.05, "warmup": 0.1}
    assert changes(point, 40_960, 2048) == {
        "optimizer": {"lr": 0.02, "beta2": 0.9},
        "model": {"init_std": 0.05},
        "schedule": {"warmup": 4096},
    }
    assert changes({"warmup": 0.1}, 40_960, 8192) == {"schedule": {"warmup": 8192}}, "a step"
