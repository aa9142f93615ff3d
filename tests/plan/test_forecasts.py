"""A plan seals what it predicts before there is a recipe to train, once for the same answer."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledgers import add, forecast, outcome
from plan_labs import table_of, with_study

from windtunnel.data.shards import Corpus
from windtunnel.laws.choice import Predictor
from windtunnel.plan.evidence import Evidence, from_table
from windtunnel.plan.forecasts import open_forecast, seal
from windtunnel.plan.ledger import read_ledger
from windtunnel.plan.plan import plan, work_out
from windtunnel.plan.record import read_plan, recipe_of
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.recipe import Recipe, identity
from windtunnel.results.plan import PlanResult

ASKED = Request(flops=1e11, name="first")
DYING = """
import os, signal, sys
from pathlib import Path
import windtunnel.plan.plan as plans
from windtunnel.data.shards import Corpus
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

plans.write_plan = die
lab = Path(sys.argv[1])
corpus = Corpus.open(lab / "corpora" / "tiny")
plans.plan(lab, from_lab(lab, "scaling"), Request(flops=1e11, name="first"), corpus)
"""

Made = tuple[Recipe, PlanResult]


@pytest.fixture(scope="module")
def made(evidence: Evidence, predictor: Predictor) -> Made:
    return work_out(evidence, predictor, ASKED, None, Path("lab/plans/first"))


@pytest.fixture
def with_corpus(corpus: Corpus, tmp_path: Path) -> tuple[Path, Corpus]:
    """A lab with a scaling study and its corpus."""
    lab = with_study(tmp_path / "lab")
    shutil.copytree(corpus.folder, lab / "corpora" / "tiny")
    return lab, Corpus.open(lab / "corpora" / "tiny")


def test_a_plan_seals_the_run_of_its_recipe(with_corpus: tuple[Path, Corpus]) -> None:
    lab, corpus = with_corpus
    folder = plan(lab, from_lab(lab, "scaling"), ASKED, corpus)
    (sealed,) = read_ledger(lab).forecasts
    assert sealed.run == identity(recipe_of(folder), corpus.digest)
    assert read_plan(folder).forecast == sealed.id


def test_killed_after_the_seal_the_same_command_adds_no_second(
    with_corpus: tuple[Path, Corpus],
) -> None:
    lab, corpus = with_corpus
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", DYING, str(lab)], env=environment)
    assert done.returncode == -signal.SIGKILL and not (lab / "plans").exists()
    (sealed,) = read_ledger(lab).forecasts
    folder = plan(lab, from_lab(lab, "scaling"), ASKED, corpus)
    assert read_ledger(lab).forecasts == [sealed]
    assert read_plan(folder).forecast == sealed.id


def test_without_a_corpus_nothing_is_sealed(corpus: Corpus, tmp_path: Path) -> None:
    """There is no run yet; a table with a corpus of the lab has one."""
    lab, found = tmp_path / "lab", from_table(table_of(tmp_path / "table.csv"))
    folder = plan(lab, found, ASKED, None)
    assert read_plan(folder).forecast is None and not (lab / "forecasts.jsonl").exists()
    folder = plan(lab, found, ASKED, corpus)
    (sealed,) = read_ledger(lab).forecasts
    assert read_plan(folder).forecast == sealed.id


def test_the_same_answer_is_the_same_forecast_and_another_is_not(
    made: Made, predictor: Predictor, tmp_path: Path
) -> None:
    recipe, said = made
    points = predictor.points
    first = seal(tmp_path, recipe, said, "corpus", points)
    assert seal(tmp_path, recipe, said, "corpus", points) == first
    once_more = points.select(range(len(points)))
    once_more.loss[-1] *= 1.0001
    other: list[tuple[Recipe, PlanResult, str, Any]] = [
        (recipe, said.model_copy(update={"loss": 3.0}), "corpus", points),
        (recipe.change(seed=1), said, "corpus", points),
        (recipe, said, "another corpus", points),
        (recipe, said.model_copy(update={"plan": "second"}), "corpus", points),
        (recipe, said, "corpus", once_more),
        (recipe, said, "corpus", replace(points, flops=2 * points.flops)),
        (recipe, said, "corpus", replace(points, stem=points.stem[::-1])),
    ]
    ids = {first.id, *(seal(tmp_path, *each).id for each in other)}
    assert len(ids) == len(read_ledger(tmp_path).forecasts) == 1 + len(other)


def test_a_run_that_is_there_already_has_begun(
    made: Made, predictor: Predictor, tmp_path: Path
) -> None:
    recipe, said = made
    (tmp_path / "runs" / identity(recipe, "corpus")).mkdir(parents=True)
    assert seal(tmp_path, recipe, said, "corpus", predictor.points).begun
    assert not seal(tmp_path, recipe, said, "another corpus", predictor.points).begun


def test_a_seal_that_was_changed_is_none(made: Made, predictor: Predictor, tmp_path: Path) -> None:
    recipe, said = made
    first = seal(tmp_path, recipe, said, "corpus", predictor.points)
    file = tmp_path / "forecasts.jsonl"
    file.write_text(file.read_text().replace(f'"loss": {first.loss}', '"loss": 3.0'))
    again = seal(tmp_path, recipe, said, "corpus", predictor.points)
    changed, sealed = read_ledger(tmp_path).forecasts
    assert (changed.loss, sealed.loss, again) == (3.0, first.loss, sealed)


def test_a_forecast_is_opened_once_for_a_run(tmp_path: Path) -> None:
    sealed = forecast()
    add(tmp_path, sealed)
    first = open_forecast(tmp_path, outcome(sealed, 4.1))
    assert open_forecast(tmp_path, outcome(sealed, 4.3)) == first
    other = open_forecast(tmp_path, outcome(sealed, 4.3, other=True))
    assert [one.loss for one in read_ledger(tmp_path).outcomes] == [4.1, 4.3]
    assert other.other_run and not first.other_run
    assert (first.inside50, first.inside90) == (True, True)
    assert first.error == pytest.approx(4 / 4.1 - 1, rel=1e-8)
    assert (other.inside50, other.inside90) == (False, False)
