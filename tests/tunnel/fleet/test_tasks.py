"""Tasks: what is wanted once is one task, and each knows what is left to train of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.train.run import list_runs
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
