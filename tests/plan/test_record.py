"""Plans on disk: what is written is what is read, the audit stays, and a damaged file is refused by
its field.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.laws.choice import Predictor
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.plan import work_out
from windtunnel.plan.record import (
    audited,
    compare,
    plans,
    plans_of_run,
    read_plan,
    rewrite_plan,
    write_plan,
)
from windtunnel.plan.request import Request
from windtunnel.recipe import Recipe, identity
from windtunnel.results.plan import PlanResult

Made = tuple[Path, Recipe, PlanResult]


@pytest.fixture
def made(evidence: Evidence, predictor: Predictor, tmp_path: Path) -> Made:
    """A plan's folder in a lab, its recipe, and what it says."""
    folder = tmp_path / "lab" / "plans" / "first"
    recipe, plan = work_out(evidence, predictor, Request(flops=1e11), None, folder)
    write_plan(folder, recipe, plan)
    return folder, recipe, plan


def changed(folder: Path, **keys: Any) -> None:
    """The plan with other values in its file; `...` takes a key out."""
    content = json.loads((folder / "plan.json").read_text()) | keys
    kept = {key: value for key, value in content.items() if value is not ...}
    (folder / "plan.json").write_text(json.dumps(kept))


def test_a_plan_is_read_as_it_was_written(made: Made) -> None:
    folder, recipe, plan = made
    assert read_plan(folder) == plan
    assert (folder / "plan.json").read_text() == plan.to_json() + "\n"
    assert "audit" not in json.loads(plan.to_json())
    assert plans(folder.parents[1]) == [folder]
    assert plans_of_run(folder.parents[1], identity(recipe, "abc"), "abc") == [folder]
    assert plans_of_run(folder.parents[1], identity(recipe, "abc"), "other") == []


def test_numbers_have_ten_digits(made: Made) -> None:
    _, _, plan = made
    assert plan.loss == float(f"{plan.loss:.10g}")
    assert all(size.tokens == float(f"{size.tokens:.10g}") for size in plan.at_this_cost)


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"loss": ...}, "loss: missing"),
        ({"loss": "low"}, "loss: .*got 'low'"),
        ({"interval90": [1.0]}, r"interval90\.1: missing"),
        ({"shape": {"width": 32}}, r"shape\.depth: missing"),
        ({"go": "perhaps"}, "go: "),
    ],
)
def test_a_damaged_plan_is_refused_by_its_field(
    made: Made, keys: dict[str, Any], field: str
) -> None:
    folder, _, _ = made
    changed(folder, **keys)
    with pytest.raises(InputError, match=rf"plan\.json: {field}"):
        read_plan(folder)


def test_a_plan_of_the_last_release_is_read(made: Made) -> None:
    """It did not tell copies and head apart."""
    folder, _, plan = made
    training = json.loads(plan.to_json())["training"]
    for key in ("copies", "head", "recompute"):
        del training["bytes"][key]
    changed(folder, training=training)
    memory = read_plan(folder).training.bytes
    assert (memory.states, memory.head) == (plan.training.bytes.states, 0)
    assert "head" not in json.loads(read_plan(folder).to_json())["training"]["bytes"]


def test_a_plan_that_told_a_and_b_alone_is_read(made: Made) -> None:
    folder, _, plan = made
    law = json.loads(plan.to_json())["law"]
    for one in law["candidates"]:
        del one["log_A"], one["log_B"]
    changed(folder, law=law)
    first, now = read_plan(folder).law.candidates[0], plan.law.candidates[0]
    assert (first.A, first.B) == (now.A, now.B) and first.A is not None
    assert (first.log_A, first.log_B) == (None, None) and now.log_A is not None


def test_predicted_against_got(made: Made) -> None:
    numbers = {"loss": 4.0, "interval50": (3.9, 4.1), "interval90": (3.8, 4.2)}
    audit = compare(made[2].model_copy(update=numbers), "r", 4.15)
    assert (audit.run, audit.loss, audit.predicted) == ("r", 4.15, 4.0)
    assert audit.error == pytest.approx(4.0 / 4.15 - 1)
    assert (audit.inside50, audit.inside90) == (False, True)


def test_an_audit_stays_while_the_recipe_does(made: Made) -> None:
    folder, recipe, plan = made
    rewrite_plan(folder, audited(plan, compare(plan, "r", 4.0)))
    lower = plan.model_copy(update={"loss": 3.0})
    write_plan(folder, recipe, lower)
    audit = read_plan(folder).audit
    assert audit is not None and audit.run == "r" and audit.predicted == plan.loss
    write_plan(folder, recipe.change(seed=1), lower)
    assert read_plan(folder).audit is None
