"""llama.cpp as we drive it."""

import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE
from ship_models import SHAPES, model_of, portable_of, weights_of

from windtunnel.data.chat_format import Message
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.gguf.model import write
from windtunnel.ship.llama_cpp import LlamaCpp, _context_of, apart

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


def test_it_answers_after_a_pause(tmp_path: Path, corpus: Corpus) -> None:
    """Its server ends connections that were idle for five seconds; scoring text takes longer than
    that.
    """
    model, file = model_of(next(iter(SHAPES))), tmp_path / "x.gguf"
    write(file, portable_of(model, weights_of(model), corpus.tokenizer), "F32")
    expected = corpus.tokenizer.encode("a word").tolist()
    with LlamaCpp(file, 64) as engine:
        assert engine.tokenise(["a word"]) == [expected]
        time.sleep(6.5)
        assert engine.tokenise(["a word", "a word"]) == [expected] * 2


def test_it_can_be_closed_at_once(tmp_path: Path, corpus: Corpus) -> None:
    """Before its server's loop has begun, which may be late; in a process that can be killed."""
    model, file = model_of(next(iter(SHAPES))), tmp_path / "x.gguf"
    write(file, portable_of(model, weights_of(model), corpus.tokenizer), "F32")
    child = get_context("spawn").Process(target=_open_and_close, args=(file, 40), daemon=True)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0


def _open_and_close(file: Path, times: int) -> None:
    for _ in range(times):
        LlamaCpp(file, 64).close()


def test_what_llama_cpp_does_to_its_process_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"x\.gguf: the process that ran llama\.cpp on it was killed, or crashed"
    ):
        apart(_abort, tmp_path / "x.gguf")
    with pytest.raises(InputError, match=r"x\.gguf: cannot be read"):
        apart(LlamaCpp, tmp_path / "x.gguf")


def test_llama_cpp_scores_every_kind_of_token(tmp_path: Path, corpus: Corpus) -> None:
    """Parts of characters, special tokens in the middle, and the end of a text: none of these
    does its server report by itself.
    """
    model, tokenizer = model_of("grouped"), corpus.tokenizer
    weights = weights_of(model)
    write(tmp_path / "x.gguf", portable_of(model, weights, tokenizer, 128), "F32")
    texts = ["naïve 日本語 🙂 then wind", "wind <end> sel", "日本", ""]
    ids = [part for text in texts for part in (*tokenizer.encode(text).tolist(), tokenizer.eos)]
    ids += [1, 2, 3, *tokenizer.encode("日").tolist()[:2]]
    windows = np.array([ids, list(reversed(ids))])  # and characters that are no UTF-8 at all
    with LlamaCpp(tmp_path / "x.gguf", exact=True) as engine:
        found = engine.log_probabilities(windows)
        assert np.abs(found - engine.log_probabilities(windows)).max() == 0
    assert np.abs(found - log_probabilities(model, weights, windows)).max() <= 1e-4


def _abort(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def stated(**changes: Any) -> dict[str, Any]:
    fields = {
        "context_length": 4096,
        "block_count": 32,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "embedding_length": 4096,
    } | changes
    return {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in fields.items()}


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        # keys and values of a token: 2 * 2 * 128 * 8 * 32 bytes, of which a gigabyte holds 8,192
        ({}, 4096),
        ({"context_length": 131_072}, 8192),
        ({"context_length": 131_072, "attention.key_length": 64}, 16_384),
        ({"context_length": 131_072, "attention.head_count_kv": 1}, 32_768),
        ({"context_length": 131_072, "attention.head_count_kv": 0}, 2048),
        ({"context_length": 131_072, "block_count": 64}, 4096),
        ({"context_length": 131_072, "block_count": 10_000}, 1024),
        ({"context_length": 500}, 500),
        ({"context_length": "long", "block_count": 1}, 32_768),
    ],
)
def test_a_context_is_what_a_file_states_as_far_as_memory_goes(
    changes: dict[str, Any], context: int
) -> None:
    assert _context_of(stated(**changes)) == context


def test_a_file_that_states_nothing_has_the_longest_context() -> None:
    assert _context_of({}) == 32_768


class Spoken(LlamaCpp):
    """An engine whose template writes `<s>` or not, and which puts a token before every text."""

    def __init__(self, begins: str, before: list[int]) -> None:
        self.begins, self.before = begins, before

    special = {"<s>": 1}  # type: ignore[assignment]  # noqa: RUF012

    def render(self, messages: Any) -> str:
        return self.begins + messages[0]["content"]

    def tokenise(self, lines: Any, marked: bool = False) -> list[list[int]]:
        return [self.before if marked else [7] for _ in lines]


@pytest.mark.parametrize(
    ("begins", "before", "ids"),
    [("<s>", [1], [1, 7]), ("", [1], [1, 7]), ("", [], [7]), ("<s>", [], [1, 7])],
)
def test_what_belongs_before_a_text_is_there_once(
    begins: str, before: list[int], ids: list[int]
) -> None:
    messages: list[Message] = [{"role": "user", "content": "hi"}]
    assert Spoken(begins, before).prompt(messages) == ids
    assert Spoken("", [2, 3]).prompt(messages) == [2, 7], "and what belongs behind it is not"
