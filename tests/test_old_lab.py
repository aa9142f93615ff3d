"""A lab that the last release made opens: `old_lab/make.py` says how it was made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Lab

from windtunnel.data.shards import Corpus
from windtunnel.recipe import RESULTS_VERSION
from windtunnel.train.branch import branch
from windtunnel.train.run import find_run, list_runs

OLD = Path(__file__).parent / "old_lab"
RUNS = {
    "stem": "3e8e0437517b",
    "branch": "b1c41f7c66c3",
    "imported": "71d197051698",
    "tuned": "05621c88b97a",
    "failed": "5e1749b0449d",
    "never": "e5fcb3f72ee9",
}
SAID = (
    "6 runs were made by an earlier release, and can be listed, branched and exported; "
    "asking for one of them again trains it anew, under a new id\n"
)


@pytest.fixture
def old(tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(OLD, tmp_path / "lab")))


def test_its_runs_are_listed_and_what_their_ids_mean_is_said_once(old: Lab) -> None:
    done = old.run("runs")
    assert done.returncode == 0 and done.stderr == SAID
    assert all(run in done.stdout for run in RUNS.values())
    done = old.run("runs", "--json")
    assert done.stderr == SAID
    found = {run["name"]: run for run in json.loads(done.stdout)}
    assert {name: run["id"] for name, run in found.items()} == RUNS
    assert (found["branch"]["parent"], found["branch"]["at_tokens"]) == (RUNS["stem"], 1280)
    assert found["branch"]["loss"] == pytest.approx(3.2905, abs=1e-4)
    states = {name: run["status"] for name, run in found.items()}
    assert states["failed"] == "failed" and states["never"] == "interrupted"
    assert {states[name] for name in ("stem", "branch", "imported", "tuned")} == {"done"}


def test_its_runs_are_found_by_name_by_the_start_of_an_id_and_by_path(old: Lab) -> None:
    for name, run in RUNS.items():
        places = (name, run, run[:5], str(old.path / "runs" / run))
        assert [find_run(old.path, place).id for place in places] == [run] * 4
    assert {run.results_version for run in list_runs(old.path)} == {3}


def test_its_runs_are_branched(old: Lab) -> None:
    by_id = old.json("branch", RUNS["stem"], "--at", 2560, "--decay", 320, "--name", "new")
    assert by_id["id"] not in RUNS.values()
    assert (by_id["parent"], by_id["status"]) == (RUNS["stem"], "done")
    assert find_run(old.path, "new").results_version == RESULTS_VERSION
    corpus = Corpus.open(old.path / "corpora" / "words")
    by_name = branch(find_run(old.path, "stem"), corpus, 2560, 320)
    assert by_name.id == by_id["id"]
    imported = branch(find_run(old.path, "imported"), corpus, 0, 320, batch=64, lr=0.001)
    assert (imported.parent, imported.at_tokens) == (RUNS["imported"], 0)
    assert old.run("runs").stderr == SAID


def test_its_runs_are_exported(old: Lab, tmp_path: Path) -> None:
    """The fine-tuned one, whose line goes back over the branch to the stem."""
    old.json("export", RUNS["tuned"], "--to", "hf", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_asked_for_again_a_run_is_trained_anew_to_the_same_losses(
    old: Lab, steps_of: Callable[[Path], list[tuple[object, ...]]]
) -> None:
    before = old.path / "runs" / RUNS["stem"]
    made = old.json("train", before / "recipe.toml")
    assert made["id"] not in RUNS.values()
    now, then = steps_of(Path(made["path"])), steps_of(before)
    assert len(now) == len(then) == 40
    for one, other in zip(now, then, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
