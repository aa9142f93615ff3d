"""Commands on several processes, under a real torchrun, and what all other commands make of a run
that several processes trained.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chats import write_chats
from preferences import some_pairs, write_lines
from rank_jobs import on_ranks, train_and_keep_gradients
from torchrun import torchrun

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.train.run import open_run

pytestmark = pytest.mark.slow
BATCH = 128
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def trained(make_lab: Any, recipe: Make, corpus: Corpus) -> Any:
    """A lab with a run that four processes trained, of which the last 10 of 50 steps decay."""
    lab = make_lab()
    asked = recipe(
        model={"width": 64}, schedule={"decay": "20%"}, train={"keep": 9, "evaluate_tokens": 4096}
    )
    assert on_ranks(4, train_and_keep_gradients, lab.path, asked, corpus.folder, []) == [0] * 4
    (run,) = lab.json("runs")
    newest = max(Path(run["path"]).glob("checkpoints/*"))
    assert run["status"] == "done" and len(list(newest.glob("weights/*.safetensors"))) == 4
    return lab


@pytest.mark.parametrize("to", ["hf", "minicpm", "gguf"])
def test_it_is_exported_and_an_engine_confirms_it(trained: Any, to: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    agreement = trained.json("export", "tiny", "--to", to)["agreement"]
    assert agreement["tokens"] >= 2000 and agreement["wrong_lines"] == 0
    assert agreement["max_difference"] <= agreement["most"]


def test_it_answers_and_is_evaluated(trained: Any) -> None:
    done = trained.run("chat", "tiny", "--temperature", "0", "--most", "8")
    assert done.returncode == 0, done.stderr
    (run,) = (one for one in trained.json("runs") if one["name"] == "tiny")
    found = trained.json("evaluate", "tiny")["evaluations"]
    recorded = open_run(Path(run["path"])).validations()[-1].validation
    for one in found:
        score = recorded.sources[one["task"].partition("/")[2]]
        assert one["measures"][0]["value"] == pytest.approx(score.bits_per_byte, rel=0.1)


def test_one_process_goes_on_from_it_in_every_way(trained: Any) -> None:
    folder = trained.path.parent
    chats = write_chats(folder / "chats.jsonl")
    pairs = write_lines(folder / "pairs.jsonl", some_pairs())
    (parent,) = (one for one in trained.json("runs") if one["name"] == "tiny")
    for command in (
        ("branch", "tiny", "--at", 38 * BATCH, "--decay", 6 * BATCH, "--name", "left"),
        (
            *("longer", "tiny", "--to", "64", "--tokens", 20 * BATCH, "--questions", "0"),
            *("--untie", "--name", "long"),
        ),
        ("upcycle", "tiny", "--tokens", 20 * BATCH, "--experts", "4", "--name", "mixture"),
        ("sft", "tiny", "--data", chats, "--epochs", "1", "--name", "tuned"),
    ):
        made = trained.json(*command)
        assert made["status"] == "done", command
        # it began as what the parent was: above it, a model that knows nothing is at 5.8
        first = open_run(Path(made["path"])).steps()[0].loss
        assert first < (parent["loss"] + 5.8) / 2, command
    asked = ("dpo", "tiny", "--data", pairs, "--lr", "1e-4", "--name", "liked")
    made = trained.json(*asked)
    assert made["status"] == "done"


@pytest.mark.parametrize(
    "command",
    [
        (
            *("longer", "tiny", "--to", "64,128", "--tokens", 20 * BATCH),
            *("--questions", "0", "--untie", "--batch", 2 * BATCH),
        ),
        ("upcycle", "tiny", "--tokens", 20 * BATCH, "--experts", "4"),
        ("sft", "tiny", "--data", "CHATS", "--tokens", 20 * BATCH, "--batch", BATCH),
    ],
    ids=lambda command: command[0],
)
def test_two_processes_make_of_it_what_one_makes(
    trained: Any, command: tuple[Any, ...], tmp_path: Path
) -> None:
    chats = write_chats(tmp_path / "chats.jsonl")
    asked = [chats if one == "CHATS" else one for one in command]
    asked += ["--lr", "0.002", "--name", "on-ranks"]
    copy = tmp_path / "lab"
    shutil.copytree(trained.path, copy)
    two = open_run(Path(torchrun(copy, 2, *asked)["path"]))
    one = open_run(Path(trained.json(*asked)["path"]))
    assert one.id == two.id
    assert json.loads((two.path / "engine.json").read_text())["worlds"] == [2]
    losses = [[line.loss for line in run.steps()] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for mine, theirs in zip(two.validations(), one.validations(), strict=True):
        assert mine.validation.loss == pytest.approx(theirs.validation.loss, rel=1e-4)
