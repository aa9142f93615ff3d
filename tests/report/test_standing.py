"""What a lab is told to do next, and that the answer comes without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledgers import add, forecast, outcome

from windtunnel.recipe import Recipe
from windtunnel.report.standing import standing
from windtunnel.results.run import AboutRun, RunStatus
from windtunnel.results.study import StudyResult
from windtunnel.results.tour import TourNumbers


def corpus_in(lab: Path) -> None:
    write_corpus(lab, "mine", {})


def write_corpus(lab: Path, name: str, manifest: dict[str, Any]) -> None:
    (lab / "corpora" / name).mkdir(parents=True)
    (lab / "corpora" / name / "manifest.json").write_text(json.dumps(manifest))


def run_in(lab: Path, name: str, kind: str, bits: float, status: str = "done") -> None:
    about: dict[str, Any] = {"id": name, "kind": kind, "parent": None, "at_tokens": None}
    AboutRun(**about, corpus="").write(lab / "runs" / name / "run.json", make_folder=True)
    RunStatus(status=status, tokens=1, loss=bits, bits_per_byte=bits).write(  # type: ignore[arg-type]
        lab / "runs" / name / "status.json"
    )


def study_in(lab: Path, name: str) -> None:
    """That cannot be read further than its name, which is all that matters here."""
    folder = lab / "studies" / name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{")


def commands(lab: Path) -> list[str]:
    return [one.command.removesuffix(f" --lab {lab}") for one in standing(lab).next]


def test_an_empty_lab_begins_with_the_tour_or_a_text(tmp_path: Path) -> None:
    assert standing(tmp_path / "none").lines == ()
    assert commands(tmp_path / "none") == [
        "windtunnel tour",
        "windtunnel corpus build mine text=FOLDER/",
    ]


def test_a_corpus_is_checked_first_and_the_best_branch_can_be_talked_with(tmp_path: Path) -> None:
    corpus_in(tmp_path)
    assert commands(tmp_path) == ["windtunnel check --corpus mine"], "there is nothing to report"
    run_in(tmp_path, "aaaa", "stem", 1.0)
    run_in(tmp_path, "bbbb", "branch", 1.5)
    run_in(tmp_path, "cccc", "branch", 2.5)
    run_in(tmp_path, "dddd", "branch", 0.5, "running")
    assert commands(tmp_path)[1:] == ["windtunnel chat bbbb", "windtunnel report"]
    assert standing(tmp_path).lines[1] == "runs       4: 3 done, 1 running"


def test_after_a_tour_come_a_larger_plan_and_a_text_of_one_s_own(tmp_path: Path) -> None:
    corpus_in(tmp_path)
    run_in(tmp_path, "bbbb", "branch", 1.5)
    for name in ("check", "scaling", "search", "transfer", "batch"):
        study_in(tmp_path, name)
    assert commands(tmp_path)[0] == "windtunnel plan --hours 1 --device cpu --corpus mine"
    assert "windtunnel corpus build mine text=FOLDER/" not in commands(tmp_path)
    study_in(tmp_path, "tour")
    assert commands(tmp_path)[1:3] == [
        "windtunnel chat bbbb",
        "windtunnel corpus build mine text=FOLDER/",
    ]


def test_a_damaged_study_is_named_and_stops_nothing(tmp_path: Path) -> None:
    corpus_in(tmp_path)
    (tmp_path / "studies/check").mkdir(parents=True)
    (tmp_path / "studies/check/result.json").write_text("{")
    found = standing(tmp_path)
    assert "check (cannot be read)" in found.lines[1]
    assert commands(tmp_path)[0] == "windtunnel scaling --corpus mine"


def test_a_plan_needs_no_more_than_a_check_and_a_scaling_study(tmp_path: Path) -> None:
    corpus_in(tmp_path)
    study_in(tmp_path, "check")
    assert commands(tmp_path)[0] == "windtunnel scaling --corpus mine"
    assert not any("search" in command for command in commands(tmp_path))
    study_in(tmp_path, "scaling")
    plan, search = standing(tmp_path).next[:2]
    assert plan.command.startswith("windtunnel plan --hours 1")
    assert search.command.startswith("windtunnel search") and search.why.startswith("optional")


def test_no_study_is_proposed_of_conversations(tmp_path: Path) -> None:
    write_corpus(tmp_path, "chats", {"packing": {"context": 256}})
    assert commands(tmp_path)[0] == "windtunnel tour"
    corpus_in(tmp_path)
    assert commands(tmp_path)[0] == "windtunnel check --corpus mine"
    assert "chats, mine" in standing(tmp_path).lines[0]


def test_a_study_goes_on_with_the_text_of_the_last_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_corpus(tmp_path, name, {})
    assert commands(tmp_path)[0] == "windtunnel check --corpus first"
    tour_in(tmp_path, "second")
    assert commands(tmp_path)[0] == "windtunnel check --corpus second"
    tour_in(tmp_path, "third")
    assert commands(tmp_path)[0] == "windtunnel check --corpus first", "that text is gone"


def test_a_run_that_nobody_trains_any_more_is_not_called_running(
    lab: Any, recipe: Callable[..., Recipe]
) -> None:
    folder = lab.train(recipe())
    status = RunStatus.read(folder / "status.json")
    status.model_copy(update={"status": "running"}).write(folder / "status.json")
    assert "1 interrupted" in " ".join(standing(lab.path).lines)


def test_forecasts_are_counted(tmp_path: Path) -> None:
    corpus_in(tmp_path)
    near = forecast(1)
    add(tmp_path, near, forecast(2), outcome(near, 4.05))
    assert standing(tmp_path).lines[-1] == (
        "forecasts  2 sealed, 1 opened, 1 of those inside the 90% interval"
    )


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_alone_says_it_at_once(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from windtunnel.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'plotly', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--lab", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "[]\n"
    if arguments:
        assert json.loads(done.stdout)["next"][0]["command"].startswith("windtunnel tour")
    else:
        assert "Nothing here yet." in done.stdout and "windtunnel tour" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80 + len(str(tmp_path))


def test_the_lab_of_a_command_stands_behind_it(tmp_path: Path) -> None:
    code = "from windtunnel.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--lab", str(tmp_path), "runs"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.endswith("--lab stands behind the command: `windtunnel runs --lab`\n")


def test_the_result_of_a_tour_is_a_study_as_any(tmp_path: Path) -> None:
    corpus_in(tmp_path)
    tour_in(tmp_path, "mine")
    assert "tour (no verdict)" in standing(tmp_path).lines[1]


def tour_in(lab: Path, corpus: str) -> None:
    numbers = TourNumbers(steps=(), sample="", corpus=corpus, written_by="", basic_tokens=1)
    StudyResult[TourNumbers](study="tour", numbers=numbers).write(
        lab / "studies/tour/result.json", make_folder=True
    )
