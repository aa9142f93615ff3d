"""`windtunnel runs remove` as people and programs use it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledgers import add, forecast
from many_runs import fill

from windtunnel.cli import runs as command
from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.results.run import RunStatus
from windtunnel.train import remove
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
        ((), "expected one of RUN..., --unused and --study NAME"),
        (("run-2", "--unused"), "expected one of RUN..., --unused and --study NAME"),
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


def test_nothing_is_called_unused_while_a_run_is_trained(full: Any) -> None:
    """Of its study no file says yet which runs it has trained."""
    run = open_run(full.path / "runs" / LEAF)
    RunStatus(status="running", tokens=1).write(run.path / "status.json")
    with run.lock():
        for arguments in (("--unused",), ("--study", "mine"), (LEAF,)):
            done = full.run("runs", "remove", *arguments, "--yes")
            assert (done.returncode, done.stdout) == (2, "")
            assert f"{run.path}" in done.stderr and "being trained now" in done.stderr
    assert left(full) == set(range(8))
    assert full.run("runs", "remove", LEAF, "--yes").returncode == 0


def test_who_stops_it_is_told_how_far_it_came(
    full: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    delete, gone = remove._delete, []

    def stopped(folder: Path) -> None:
        gone.append(folder)
        if len(gone) == 2:
            raise KeyboardInterrupt
        delete(folder)

    monkeypatch.setattr(remove, "_delete", stopped)
    with pytest.raises(command.typer.Exit) as ended:
        command.remove(unused=True, yes=True, lab=full.path)
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "Stopped: 4 of 6 runs are still there.\n"
    assert len(left(full)) == 6
