"""Tasks: what is wanted once is one task, and each knows what is left to train of it."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windtunnel.tunnel
from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.scaling import SCALING
from windtunnel.train.loop import train
from windtunnel.train.run import Run, create, list_runs, open_run
from windtunnel.tunnel.fleet.tasks import Branch, Tasks

Make = Callable[..., Recipe]


@pytest.fixture
def tasks(tmp_path: Path, corpus: Corpus) -> Tasks:
    return Tasks(tmp_path, corpus)


def stem_of(recipe: Make, **more: Any) -> Recipe:
    return recipe(schedule={"tokens": 6400, "warmup": 512, "decay": 0}, **more)


def test_what_is_wanted_twice_is_one_task(tasks: Tasks, recipe: Make) -> None:
    stem = stem_of(recipe)
    first = tasks.add(Branch(stem, 2560, 640, mixture={"code": 1.0}))
    assert tasks.add(Branch(stem, 2560, 640, mixture={"code": 1.0})) is first
    assert tasks.add(Branch(stem, 2560, 640, mixture={"code": 2.0})) is not first
    assert tasks.add(stem) is first.stem
    assert len(tasks.all) == 3


def test_a_stem_is_told_where_it_is_left_and_stays_the_same_run(tasks: Tasks, recipe: Make) -> None:
    stem = stem_of(recipe)
    late = Branch(Branch(stem, 5120, 0, tokens=12_800), 10_240, 640)
    for branch in (Branch(stem, 2560, 640), late):
        tasks.add(branch)
    tasks.open_stems()
    (run,) = list_runs(tasks.lab)
    assert run.recipe.train.branch_points == (2560, 5120)


def test_a_run_that_is_there_is_told_where_it_is_left_and_keeps_its_parent(
    tasks: Tasks, recipe: Make, corpus: Corpus
) -> None:
    parent = create(tasks.lab, recipe(), corpus)
    train(parent, corpus)
    changed = recipe(seed=5, schedule={"tokens": 6400, "warmup": 512, "decay": 0})
    there = create(tasks.lab, changed, corpus, parent, 6400, anew=True)
    branch = tasks.add(Branch(there, 2560, 640))
    assert tasks.add(there) is branch.stem
    tasks.open_stems()
    assert branch.stem and branch.stem.begun.id == there.id
    told = open_run(there.path)
    assert (told.parent, told.anew, told.recipe.train.branch_points) == (parent.id, True, (2560,))
    assert len(list_runs(tasks.lab)) == 2
    assert tasks.waiting() == [branch.stem]


def test_a_branch_waits_for_its_stem_and_the_longest_task_goes_first(
    tasks: Tasks, recipe: Make
) -> None:
    short, stem = recipe(name="short", schedule={"tokens": 1280, "warmup": 512}), stem_of(recipe)
    alone, branch = tasks.add(short), tasks.add(Branch(stem, 2560, 640))
    assert branch.stem and branch.run is None and not branch.over()
    assert tasks.waiting() == [branch.stem, alone]
    each = flops_per_token(short.model, short.data.context)
    assert [task.work_left() for task in (alone, branch)] == [1280 * each, 640 * each]


def test_a_branch_of_a_stem_that_failed_before_it_is_over(tasks: Tasks, recipe: Make) -> None:
    branch = tasks.add(Branch(stem_of(recipe), 2560, 640))
    assert branch.stem and branch.stem.run
    branch.stem.run.write_status("failed", 1280, reason="diverged")
    assert branch.over() and branch.work_left() == 0
    assert branch.result().id == branch.stem.run.id
    assert tasks.waiting() == []


def test_a_branch_ends_behind_its_decay_or_where_it_was_asked_to(recipe: Make) -> None:
    stem = stem_of(recipe)
    assert Branch(stem, 2560, 640).end == 3200
    assert Branch(stem, 2560, 0, tokens=5120).end == 5120
    defaults = Branch(stem, 2560, 640)
    assert (defaults.shape, defaults.floor, defaults.tokens) == ("linear", 0.0, 0)


def test_a_stem_can_be_left_where_it_keeps_a_checkpoint_or_when_it_is_done(
    tasks: Tasks, recipe: Make
) -> None:
    branch = tasks.add(Branch(stem_of(recipe), 2560, 640))
    stem = branch.stem
    assert stem and stem.run and branch.at == 2560 and stem.at == 0
    assert not stem.can_be_left(2560) and not stem.has(2560)
    (stem.run.checkpoints / "000000000002560").mkdir(parents=True)
    assert stem.has(2560) and stem.can_be_left(2560) and not stem.can_be_left(5120)
    assert not branch.can_be_left(3200), "it has no run yet"
    stem.run.write_status("failed", 3000, reason="diverged")
    assert not stem.failed_before(2560) and stem.failed_before(5120)
    assert not branch.over()
    stem.run.write_status("done", 6400)
    assert stem.can_be_left(5120) and not stem.failed_before(5120)


def test_a_branch_of_a_branch_of_a_stem_that_failed_is_over_too(tasks: Tasks, recipe: Make) -> None:
    on = Branch(stem_of(recipe), 2560, 0, tokens=6400)
    last = tasks.add(Branch(on, 5120, 640))
    assert last.stem and last.stem.stem and last.stem.stem.run and not last.over()
    assert last.recipe.name == last.stem.recipe.name == "tiny"
    last.stem.stem.run.write_status("failed", 1280, reason="diverged")
    assert last.stem.over() and last.over() and last.work_left() == 0
    assert last.result().id == last.stem.stem.run.id


def test_what_is_left_of_a_run_is_behind_where_it_is(tasks: Tasks, recipe: Make) -> None:
    task = tasks.add(stem_of(recipe))
    each = flops_per_token(task.recipe.model, task.recipe.data.context)
    assert task.work_left() == 6400 * each and not task.over()
    task.begun.write_status("interrupted", 2560)
    assert task.work_left() == 3840 * each
    for status in ("done", "failed"):
        task.begun.write_status(status, 6400)
        assert task.over() and task.work_left() == 0


def test_the_one_with_most_work_left_waits_first(tasks: Tasks, recipe: Make) -> None:
    """Not the longest as it was asked for."""
    long, short = (
        tasks.add(recipe(name=name, schedule={"tokens": tokens, "warmup": 512}))
        for name, tokens in (("long", 6400), ("short", 5120))
    )
    assert tasks.waiting() == [long, short]
    long.begun.write_status("interrupted", 3840)
    assert tasks.waiting() == [short, long]
    short.begun.write_status("done", 5120)
    assert tasks.waiting() == [long]


def test_a_run_that_is_over_is_not_looked_at_again(
    tasks: Tasks, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    status = Run.status
    monkeypatch.setattr(Run, "status", lambda run: (read.append(run.id), status(run))[1])
    task = tasks.add(recipe())
    assert not task.over() and not task.over() and len(read) == 2
    task.begun.write_status("done", 6400)
    assert task.over() and task.over() and task.work_left() == 0 and len(read) == 3


def test_of_which_study_the_runs_are_is_known_before_they_are_trained(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """A branch as soon as there is one, and those of an earlier fleet of the study as well."""
    file = SCALING.folder(tmp_path) / "runs.json"
    names: list[int] = []
    for seed in (0, 1):
        tasks = Tasks(tmp_path, corpus, SCALING)
        stem = tasks.add(stem_of(recipe, seed=seed))
        branch = tasks.add(Branch(stem.begun, 2560, 640))
        tasks.open_stems()
        names.append(len(json.loads(file.read_text())["runs"]))
        train(stem.begun, corpus)
        tasks.waiting()
        assert json.loads(file.read_text())["runs"][-2:] == [stem.begun.id, branch.begun.id]
    assert names == [1, 3]


def test_every_experiment_says_of_which_study_its_fleets_are() -> None:
    calls = []
    for file in Path(windtunnel.tunnel.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                calls += [node] if node.func.id == "fleet" else []
    assert len(calls) >= 6
    for call in calls:
        assert len(call.args) == 6, ast.unparse(call)
