"""The fleet: real worker processes, real kills."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing import active_children
from typing import Any

import pytest
from patience import wait_until
from processes import Process

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe, dump
from windtunnel.results.populations import Populations
from windtunnel.train.loop import Watch
from windtunnel.train.run import list_runs
from windtunnel.tunnel.fleet.fleet import Branch, Interrupted, fleet
from windtunnel.tunnel.fleet.populations import shape_name
from windtunnel.tunnel.fleet.worker import kind_of_device
from windtunnel.tunnel.study import final

pytestmark = pytest.mark.usefixtures("eager")

Make = Callable[..., Recipe]
STEP = 128

PROGRAM = """
import sys
from pathlib import Path
from windtunnel.data.shards import Corpus
from windtunnel.recipe import load
from windtunnel.train.loop import Watch
from windtunnel.tunnel.fleet.fleet import Branch, fleet
lab = Path(sys.argv[1])
recipes = [load(Path(file)) for file in sys.argv[2:]]
wanted = recipes + [Branch(recipes[0], at, 1280) for at in (2560, 5120)]
fleet(lab, Corpus.open(lab / "corpora" / "tiny"), wanted, Watch(), "test")
"""


@pytest.fixture
def opened(lab: Any) -> Corpus:
    return Corpus.open(lab.path / "corpora" / "tiny")


def stem_of(recipe: Make, tokens: int, **more: Any) -> Recipe:
    return recipe(schedule={"tokens": tokens, "warmup": 512, "decay": 0}, **more)


def test_runs_come_back_in_order_and_are_trained_once(
    lab: Any, opened: Corpus, recipe: Make
) -> None:
    short, long = (
        recipe(name="short", seed=1),
        recipe(name="long", schedule={"tokens": 12800, "warmup": 512}),
    )
    said: list[str] = []
    first = fleet(lab.path, opened, [short, long, short], Watch(say=said.append), "two")
    assert [run.recipe.name for run in first] == ["short", "long", "short"]
    assert all(run.status().status == "done" for run in first)
    assert len(said) == 1 and said[0].startswith("two: 2 of 2 runs to train")
    before = {run.id: (run.path / "metrics.jsonl").stat().st_mtime_ns for run in first}
    said.clear()
    again = fleet(lab.path, opened, [long, short], Watch(say=said.append), "two")
    assert [run.id for run in again] == [first[1].id, first[0].id] and not said
    assert before == {run.id: (run.path / "metrics.jsonl").stat().st_mtime_ns for run in again}


def test_a_branch_is_the_branch_of_its_stem_and_the_stem_is_trained_for_it(
    lab: Any, opened: Corpus, recipe: Make
) -> None:
    stem = stem_of(recipe, 6400)
    early, late = Branch(stem, 2560, 640), Branch(stem, 6400, 1280, name="late")
    runs = fleet(lab.path, opened, [late, early], Watch(), "branches")
    assert [(r.kind, r.at_tokens, r.recipe.total_tokens) for r in runs] == [
        ("branch", 6400, 7680),
        ("branch", 2560, 3200),
    ]
    assert runs[0].parent == runs[1].parent and runs[0].recipe.name == "late"
    by_hand = lab.train(recipe(schedule={"tokens": 3200, "warmup": 512, "decay": 640}))
    scored = final(runs[1])
    assert scored and scored.loss == pytest.approx(
        json.loads((by_hand / "status.json").read_text())["loss"]
    )


def test_a_stem_goes_on_with_another_batch_and_rate(lab: Any, opened: Corpus, recipe: Make) -> None:
    stem = stem_of(recipe, 5120)
    on = Branch(stem, 2560, 0, tokens=7680, batch=256, lr=0.014)
    end = Branch(on, 6400, 1280)
    cheap = Branch(stem, 2560, 512, batch=256)
    runs = fleet(lab.path, opened, [end, cheap, on], Watch(), "chain")
    chain = {run.id: run for run in list_runs(lab.path)}
    going_on = chain[str(runs[0].parent)]
    assert (
        going_on.kind == "stem"
        and going_on.recipe.train.batch == 256
        and going_on.recipe.optimizer.lr == 0.014
    )
    steps = going_on.steps()
    assert [step.tokens for step in steps] == list(range(2560 + 256, 7680 + 1, 256))
    assert {step.lr for step in steps} == {0.014}
    assert runs[0].recipe.train.batch == 256 and runs[0].at_tokens == 6400
    assert runs[1].parent == going_on.parent and runs[1].recipe.train.batch == 256
    assert runs[2].id == going_on.id


def test_a_stem_that_is_done_can_be_left_with_another_batch_where_it_kept_nothing(
    make_lab: Any, recipe: Make
) -> None:
    stem = stem_of(recipe, 5120, train={"checkpoint_every": "100%"})
    losses = []
    for before in ([stem], []):  # done without a checkpoint at 2560, or told of it in time
        lab = make_lab()
        opened = Corpus.open(lab.path / "corpora" / "tiny")
        fleet(lab.path, opened, before, Watch(), "before")
        (run,) = fleet(
            lab.path, opened, [Branch(stem, 2560, 1280, batch=256, lr=0.02)], Watch(), "after"
        )
        losses.append([(step.tokens, step.loss) for step in run.steps()])
    assert losses[0] == losses[1] and losses[0][0][0] == 2560 + 256


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(
    lab: Any, opened: Corpus, recipe: Make
) -> None:
    wild = stem_of(recipe, 6400, optimizer={"lr": 1e4, "clip": 0.0}, name="wild")
    said: list[str] = []
    wanted = [Branch(wild, 6400, 640), wild, recipe()]
    runs = fleet(lab.path, opened, wanted, Watch(say=said.append), "mixed")
    assert [run.status().status for run in runs] == ["failed", "failed", "done"]
    assert runs[0].id == runs[1].id, "the branch could not begin: its stem stands for it"
    assert final(runs[0]) is None
    assert [line for line in said if "wild failed" in line]


def test_asked_to_stop_it_keeps_what_was_trained(lab: Any, opened: Corpus, recipe: Make) -> None:
    long = recipe(
        schedule={"tokens": 640_000, "warmup": 512},
        train={"checkpoint_every": 0, "evaluate_every": 0},
    )
    asked: list[float] = []

    def stop() -> bool:
        reached = [run.status().status == "running" and run.steps() for run in list_runs(lab.path)]
        if any(reached):
            asked.append(time.monotonic())
        return bool(asked)

    with pytest.raises(Interrupted):
        fleet(lab.path, opened, [long], Watch(stop=stop), "stopped")
    (run,) = list_runs(lab.path)
    assert run.status().status == "interrupted" and 0 < run.status().tokens < 640_000


def test_the_run_of_a_worker_that_was_killed_goes_on_in_another(
    make_lab: Any, recipe: Make, final_bytes: Any
) -> None:
    """To the same bits, from its last checkpoint, and the study hears of it in a line."""
    recipes = [
        recipe(
            name=f"r{seed}",
            seed=seed,
            schedule={"tokens": 25_600, "warmup": 512},
            train={"checkpoint_every": 2560},
        )
        for seed in range(2)
    ]
    results = []
    for kills in (1, 0):
        lab = make_lab()
        said: list[str] = []
        watch = Watch(stop=killer(lab, kills), say=said.append)
        runs = fleet(lab.path, Corpus.open(lab.path / "corpora" / "tiny"), recipes, watch, "two")
        assert [run.status().status for run in runs] == ["done", "done"]
        assert len([line for line in said if "ended with SIGKILL); back into" in line]) == kills
        results.append([final_bytes(run.path) for run in runs])
        for run in runs:
            assert [step.tokens for step in run.steps()] == list(range(STEP, 25_600 + 1, STEP))
    assert results[0] == results[1]


def killer(lab: Any, kills: int) -> Callable[[], bool]:
    """For `Watch.stop`, which never asks: kills so many workers of this process, once each of two
    runs has a checkpoint.
    """
    killed: list[int] = []

    def stop() -> bool:
        saved = [path for path in lab.path.glob("runs/*/checkpoints/*") if path.name.isdigit()]
        if len(killed) < kills and len({path.parts[-3] for path in saved}) == 2:
            (worker, *_) = [one for one in active_children() if one.pid not in killed]
            assert worker.pid
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)
        return False

    return stop


def test_killed_anywhere_it_goes_on_to_the_same_bits(
    make_lab: Any, recipe: Make, final_bytes: Any
) -> None:
    recipes = [
        stem_of(recipe, 6400),
        *(
            recipe(
                name=f"r{i}",
                seed=i,
                schedule={"tokens": 9600, "warmup": 512},
                train={"checkpoint_every": 1280},
            )
            for i in range(3)
        ),
    ]
    killed, whole = make_lab(), make_lab()
    files = [killed.write(r, f"r{i}.toml") for i, r in enumerate(recipes)]
    for kill in range(2):
        process = Process([str(killed.path), *map(str, files)], dict(os.environ), True, PROGRAM)
        wait_until(lambda done=kill: trained(killed) > 3000 + 12000 * done, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_until_gone(process.pid)
    wanted = [*recipes, *(Branch(recipes[0], at, 1280) for at in (2560, 5120))]
    results = []
    for lab in (killed, whole):
        fleet(lab.path, Corpus.open(lab.path / "corpora" / "tiny"), wanted, Watch(), "test")
        runs = list_runs(lab.path)
        assert {run.status().status for run in runs} == {"done"}
        results.append({run.id: final_bytes(run.path) for run in runs})
    assert len(results[0]) == 6 and results[0] == results[1]


def trained(lab: Any) -> int:
    folder = lab.path / "runs"
    if not folder.exists():
        return 0
    files = folder.glob("*/metrics.jsonl")
    return sum(
        STEP * sum('"lr"' in line for line in file.read_text().splitlines()) for file in files
    )


def wait_until_gone(session: int) -> None:
    """Its workers are left behind: they save what they train, and end."""
    wait_until(lambda: str(session) not in sessions(), every=0.1)


def sessions() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "sid"], capture_output=True, text=True, check=True)
    return [line.strip() for line in listed.stdout.splitlines()]


def test_dump_of_a_stem_with_branch_points_is_the_same_run(
    opened: Corpus, recipe: Make, lab: Any
) -> None:
    stem = stem_of(recipe, 5120)
    fleet(lab.path, opened, [stem], Watch(), "stem")
    (run,) = list_runs(lab.path)
    fleet(
        lab.path, opened, [Branch(stem, 2560, 512)], Watch(), "later branch of a stem that is done"
    )
    assert run.id in {r.id for r in list_runs(lab.path)} and len(list_runs(lab.path)) == 2
    assert "2560" in dump(list_runs(lab.path)[0].recipe)


def test_runs_train_as_members_where_that_was_measured_to_be_faster(
    make_lab: Any, recipe: Make
) -> None:
    """Stems and their branches, one that diverges among them: the same ends, to rounding, as one
    at a time.
    """
    short: dict[str, Any] = {"schedule": {"tokens": 3200, "warmup": 512}}
    alike = [
        recipe(name=f"alike-{seed}", seed=seed, optimizer={"lr": 0.004 * (seed + 1)}, **short)
        for seed in range(7)
    ]
    wild = recipe(name="wild", optimizer={"lr": 1e4, "clip": 0.0}, **short)
    stem = stem_of(recipe, 3200)
    wanted = [*alike, wild, *(Branch(stem, at, 640) for at in (640, 1280, 1920, 2560, 3200))]
    ends = []
    for speedups in ({1: 1.0}, {1: 1.0, 2: 1.8, 4: 3.0}):
        lab = make_lab()
        Populations.of(lab.path).write_with(
            lab.path, kind_of_device(), shape_name(recipe()), speedups
        )
        runs = fleet(lab.path, Corpus.open(lab.path / "corpora" / "tiny"), wanted, Watch(), "alike")
        ends.append([(run.recipe.name, run.status().status, run.status().loss) for run in runs])
        members = {json.loads((run.path / "engine.json").read_text())["members"] for run in runs}
        assert max(members) == max(speedups)
    for (name, status, loss), (name_together, status_together, loss_together) in zip(
        *ends, strict=True
    ):
        assert (name_together, status_together) == (name, status)
        assert loss_together == (loss and pytest.approx(loss, rel=1e-3))
    assert [status for _, status, _ in ends[1]].count("failed") == 1
