"""What a search makes of its runs: which points run again, how the chosen one compares with the
paper's, and what is said of it.
"""

from typing import Any

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.results.search import (
    Chosen,
    ExpectedGain,
    PairedDifference,
    PaperPoint,
    SearchNoise,
    SearchNumbers,
    SettingRange,
    Tried,
)
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.search.design import Design
from windtunnel.tunnel.search.search import choose, compare, judge, length, pick


class Known:
    """A surface whose mean is the sum of the coordinates."""

    def mean(self, at: np.ndarray) -> np.ndarray:
        return at.sum(1)


def picked(points: list[list[float]], number: int) -> list[int]:
    known: Any = Known()
    return pick(known, np.array(points), number)


def test_the_lowest_points_are_picked_best_first_and_no_more_than_asked_for() -> None:
    points = [[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]
    assert picked(points, 1) == [3]
    assert picked(points, 3) == [3, 1, 2]
    assert picked(points, 9) == [3, 1, 2, 0]


def test_points_closer_than_a_quarter_octave_in_every_setting_are_one() -> None:
    points = [[0.0, 0.0], [0.24, 0.2], [0.25, 0.0], [0.0, 0.3]]
    assert picked(points, 4) == [0, 2, 3], "a quarter in one of them is apart"


def test_the_chosen_point_has_the_least_mean() -> None:
    known: Any = Known()
    assert choose(known, np.array([[2.0, 1.0], [0.5, 0.0], [0.5, 0.5]])) == 1


def test_a_comparison_of_two_seeds_by_hand() -> None:
    """Differences of -0.03 and -0.01: mean -0.02, standard error 0.01; Student's t of one degree
    of freedom at 95% is 6.314.
    """
    found = compare([4.0, 4.1], [4.03, 4.11])
    assert found.mean == pytest.approx(-0.02)
    assert found.interval == pytest.approx((-0.02 - 0.06314, -0.02 + 0.06314), abs=1e-5)
    assert found.outcome == "ties"


@pytest.mark.parametrize(
    ("chosen", "paper", "outcome", "mean"),
    [
        ([4.0, 4.0], [4.1, 4.1], "beats", -0.1),
        ([4.1, 4.1], [4.0, 4.0], "loses", 0.1),
        ([4.0, 4.0], [4.0, 4.0], "ties", 0.0),
        ([None, 4.0], [4.0, 4.0], "loses", None),
        ([4.0, 4.0], [None, 4.0], "beats", None),
        ([None, None], [None, 4.0], "loses", None),
        ([None, 4.0], [None, 4.1], "ties", None),  # one pair tells no noise
        ([None, 4.0, 4.0], [None, 4.1, 4.1], "beats", -0.1),
        ([None, 4.0, 4.0], [4.1, None, 4.1], "ties", None),
    ],
)
def test_what_diverges_less_often_is_better_and_else_what_is_lower(
    chosen: list[float | None], paper: list[float | None], outcome: str, mean: float | None
) -> None:
    found = compare(chosen, paper)
    assert found.outcome == outcome
    assert found.mean == (mean if mean is None else pytest.approx(mean))
    assert (found.interval is None) is (mean is None)


def test_runs_are_of_ten_tokens_a_parameter_and_400_steps_at_least(corpus: Corpus) -> None:
    params = count(proxy(corpus, 64, 3).model).params
    steps = round(10 * params / 2048)
    assert steps > 400
    assert length(corpus, Design(width=64)) == steps * 2048
    assert length(corpus, Design(width=16)) == 400 * 2048
    assert length(corpus, Design(width=64, tokens=5000)) == 5000


def numbers_of(**changes: Any) -> SearchNumbers:
    point = {"lr": 0.02, "init_std": 0.07}
    values: dict[str, Any] = {
        "width": 32,
        "depth": 3,
        "tokens": 4096,
        "batch": 1024,
        "sampler": "known",
        "trials": 48,
        "seed": 0,
        "failed": 0,
        "settings": {
            "lr": SettingRange(low=0.0025, high=0.08, paper=0.01, searched="lr"),
            "beta2": SettingRange(low=0.003, high=0.2, paper=0.95, searched="1-beta2"),
        },
        "chosen": Chosen(point=point, trial=3, losses=(4.0,)),
        "defaults": PaperPoint(point={"lr": 0.01, "init_std": 0.1}, losses=(4.1,)),
        "difference": PairedDifference(mean=-0.1, interval=(-0.15, -0.05), seeds=3),
        "outcome": "beats",
        "luckiest": Tried(point=point, trial=3, loss=3.9),
        "candidates": (),
        "noise": SearchNoise(seed=0.01, run=0.005, measured=True),
        "bowls": {},
        "importances": {},
        "expected_gain": ExpectedGain(trials=(1, 32), gain=(0.001, 0.0123)),
        "core_minutes": 12.5,
    }
    return SearchNumbers(**values | changes)


def test_what_was_found_is_said_in_one_sentence() -> None:
    verdict, said = judge(numbers_of(), 66)
    assert verdict == "pass"
    assert said == (
        "lr 0.02, init_std 0.07 beats the paper's defaults over 3 fresh seeds: -0.1000 [-0.1500, "
        "-0.0500] nats/token (90%); 48 trials, 66 runs, 12.5 core-minutes; 32 more trials would "
        "gain about 0.0123"
    )


@pytest.mark.parametrize(
    ("outcome", "verdict"), [("beats", "pass"), ("ties", "pass"), ("loses", "fail")]
)
def test_only_what_loses_fails(outcome: str, verdict: str) -> None:
    assert judge(numbers_of(outcome=outcome), 66)[0] == verdict


def test_a_best_point_at_an_end_and_a_short_run_are_said() -> None:
    at_ends = numbers_of(outcome=None, edges={"lr": "high", "beta2": "low"})
    verdict, said = judge(at_ends, 66)
    assert verdict is None
    assert "lr lies at the upper end of what was searched (lr 0.08), so" in said
    assert "beta2 lies at the lower end of what was searched (1-beta2 0.003), so" in said
    assert said.endswith("runs of 4 steps are too short for a verdict, which needs 400")
    unknown = numbers_of(difference=PairedDifference(mean=None, interval=None, seeds=3))
    assert "over 3 fresh seeds; 48 trials" in judge(unknown, 66)[1]
