"""The law from loss to score: what made the points is found again, as often as it says."""

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.laws.score import ScorePoint, fit_score

CHANCE, MIDDLE, STEEPNESS, ITEMS = 0.25, 0.9, 6.0, 400


def truth(loss: float) -> float:
    return CHANCE + (1 - CHANCE) / (1 + np.exp(STEEPNESS * (loss - MIDDLE)))


def measured(draw: np.random.Generator, losses: np.ndarray) -> list[ScorePoint]:
    points = []
    for loss in losses:
        score = draw.binomial(ITEMS, truth(loss)) / ITEMS
        error = np.sqrt(max(score * (1 - score), 0.01) / ITEMS)
        points.append(ScorePoint(loss=float(loss), score=float(score), stderr=float(error)))
    return points


def test_what_made_the_points_is_found() -> None:
    losses = np.linspace(0.6, 1.3, 8)
    exact = [ScorePoint(loss=float(x), score=truth(x), stderr=0.01) for x in losses]
    law = fit_score(exact, CHANCE)
    assert law.middle == pytest.approx(MIDDLE, abs=1e-4)
    assert law.steepness == pytest.approx(STEEPNESS, rel=1e-3)
    assert law.at(0.5)[0] == pytest.approx(truth(0.5), abs=1e-4)
    assert law.reach == pytest.approx((0.6, 1.3)) and law.scatter == 1


def test_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    held, runs = 0, 40
    for _ in range(runs):
        law = fit_score(measured(draw, np.linspace(0.85, 1.4, 6)), CHANCE)
        _, low, high = law.at(0.75)
        held += low <= truth(0.75) <= high
    assert 0.75 <= held / runs <= 1


def test_where_scores_are_chance_no_law_is_seen() -> None:
    draw = np.random.default_rng(1)
    points = [
        ScorePoint(loss=float(x), score=0.25 + 0.02 * draw.standard_normal(), stderr=0.02)
        for x in np.linspace(2.0, 3.0, 8)
    ]
    value, low, high = fit_score(points, CHANCE).at(1.9)
    assert low <= value <= high and value < 0.4


def test_points_that_scatter_widen_the_interval() -> None:
    losses = np.linspace(0.6, 1.3, 8)
    draw = np.random.default_rng(2)
    rough = [
        ScorePoint(loss=float(x), score=truth(x) + 0.05 * draw.standard_normal(), stderr=0.005)
        for x in losses
    ]
    law = fit_score(rough, CHANCE)
    assert law.scatter > 3
    assert law.at(1.0)[2] - law.at(1.0)[1] > 0.02


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_models_are_refused(count: int) -> None:
    points = [ScorePoint(loss=1.0 + at, score=0.5, stderr=0.1) for at in range(count)]
    with pytest.raises(InputError, match="at least 4 models"):
        fit_score(points)
    with pytest.raises(InputError, match="at least 4 models"):
        fit_score(points * 4)


def test_a_chance_of_one_is_refused() -> None:
    points = [ScorePoint(loss=1.0 + at, score=0.5, stderr=0.1) for at in range(5)]
    with pytest.raises(InputError, match="below 1"):
        fit_score(points, 1.0)


def test_a_loss_that_is_not_sure_makes_the_score_less_sure() -> None:
    law = fit_score(measured(np.random.default_rng(2), np.linspace(0.6, 1.3, 8)), CHANCE)
    score, low, high = law.at(0.9)
    same, lower, higher = law.at(0.9, (0.8, 1.1))
    assert same == score and lower < low < score < high < higher
    assert lower == pytest.approx(truth(1.1), abs=0.04)
    assert higher == pytest.approx(truth(0.8), abs=0.04)
    assert law.at(0.9, (0.9, 0.9)) == (score, low, high)
