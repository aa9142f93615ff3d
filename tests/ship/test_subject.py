"""What an export is made of is read once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.recipe import Recipe
from windtunnel.ship.export import export
from windtunnel.ship.subject import Subject
from windtunnel.train import checkpoint
from windtunnel.train.loop import train
from windtunnel.train.run import Run, create

BATCH = 128


@pytest.fixture(scope="module")
def run(make_lab: Any, stem: Callable[..., Recipe], corpus: Corpus) -> Run:
    made = create(make_lab().path, stem(20 * BATCH, branch_points=[10 * BATCH]), corpus)
    train(made, corpus)
    return made


def test_an_export_opens_corpus_tokenizer_and_checkpoint_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()

    def count(where: Any, name: str, what: str) -> None:
        function = getattr(where, name)

        def counting(*arguments: Any, **settings: Any) -> Any:
            counted[what] += 1
            return function(*arguments, **settings)

        monkeypatch.setattr(where, name, counting)

    count(Corpus, "open", "corpus")
    count(Tokenizer, "__init__", "tokenizer")
    count(checkpoint, "load", "checkpoint")
    pytest.importorskip("transformers")
    assert export(run, "hf", tmp_path / "x").agreement.good
    assert counted == {"corpus": 1, "tokenizer": 1, "checkpoint": 1}


def test_it_is_the_checkpoint_that_was_asked_for(run: Run) -> None:
    early, late = Subject.of(run, 10 * BATCH), Subject.of(run)
    assert (early.tokens, late.tokens) == (10 * BATCH, 20 * BATCH)
    saved = checkpoint.load(run.checkpoints, 10 * BATCH).weights
    assert all((early.portable.weights[name] == weight).all() for name, weight in saved.items())
    assert late.portable.context == run.recipe.data.context
    assert late.held_out.tokens >= 2000


def test_what_brought_no_files_is_sampled_as_chat_samples(run: Run) -> None:
    generation = Subject.of(run).portable.generation_config
    assert {key: generation[key] for key in ("do_sample", "temperature", "top_p")} == {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def test_held_out_text_is_as_long_as_the_context(run: Run) -> None:
    """And no longer than 257 tokens."""
    subject = Subject.of(run)
    assert subject.held_out.windows.shape[1] == subject.portable.context == 32
    longer = replace(subject, portable=replace(subject.portable, context=1000))
    assert longer.held_out.windows.shape[1] == 257
