"""Held-out text: of which splits it is, and which lines."""

from pathlib import Path

import numpy as np
import pytest

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.held_out import ODD_LINES, documentation, held_out


def test_held_out_text_is_of_every_validation_split(corpus: Corpus) -> None:
    held = held_out(corpus, 64, 1000, 100)
    assert held.windows.shape[1] == 64 and held.tokens == held.windows[:, 1:].size >= 1000
    assert held.bytes == corpus.tokenizer.token_bytes[held.windows[:, 1:]].sum()
    assert len(held.lines) == 100 and held.lines[: len(ODD_LINES)] == ODD_LINES
    splits = [
        s.validation.read(np.array([0]), s.validation.tokens)[0].tobytes()
        for s in corpus.sources.values()
    ]
    assert all(any(window.tobytes() in split for split in splits) for window in held.windows)
    for split in splits:
        assert any(window.tobytes() in split for window in held.windows)


def test_a_corpus_that_is_too_short_says_so(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="no validation split holds 1000000 tokens"):
        held_out(corpus, 1_000_000)


def test_lines_are_those_of_documents(tmp_path: Path) -> None:
    texts = [f"line {i} of one\n\nand its end {i}" for i in range(300)]
    made = build(
        tmp_path / "c",
        {"s": Documents(read=lambda: iter(texts), origin="x", identity="x")},
        vocab=300,
    )
    lines = held_out(made, 8, 10, 200).lines[len(ODD_LINES) :]
    there = {line for text in texts for line in text.split("\n")} - {""}
    assert len(lines) == 200 - len(ODD_LINES) and set(lines) <= there


def test_bits_a_byte(corpus: Corpus) -> None:
    held = held_out(corpus, 64, 100, 10)
    assert held.bits_per_byte(np.full(held.bytes, -np.log(2))) == pytest.approx(1)


def test_the_documentation_stands_in_for_a_corpus(corpus: Corpus) -> None:
    held = documentation(corpus.tokenizer, 64)
    assert held.windows.shape[1] == 64 and held.tokens >= 2000
    assert len(held.lines) == 1000 and held.lines[: len(ODD_LINES)] == ODD_LINES
