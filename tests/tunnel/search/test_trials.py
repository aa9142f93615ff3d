"""Trials in a storage: where they begin, and what is told of them."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from windtunnel.tunnel.search.alone import with_driver
from windtunnel.tunnel.search.settings import SETTINGS
from windtunnel.tunnel.search.space import SearchPoint, Space
from windtunnel.tunnel.search.trials import Outcome, Trials, open_trials, worst_loss

PAIR = Space((SETTINGS["lr"], SETTINGS["init_std"]))


def opened(folder: Path, start: int = 3, seed: int = 5) -> Trials:
    return open_trials(f"sqlite:///{folder / 'trials.db'}", PAIR, start, seed, "test", ["x"])


def test_the_papers_point_comes_first_and_then_a_sequence_of_the_seeds_own(tmp_path: Path) -> None:
    trials = opened(tmp_path)
    points = trials.ask(3)
    spread = [PAIR.point(octaves) for octaves in PAIR.spread(2, 5)]
    assert points == [PAIR.defaults, *spread]
    assert trials.ask(2) == points[:2], "what was asked for is not asked for again"
    assert len(trials.study.get_trials()) == 3


def test_the_first_trial_behind_the_start_is_suggested(tmp_path: Path) -> None:
    """By the losses so far: away from every point that was tried."""
    trials = opened(tmp_path)
    begun = trials.ask(3)
    trials.tell(0, [Outcome(f"run{i}", 4.0 + i) for i in range(3)])
    *_, suggested = trials.ask(4)
    sequence = [PAIR.point(octaves) for octaves in PAIR.spread(4, 5)]
    assert suggested not in sequence
    tried = PAIR.octaves(begun)
    assert np.abs(tried - PAIR.octaves([suggested])).max(axis=1).min() >= 0.24


def test_another_design_or_seed_has_trials_of_its_own_and_the_same_goes_on(tmp_path: Path) -> None:
    names = {opened(tmp_path).study.study_name for _ in range(2)}
    assert len(names) == 1 and next(iter(names)).startswith("test ")
    names |= {opened(tmp_path, seed=6).study.study_name, opened(tmp_path, 4).study.study_name}
    assert len(names) == 3


def test_trials_are_told_from_the_first_that_is_named(tmp_path: Path) -> None:
    trials = opened(tmp_path)
    trials.ask(3)
    trials.tell(1, [Outcome("b", 5.0), Outcome("c", None, "not a number")])
    first, second, third = trials.study.get_trials()
    assert first.value is None and second.value == third.value == 5.0
    assert (second.user_attrs, third.user_attrs) == (
        {"run": "b"},
        {"run": "c", "diverged": "not a number"},
    )


@pytest.mark.parametrize(
    ("losses", "worst"),
    [
        ([4.0, 6.0, 5.0], 6.0),
        ([4.0, None, math.inf, math.nan], 4.0),
        ([None, None], 0.0),
        ([], 0.0),
    ],
)
def test_the_worst_is_of_those_that_came_to_their_end(
    losses: list[float | None], worst: float
) -> None:
    assert worst_loss(losses) == worst


def test_a_trial_that_was_killed_while_it_was_asked_has_no_place(tmp_path: Path) -> None:
    trials = opened(tmp_path)
    trials.ask(1)
    trials.study.ask()  # killed before its point was written
    points = opened(tmp_path).ask(2)
    assert points[1] == PAIR.point(PAIR.spread(2, 5)[0])
    states = [trial.state.name for trial in trials.study.get_trials()]
    assert states == ["RUNNING", "FAIL", "RUNNING"]


def test_two_searches_of_one_storage_ask_the_same_trials_once(tmp_path: Path) -> None:
    """At the same time: neither takes what the other is just asking for a dead one's."""
    both = threading.Barrier(2)
    searches = [opened(tmp_path, start=6) for _ in range(2)]

    def search(trials: Trials) -> list[SearchPoint]:
        both.wait()
        points = trials.ask(6)
        trials.tell(0, [Outcome(f"run{i}", 4.0 + i) for i in range(6)])
        return points

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(search, searches)
    assert first == second
    found = opened(tmp_path, start=6).study.get_trials()
    assert [trial.value for trial in found] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.mark.parametrize(
    ("typed", "opened"),
    [
        ("postgresql://lab@db/trials", "postgresql+psycopg://lab@db/trials"),
        ("postgres://lab@db/trials", "postgresql+psycopg://lab@db/trials"),
        ("postgresql+psycopg2://lab@db/trials", "postgresql+psycopg2://lab@db/trials"),
        ("sqlite:///trials.db", "sqlite:///trials.db"),
    ],
)
def test_a_url_without_a_driver_gets_the_one_that_is_installed(typed: str, opened: str) -> None:
    assert with_driver(typed) == opened
