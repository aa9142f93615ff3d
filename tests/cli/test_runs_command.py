"""`windtunnel runs remove` as people and programs use it."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ledgers import add, forecast
from many_runs import fill
from patience import wait_until

from windtunnel.cli import runs as command
from windtunnel.cli.display import stopping
from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.results.run import RunStatus
from windtunnel.results.scaling import SCALING
from windtunnel.results.study import want_runs
from windtunnel.train import remove
from windtunnel.train import run as run_module
from windtunnel.train.run import create, list_runs, open_run

# by `fill`: stems 0 and 4, and three branches behind each
STEM, BRANCH, OTHER, LEAF = (f"{number:012x}" for number in (0, 1, 4, 7))


@pytest.fixture
def full(lab: Any, stem: Callable[..., Recipe]) -> Any:
    """A lab of eight runs: a study names a branch of the first stem."""
    made = create(lab.path, stem(6400), Corpus.open(lab.path / "corpora" / "tiny"))
    fill(lab.path, made, 8)
    study = lab.path / "studies" / "mine" / "result.json"
    study.parent.mkdir(parents=True)
    study.write_text(json.dumps({"runs": [BRANCH]}))
    return lab


def left(lab: Any) -> set[int]:
    """The runs that are there, by their numbers."""
    return {int(run.id, 16) for run in list_runs(lab.path)}


def test_what_nothing_needs_is_listed_and_gone_only_when_that_is_said(full: Any) -> None:
    before = full.files()
    listed = full.run("runs", "remove", "--unused")
    assert listed.returncode == 0 and full.files() == before
    head, *rows, warning, last = listed.stdout.splitlines()
    assert head.split() == ["run", "name", "kind", "tokens", "size", "status"]
    assert {int(row.split()[0], 16) for row in rows} == {2, 3, 4, 5, 6, 7}
    assert rows[-1].split()[:4] == [OTHER, "run-4", "stem", "6.4k"]
    assert "trained by hand" in warning
    assert last.startswith("6 runs, ") and last.endswith(
        ": nothing is removed yet; --yes removes them"
    )
    found = full.json("runs", "remove", "--unused")
    assert (found["removed"], found["study"], found["kept"]) == (False, None, 0)
    assert found["bytes"] == sum(one["bytes"] for one in found["runs"]) > 6 * 1000
    done = full.run("runs", "remove", "--unused", "--yes")
    assert done.stdout.splitlines()[-1].startswith("removed: 6 runs, ")
    assert left(full) == {0, 1} and not list((full.path / "runs").glob(".*"))
    again = full.run("runs", "remove", "--unused", "--yes")
    assert (again.returncode, again.stdout) == (0, "nothing to remove: no run is unused\n")


def test_runs_by_name(full: Any) -> None:
    done = full.run("runs", "remove", "run-2", LEAF, "--yes")
    assert done.returncode == 0, done.stderr
    assert left(full) == {0, 1, 3, 4, 5, 6}
    assert full.json("runs", "remove", "run-3")["runs"][0]["name"] == "run-3"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected one of RUN..., --unused or --study NAME"),
        (("run-2", "--unused"), "expected one of RUN..., --unused or --study NAME"),
        (("run-22",), "run-22: no run of .* has this id or name; did you mean 'run-2'?"),
        (
            ("run-1",),
            f"{BRANCH}: it stays, since studies/mine/result.json names it; `--study mine` gives",
        ),
        (("run-0", "run-2"), f"{STEM}: it stays, since {BRANCH} and 1 more begin from it; name"),
        (("--study", "mime"), "--study mime: .* has no such study; did you mean 'mine'?"),
        (("--study", ".."), "--study ..: .* has no such study; there are: mine"),
    ],
)
def test_what_is_refused_in_a_line(full: Any, arguments: tuple[str, ...], said: str) -> None:
    done = full.run("runs", "remove", *arguments, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert all(part in line for part in said.split(".*"))
    assert left(full) == set(range(8))


def test_options_stand_behind_the_command(full: Any) -> None:
    """Else `runs --lab THERE remove` would remove runs of another lab."""
    done = full.run("runs")  # with --lab behind it
    assert done.returncode == 0 and STEM in done.stdout
    for given in (["--json"], ["--lab", "there"]):
        command = full.run("runs", *given, "remove", "--unused", "--yes")
        assert command.returncode == 2
        assert f"{given[0]} stands behind the command" in command.stderr


def test_a_forecast_keeps_its_run(full: Any) -> None:
    add(full.path, forecast(1, run=LEAF))
    done = full.run("runs", "remove", LEAF, "--yes")
    assert done.returncode == 2 and "forecasts.jsonl names it" in done.stderr
    full.run("runs", "remove", "--unused", "--yes")
    assert left(full) == {0, 1, 4, 7}


def test_an_evaluated_run_goes_only_by_its_name(full: Any) -> None:
    (full.path / "runs" / LEAF / "evaluations").mkdir()
    assert LEAF not in full.run("runs", "remove", "--unused").stdout
    assert full.run("runs", "remove", LEAF, "--yes").returncode == 0
    assert 7 not in left(full)


def test_a_study_that_is_given_up_goes_with_its_runs(full: Any) -> None:
    plan = full.path / "plans" / "one" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(json.dumps({"runs": [LEAF]}))
    study = full.path / "studies" / "mine" / "result.json"
    study.write_text(json.dumps({"runs": [STEM, BRANCH, "2".zfill(12), "3".zfill(12), LEAF]}))
    listed = full.run("runs", "remove", "--study", "mine")
    kept, last = listed.stdout.splitlines()[-2:]
    assert kept == "1 of its runs stays, since something else needs it"
    assert last.startswith(f"{study.parent} and 4 runs, ") and study.exists()
    assert full.json("runs", "remove", "--study", "mine", "--yes")["kept"] == 1
    assert not study.parent.exists() and left(full) == {4, 5, 6, 7}


def test_a_study_that_was_interrupted_keeps_its_runs_until_it_is_given_up(full: Any) -> None:
    want_runs(full.path, SCALING, [STEM, BRANCH, LEAF])
    full.run("runs", "remove", "--unused", "--yes")
    assert left(full) == {0, 1, 4, 7}
    done = full.run("runs", "remove", LEAF, "--yes")
    assert done.returncode == 2 and "studies/scaling/runs.json names it; `--study" in done.stderr
    assert full.json("runs", "remove", "--study", "scaling", "--yes")["kept"] == 2
    assert left(full) == {0, 1, 4} and not SCALING.folder(full.path).exists()


def test_nothing_is_called_unused_while_a_run_is_trained(full: Any) -> None:
    run = open_run(full.path / "runs" / LEAF)
    RunStatus(status="running", tokens=1).write(run.path / "status.json")
    with run.lock():
        for arguments in (("--unused",), ("--study", "mine"), (LEAF,)):
            done = full.run("runs", "remove", *arguments, "--yes")
            assert (done.returncode, done.stdout) == (2, "")
            assert f"{run.path}" in done.stderr and "being trained now" in done.stderr
    assert left(full) == set(range(8))
    assert full.run("runs", "remove", LEAF, "--yes").returncode == 0


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have a removal stopped while it deletes its first, second, ... folder."""
    delete, gone, stops = remove._delete, list[Path](), list[Callable[[], bool]]()

    @contextmanager
    def heard(quiet: bool) -> Iterator[Callable[[], bool]]:
        with stopping(quiet) as stop:
            stops.append(stop)
            yield stop

    def stop_at(number: int) -> None:
        def deleted(folder: Path) -> None:
            gone.append(folder)
            if len(gone) == number:
                os.kill(os.getpid(), signal.SIGTERM)
                wait_until(stops[-1])
            delete(folder)

        monkeypatch.setattr(remove, "_delete", deleted)

    monkeypatch.setattr(command, "stopping", heard)
    return stop_at


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        ({"unused": True}, "the same command goes on from here"),
        ({"named": ["run-2", "run-3", "run-5", "run-6", "run-7"]}, "go on with "),
    ],
)
def test_who_stops_it_is_told_how_far_it_came_and_how_to_go_on(
    full: Any,
    capsys: pytest.CaptureFixture[str],
    stopped_at: Callable[[int], None],
    asked: dict[str, Any],
    how: str,
) -> None:
    stopped_at(2)
    with pytest.raises(command.typer.Exit) as ended:
        command.remove(**asked, yes=True, lab=full.path)
    assert ended.value.exit_code == 130
    (line,) = capsys.readouterr().err.splitlines()
    total = len(asked.get("named", range(6)))
    assert line.startswith(f"stopped: {total - 2} of {total} runs are still there; {how}")
    assert len(left(full)) == 6 and not list((full.path / "runs").glob(".*"))
    if "named" in asked:
        command.remove(named=line.partition(how)[2].split(), yes=True, lab=full.path)
        assert left(full) == {0, 1, 4}


@pytest.mark.parametrize("number", [1, 2])
def test_giving_up_a_study_goes_on_where_it_was_stopped(
    full: Any, stopped_at: Callable[[int], None], number: int
) -> None:
    (full.path / "studies" / "mine" / "result.json").write_text(json.dumps([BRANCH, LEAF]))
    stopped_at(number)
    with pytest.raises(command.typer.Exit):
        command.remove(study="mine", yes=True, lab=full.path)
    assert len(left(full)) == 8 - number
    command.remove(study="mine", yes=True, lab=full.path)
    assert left(full) == {0, 2, 3, 4, 5, 6} and not (full.path / "studies" / "mine").exists()


def test_a_copy_of_a_run_is_no_run_of_the_lab(full: Any) -> None:
    """Nor does its path stand for the one that it was copied from."""
    for name in (LEAF, "mine"):
        copy = full.path / "backup" / name
        shutil.copytree(full.path / "runs" / LEAF, copy)
        done = full.run("runs", "remove", str(copy), "--yes")
        assert done.returncode == 2
        assert done.stderr.endswith(f"{copy}: expected a run in {full.path / 'runs'}\n")
        assert copy.exists() and 7 in left(full)


def test_runs_behind_a_link_are_runs_of_the_lab(full: Any, tmp_path: Path) -> None:
    runs = full.path / "runs"
    runs.rename(tmp_path / "moved")
    runs.symlink_to(tmp_path / "moved")
    done = full.run("runs", "remove", BRANCH, "--yes")
    assert done.returncode == 2 and "studies/mine/result.json names it" in done.stderr
    done = full.run("runs", "remove", str(runs / LEAF), "run-2", "--yes")
    assert done.returncode == 0, done.stderr
    assert left(full) == {0, 1, 3, 4, 5, 6}


def test_the_lab_is_read_once_however_many_runs_are_named(
    full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Mock(side_effect=run_module.read_runs)
    monkeypatch.setattr(run_module, "read_runs", reads)
    command.remove(named=["run-2", "run-3", LEAF], lab=full.path)
    assert reads.call_count == 1
