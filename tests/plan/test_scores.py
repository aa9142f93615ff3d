"""What a plan says of scores: the law through the lab's runs that were evaluated, at its loss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.choice import Predictor
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.plan import work_out
from windtunnel.plan.request import Request
from windtunnel.plan.scores import expected_scores
from windtunnel.results.plan import PlanResult, expected_in_words
from windtunnel.results.scores import ScoredRun, TaskScores

CHANCE, MIDDLE, STEEPNESS = 0.25, 4.5, 3.0
LOSSES = np.linspace(3.8, 5.2, 6)


def truth(loss: float) -> float:
    return CHANCE + (1 - CHANCE) / (1 + np.exp(STEEPNESS * (loss - MIDDLE)))


def scores(task: str, corpus: str, flat: bool = False) -> TaskScores:
    runs = []
    for number, loss in enumerate(LOSSES.tolist()):
        score = 0.5 + 0.02 * (-1) ** number if flat else truth(loss)
        runs.append(ScoredRun(run=f"run{number}", tokens=1000, loss=loss, score=score, stderr=0.02))
    return TaskScores(
        task=task, metric="acc", settings={}, corpus=corpus, chance=CHANCE, runs=tuple(runs)
    )


def test_the_score_is_that_of_the_law_and_knows_how_sure_the_loss_is(tmp_path: Path) -> None:
    scores("questions", "web").keep(tmp_path)
    scores("others", "another").keep(tmp_path)
    (sure,) = expected_scores(tmp_path, "web", 4.2, (4.2, 4.2))
    (found,) = expected_scores(tmp_path, "web", 4.2, (4.0, 4.5))
    assert (found.task, found.metric, found.runs[-1]) == ("questions", "acc", "run5")
    assert found.score == sure.score == pytest.approx(truth(4.2), abs=1e-3)
    assert found.interval90[0] < sure.interval90[0] < found.score
    assert found.score < sure.interval90[1] < found.interval90[1]
    assert not found.flat and found.losses == (3.8, 5.2)
    assert expected_in_words(found, 4.2).startswith(f"questions, acc: {found.score:.2f}, nine")
    assert "beyond which this lies" not in expected_in_words(found, 4.2)
    assert "losses from 3.80 to 5.20, beyond which" in expected_in_words(found, 3.5)


def test_where_scores_follow_no_loss_it_says_so(tmp_path: Path) -> None:
    scores("questions", "web", flat=True).keep(tmp_path)
    (found,) = expected_scores(tmp_path, "web", 4.2, (4.0, 4.5))
    assert found.flat and "no law" in expected_in_words(found, 4.2)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = scores("questions", "web").keep(tmp_path)
    file.write_text("{")
    with pytest.raises(InputError, match=file.name):
        expected_scores(tmp_path, "web", 4.2, (4.0, 4.5))


def test_a_plan_tells_what_its_model_may_score(
    evidence: Evidence, predictor: Predictor, corpus: Corpus, tmp_path: Path
) -> None:
    assert evidence.corpus == corpus.folder.name
    scores("questions", corpus.folder.name).keep(tmp_path)

    def planned(evidence: Evidence, lab: Path) -> PlanResult:
        request = Request(flops=1e11)
        return work_out(replace(evidence, lab=lab), predictor, request, corpus, lab / "plans/a")[1]

    plan = planned(evidence, tmp_path)
    (found,) = plan.scores
    assert found.score == pytest.approx(truth(plan.loss), abs=1e-3), "by the predicted loss"
    (again,) = expected_scores(tmp_path, corpus.folder.name, plan.loss, plan.interval90)
    assert found.interval90 == pytest.approx(again.interval90)
    assert PlanResult.parse(plan.to_json(), "it").scores == plan.scores
    assert "scores" not in planned(evidence, tmp_path / "empty").to_json()
    # another corpus's losses do not compare
    assert planned(replace(evidence, corpus="another"), tmp_path).scores == ()
