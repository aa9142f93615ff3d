"""A run that was trained with Muon becomes what any other does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chats import write_chats

from windtunnel.data.shards import Corpus
from windtunnel.family import sft, upcycle
from windtunnel.recipe import Recipe
from windtunnel.ship.export import export
from windtunnel.train import checkpoint
from windtunnel.train.loop import train
from windtunnel.train.run import Run, create

Make = Callable[..., Recipe]
BATCH = 128


@pytest.fixture(scope="module")
def parent(make_lab: Any, stem: Make, corpus: Corpus) -> Run:
    """A stem of 20 steps."""
    asked = stem(20 * BATCH).change(optimizer={"kind": "muon"})
    run = create(make_lab().path, asked, corpus)
    assert train(run, corpus).status == "done"
    return run


def remembered(run: Run) -> dict[str, Any]:
    return checkpoint.load(run.checkpoints, run.recipe.total_tokens).moments


def test_it_becomes_a_mixture_of_experts(parent: Run, corpus: Corpus) -> None:
    asked = upcycle.Asked(tokens=20 * BATCH, experts=4, batch=BATCH)
    run = upcycle.upcycle(parent, corpus, asked)
    assert train(run, corpus).status == "done"
    state = remembered(run)
    assert state["momentum.layers.0.up"].shape == (4, 80, 32)
    assert "first.layers.0.router" in state and "first.layers.0.query" not in state
    assert run.steps()[-1].loss < parent.steps()[0].loss - 1


def test_it_learns_to_answer_and_is_exported(parent: Run, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl")
    run, corpus = sft.sft(parent, [chats], sft.Asked(tokens=20 * BATCH, batch=BATCH, lr=0.01))
    assert train(run, corpus).status == "done"
    assert "momentum.layers.0.query" in remembered(run)
    losses = [step.loss for step in run.steps()]
    assert losses[-1] < 0.9 * losses[0]
    written = export(run, "llama", out=tmp_path / "model")
    assert (written.path / "model.safetensors").exists()
