"""A run that is killed, stopped, extended or branched gives the same bits as one that never was.

Every run here is a process of the real command line, and a kill is a real SIGKILL.
"""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, wait_until

from windtunnel.recipe import Recipe
from windtunnel.train.run import list_runs

BATCH = 128
LONG = 320  # steps
Make = Callable[..., Recipe]


def recorded(run: Path) -> int:
    """Tokens of the last whole line of metrics.jsonl; 0 before there is one."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2048))
            lines = file.read().split(b"\n")[1 if file.tell() > 2048 else 0 : -1]
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["tokens"] if lines else 0


def the_run(lab: Any) -> Path | None:
    runs = [p for p in (lab.path / "runs").glob("*") if not p.name.startswith(".")]
    return runs[0] if runs else None


def wait_for(process: subprocess.Popen[str], lab: Any, tokens: int) -> Path:
    """Until the lab's only run has recorded this many tokens; fails if the process ends before."""

    def there() -> bool:
        run = the_run(lab)
        return run is not None and recorded(run) >= tokens

    wait_until(there, process, every=0.005)
    run = the_run(lab)
    assert run
    return run


def kill_at_random(lab: Any, recipe: Recipe, kills: int, steps: int, seed: int) -> None:
    """Start the recipe `kills` times; each time SIGKILL it up to `steps` steps and a moment past
    where it last was.
    """
    chance, file, reached = random.Random(seed), lab.write(recipe), 0
    for _ in range(kills):
        process = lab.start("train", file)
        run = wait_for(process, lab, reached + BATCH * chance.randint(1, steps))
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was to be killed before its end"
        reached = max(reached, recorded(run))


def long_run(recipe: Make, **train: Any) -> Recipe:
    return recipe(
        schedule={"tokens": LONG * BATCH, "warmup": 512},
        train={"checkpoint_every": 7 * BATCH, "evaluate_every": 40 * BATCH} | train,
    )


@pytest.fixture(scope="module")
def whole_run(make_lab: Any, recipe: Make) -> Callable[[str], Path]:
    """The long run of a precision, in one go."""

    @functools.cache
    def train(precision: str) -> Path:
        return make_lab().train(long_run(recipe, precision=precision))

    return train


@pytest.mark.parametrize(
    ("precision", "kills"),
    [("fp32", 10), ("bf16", 3), pytest.param("bf16", 10, marks=pytest.mark.slow)],
)
def test_kills_leave_no_trace(
    precision: str,
    kills: int,
    lab: Any,
    recipe: Make,
    whole_run: Callable[[str], Path],
    final_bytes: Any,
    steps_of: Any,
) -> None:
    settings = long_run(recipe, precision=precision)
    kill_at_random(lab, settings, kills=kills, steps=14, seed=0 if precision == "fp32" else 1)
    finished, never_stopped = lab.train(settings), whole_run(precision)
    assert finished.name == never_stopped.name
    assert final_bytes(finished) == final_bytes(never_stopped)

    steps = steps_of(finished)
    assert [step[0] for step in steps] == list(range(BATCH, (LONG + 1) * BATCH, BATCH))
    assert steps == steps_of(never_stopped)
    leftovers = [p.name for p in (finished / "checkpoints").iterdir() if not p.name.isdigit()]
    assert not leftovers, "what a killed process had half-written or half-removed is gone"


@pytest.mark.slow
def test_kills_of_a_compiled_run_leave_no_trace(
    make_lab: Any, recipe: Make, final_bytes: Any, steps_of: Any
) -> None:
    settings = recipe(
        schedule={"tokens": 900 * BATCH, "warmup": 512},
        train={"compile": True, "checkpoint_every": 13 * BATCH},
    )
    killed, whole = make_lab(), make_lab()
    kill_at_random(killed, settings, kills=3, steps=150, seed=2)
    finished, never_stopped = killed.train(settings), whole.train(settings)
    assert final_bytes(finished) == final_bytes(never_stopped)
    assert steps_of(finished) == steps_of(never_stopped)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_once_to_stop_it_saves_and_goes_on_later(
    number: signal.Signals,
    lab: Any,
    recipe: Make,
    whole_run: Callable[[str], Path],
    final_bytes: Any,
    steps_of: Any,
) -> None:
    """To the bits of a run that was never stopped, however often that one saved."""
    settings = long_run(recipe, checkpoint_every=0)
    process = lab.start("train", lab.write(settings))
    run = wait_for(process, lab, 20 * BATCH)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "goes on from here" in err
    (saved,) = (run / "checkpoints").iterdir()
    assert 20 * BATCH <= int(saved.name) < LONG * BATCH
    (listed,) = lab.json("runs")
    assert (listed["status"], listed["tokens"]) == ("interrupted", int(saved.name))

    assert final_bytes(lab.train(settings)) == final_bytes(expected := whole_run("fp32"))
    assert steps_of(run) == steps_of(expected)


@pytest.mark.slow
def test_ctrl_c_while_it_compiles_is_no_crash(lab: Any, recipe: Make, tmp_path: Path) -> None:
    """A terminal sends it to the compiler, too, which lives through it; a second one ends
    everything.
    """
    file = lab.write(
        recipe(schedule={"tokens": 20 * BATCH, "warmup": 512}, train={"compile": True})
    )

    def interrupted(times: int) -> tuple[int, str]:
        process = lab.start("train", file, session=True, XDG_CACHE_HOME=str(tmp_path / "cache"))
        cache = tmp_path / "cache"
        wait_until(lambda: any(cache.rglob("*.main.cpp")), process, every=0.05)
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.5)
        _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    for times in (2, 1):
        code, err = interrupted(times)
        assert code == 130 and "Traceback" not in err and "stopping after this step" in err
        shutil.rmtree(tmp_path / "cache")
    (listed,) = lab.json("runs")
    assert (listed["status"], listed["tokens"]) == ("interrupted", BATCH), (
        "one step, as it was asked"
    )
    assert lab.run("train", file).returncode == 0


def test_two_processes_do_not_train_one_run(lab: Any, recipe: Make) -> None:
    file = lab.write(recipe(schedule={"tokens": 4000 * BATCH, "warmup": 512}))
    first = lab.start("train", file)
    run = wait_for(first, lab, BATCH)
    second = lab.run("train", file)
    first.terminate()
    first.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert (
        second.stderr.splitlines()[-1] == f"windtunnel: {run}: another process is training this run"
    )
    assert "Traceback" not in second.stderr
    assert first.returncode == 130, "the first was not disturbed"


def test_a_stem_that_is_extended_equals_a_longer_one(
    make_lab: Any, stem: Make, final_bytes: Any, steps_of: Any
) -> None:
    extended, at_once = make_lab(), make_lab()
    extended.train(stem(30 * BATCH))
    run = extended.train(stem(60 * BATCH))
    expected = at_once.train(stem(60 * BATCH))
    assert run.name == expected.name
    assert final_bytes(run) == final_bytes(expected)
    assert steps_of(run) == steps_of(expected)


class Branches:
    """Of one stem: at 30 steps, with a decay of 15."""

    AT, DECAY, TOTAL = 30 * BATCH, 15 * BATCH, 40 * BATCH

    @classmethod
    def of(cls, lab: Any) -> Path:
        (root,) = [run.id for run in list_runs(lab.path) if run.kind == "stem"]
        made = lab.json("branch", root, "--at", cls.AT, "--decay", cls.DECAY)
        assert (made["kind"], made["parent"], made["at_tokens"]) == ("branch", root, cls.AT)
        assert made["tokens"] == cls.AT + cls.DECAY
        return Path(made["path"])


@pytest.fixture(scope="module")
def expected(make_lab: Any, stem: Make, final_bytes: Any) -> dict[str, bytes]:
    """A branch of a finished stem that had a checkpoint at the branch point."""
    lab = make_lab()
    lab.train(stem(Branches.TOTAL, branch_points=[Branches.AT]))
    return final_bytes(Branches.of(lab))


def test_a_branch_from_a_point_without_a_checkpoint(
    lab: Any, stem: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    run = lab.train(stem(Branches.TOTAL, checkpoint_every=14 * BATCH, keep=5))
    assert not (run / "checkpoints" / f"{Branches.AT:015d}").exists()
    assert final_bytes(Branches.of(lab)) == expected


def test_a_branch_from_before_all_checkpoints_that_are_kept(
    lab: Any, stem: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    run = lab.train(stem(Branches.TOTAL, checkpoint_every=0))
    assert [int(saved.name) for saved in (run / "checkpoints").iterdir()] == [Branches.TOTAL]
    assert final_bytes(Branches.of(lab)) == expected


def test_a_branch_of_a_stem_that_ends_there(
    lab: Any, stem: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    lab.train(stem(Branches.AT))
    assert final_bytes(Branches.of(lab)) == expected


def test_a_branch_of_a_stem_that_is_still_training(
    lab: Any, stem: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    long = stem(
        20_000 * BATCH, branch_points=[Branches.AT], checkpoint_every=500 * BATCH, evaluate_every=0
    )
    process = lab.start("train", lab.write(long))
    try:
        wait_for(process, lab, Branches.AT + BATCH)
        branched = Branches.of(lab)
        assert {run["status"] for run in lab.json("runs")} == {"running", "done"}
        assert process.poll() is None, "the stem was to be still training"
    finally:
        process.kill()
        process.communicate()
    assert final_bytes(branched) == expected


def test_a_branch_of_a_stem_that_was_killed(
    lab: Any, stem: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    """It can leave wherever a checkpoint shows that the stem has been, though the stem was never
    evaluated there.
    """
    long = stem(20_000 * BATCH, branch_points=[Branches.AT], checkpoint_every=0, evaluate_every=0)
    process = lab.start("train", lab.write(long))
    wait_for(process, lab, Branches.AT + BATCH)
    process.kill()
    process.communicate()
    (listed,) = lab.json("runs")
    assert (listed["status"], listed["tokens"]) == ("interrupted", Branches.AT)
    assert final_bytes(Branches.of(lab)) == expected


def test_a_branch_that_is_killed_goes_on_from_its_own_checkpoint(
    lab: Any, stem: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    run = lab.train(stem(Branches.TOTAL, branch_points=[Branches.AT]))
    process = lab.start("branch", run.name, "--at", Branches.AT, "--decay", Branches.DECAY)
    branches = lab.path / "runs"
    while process.poll() is None and not any(
        int(saved.name) > Branches.AT
        # a run begins in a hidden folder, which is gone once it has its name
        for saved in branches.glob("[!.]*/checkpoints/0*[0-9]")
        if saved.parts[-3] != run.name
    ):
        time.sleep(0.005)
    assert process.poll() is None, "it was to be killed before its end"
    process.kill()
    process.communicate()
    assert final_bytes(Branches.of(lab)) == expected


def test_a_branch_equals_a_whole_run_from_the_beginning(
    lab: Any, recipe: Make, expected: dict[str, bytes], final_bytes: Any
) -> None:
    length = Branches.AT + Branches.DECAY
    assert (
        final_bytes(lab.train(recipe(schedule={"tokens": length, "decay": Branches.DECAY})))
        == expected
    )


def test_killed_between_its_last_checkpoint_and_its_last_word_a_run_still_has_its_loss(
    lab: Any, recipe: Make
) -> None:
    run = lab.train(recipe())
    (before,) = lab.json("runs")
    (run / "status.json").write_text(json.dumps({"status": "running", "tokens": 0}))
    lab.train(recipe())
    assert lab.json("runs") == [before]
    assert before["loss"] > 0
