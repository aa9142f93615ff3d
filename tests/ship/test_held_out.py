"""Held-out text: of which splits it is, and which lines."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.held_out import ODD_LINES, HeldOut, documentation, held_out, spread


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


class Stream:
    """Tokens 0, 1, 2 and so on."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        assert starts.min() >= 0 and starts.max() + length <= self.tokens
        return starts[:, None] + np.arange(length)


def test_windows_are_spread_from_the_first_token_to_the_last() -> None:
    streams: Any = [Stream(101), Stream(12), Stream(10)]
    found = spread(streams, 4, 10)
    # 91 ends are three steps of 30 and a third; of 12 tokens only 3 windows differ, of 10 one
    assert found[:, 0].tolist() == [0, 30, 60, 91, 0, 1, 2, 0]
    assert (np.diff(found, axis=1) == 1).all() and found.shape == (8, 10)
    assert spread(streams[:1], 1, 10)[:, 0].tolist() == [0]


def test_as_many_windows_are_held_out_as_the_tokens_need(corpus: Corpus) -> None:
    """A window of 64 scores 63 tokens; each of three sources has its share, rounded up."""
    for tokens, each in ((3 * 63, 1), (3 * 63 + 1, 2), (3 * 2 * 63, 2)):
        assert len(held_out(corpus, 64, tokens, 0).windows) == 3 * each
    shortest = min(source.validation.tokens for source in corpus.sources.values())
    assert len(held_out(corpus, shortest, 1, 0).windows) == 3
    assert len(held_out(corpus, shortest + 1, 1, 0).windows) == 2, "of those that hold one"


def test_lines_of_a_short_source_are_made_up_for_by_the_others(tmp_path: Path) -> None:
    """Of 200 lines, after the odd ones, two sources have 30 each, and the third gives the rest;
    where fewer are asked for, each gives a third.
    """
    texts = {
        "long": [f"line {i} of many\nand one more {i}" for i in range(400)],
        "short": [f"one word and another {i}" for i in range(30)],
        "brief": [f"two words here and there {i}" for i in range(30)],
    }
    sources = {
        name: Documents(read=lambda name=name: iter(texts[name]), origin="x", identity=name)
        for name in texts
    }
    made = build(tmp_path / "c", sources, vocab=300, validation=0.1)
    for asked, expected in ((200, {"one": 30, "two": 30}), (60, {"one": 20, "two": 20})):
        lines = held_out(made, 4, 4, asked + len(ODD_LINES)).lines[len(ODD_LINES) :]
        counts = Counter(line.split()[0] for line in lines)
        assert len(lines) == asked
        assert {first: counts[first] for first in expected} == expected
    assert held_out(made, 4, 4, 3).lines == ODD_LINES[:3]


def test_the_bytes_are_those_of_scored_tokens() -> None:
    held = HeldOut(np.zeros((2, 5), np.int64), 16, ())
    assert held.tokens == 8
    # 8 tokens of ln 2 nats each are 8 bits, over 16 bytes
    assert held.bits_per_byte(np.full((2, 4), -np.log(2))) == pytest.approx(0.5)
    assert HeldOut(held.windows, 0, ()).bits_per_byte(np.full((2, 4), -np.log(2))) == 8


def test_the_documentation_fills_whole_windows(corpus: Corpus) -> None:
    """2,000 tokens to score, in windows of 256."""
    held = documentation(corpus.tokenizer, 257)
    assert held.windows.shape == (8, 257) and held.tokens == 2048
    assert held.windows.dtype == np.int64
    text = corpus.tokenizer.decode(held.windows[0])
    assert any(line in text for line in held.lines[len(ODD_LINES) :][:5])
