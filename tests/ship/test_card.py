"""The model card: what it says of a model that a plan asked for, and of corpora."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.quantities import about
from windtunnel.recipe import Recipe
from windtunnel.results.export import Agreement
from windtunnel.results.plan import PlanLaws, PlanResult, WeighedLaw
from windtunnel.ship import card
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.subject import Subject
from windtunnel.train.loop import train
from windtunnel.train.run import Run, create

BATCH = 128
AGREEMENT = Agreement(
    layout="hf",
    engine="an engine",
    tokens=2000,
    max_difference=1e-6,
    mean_difference=1e-7,
    bits_per_byte=2.0,
    bits_per_byte_change=0.0,
    most=1e-4,
    most_change=None,
    lines=0,
    wrong_lines=0,
)


@pytest.fixture(scope="module")
def run(make_lab: Any, stem: Callable[..., Recipe], corpus: Corpus) -> Run:
    made = create(make_lab().path, stem(10 * BATCH), corpus)
    train(made, corpus)
    return made


def _card(run: Run) -> str:
    return card.card(Subject.of(run), LAYOUTS["hf"], "fp32", AGREEMENT)


def test_it_says_what_a_plan_predicted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def law(form: str, weight: float) -> WeighedLaw:
        return WeighedLaw.model_construct(form=form, weight=weight)

    plan = PlanResult.model_construct(
        loss=3.86034,
        interval90=(3.805, 3.91),
        law=PlanLaws.model_construct(candidates=(law("tied", 0.75), law("free", 0.25))),
    )
    asked: list[Any] = []

    def plans_of_run(*of: Any) -> list[Path]:
        asked.append(of)
        return [Path("a plan")]

    monkeypatch.setattr(card, "plans_of_run", plans_of_run)
    monkeypatch.setattr(card, "read_plan", lambda folder: plan)
    said = (
        "a loss of 3.8603 nats/token, nine times in ten between 3.8050 and 3.9100 "
        "(laws: tied 75%, free 25%)."
    )
    assert said in _card(run) and asked == [(run.lab, run.id, run.corpus)]


def test_without_a_plan_it_says_nothing_of_one(run: Run) -> None:
    assert "## Plan" not in _card(run)


def test_it_ends_with_the_check_and_the_recipe(run: Run) -> None:
    text = _card(run)
    assert f"## Check\n\n{AGREEMENT}." in text and text.index("## Check") < text.index("## Recipe")


def test_a_line_of_runs_is_told_oldest_first_as_far_as_each_went(run: Run) -> None:
    """A stem, and a branch that leaves it at 6 steps and decays over the last two of ten."""
    branch = dataclasses.replace(
        run,
        path=run.path.with_name("b" * 12),
        recipe=run.recipe.change(schedule={"decay": 2 * BATCH, "decay_shape": "linear"}),
        kind="branch",
        parent=run.id,
        at_tokens=6 * BATCH,
    )
    subject = dataclasses.replace(Subject.of(run), run=branch, lineage=[branch, run])
    first, second = [line for line in card._history(subject).splitlines() if line.startswith("- ")]
    assert first.startswith(f"- stem `{run.id}`") and f"0 to {about(6 * BATCH)}, batch" in first
    assert "decay" not in first
    assert second.startswith("- branch `bbbbbbbbbbbb`")
    assert f"tokens {about(6 * BATCH)} to {about(10 * BATCH)}, batch" in second
    assert second.endswith(f", decay over the last {about(2 * BATCH)}")
    where_it_begins = dataclasses.replace(subject, tokens=8 * BATCH)
    assert "decay" not in card._history(where_it_begins)


def test_the_last_validation_up_to_the_exported_point_is_told(run: Run) -> None:
    subject, (*_, last) = Subject.of(run), run.validations()
    text = card._evaluation(subject)
    assert f"At {about(last.tokens)} tokens" in text
    assert f"| all | {last.validation.loss:.4f} | {last.validation.bits_per_byte:.4f} |" in text
    before = card._evaluation(dataclasses.replace(subject, tokens=last.tokens - 1))
    assert f"At {about(last.tokens)} tokens" not in before


@pytest.mark.parametrize("licence", ["", "CC0"])
def test_the_licence_of_a_source_is_told_or_that_none_is_known(run: Run, licence: str) -> None:
    subject = Subject.of(run)
    (manifest,) = card._manifests(subject).values()
    for entry in manifest.sources.values():
        object.__setattr__(entry, "licence", licence)
    text = card._data(subject)
    assert (" | not known | " in text) == (not licence) and (" | CC0 | " in text) == bool(licence)


def test_a_corpus_that_was_built_again_is_not_that_of_the_run(run: Run) -> None:
    assert "| tiny | prose | generated |" in _card(run)
    other = dataclasses.replace(run, corpus="0" * 16)
    assert "## Data" not in _card(other)
