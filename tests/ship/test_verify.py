"""Verification: held-out text, every token of it scored by llama.cpp, and what is off is called
so.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from ship_models import logits_of, model_of, portable_of, weights_of

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.gguf.model import write
from windtunnel.ship.held_out import ODD_LINES, documentation, held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.verify import verify

MODEL = model_of("grouped")
WEIGHTS = weights_of(MODEL)


def test_our_log_probabilities_are_those_of_the_decoder() -> None:
    windows = np.random.default_rng(0).integers(0, 320, (3, 20))
    ours = log_probabilities(MODEL, WEIGHTS, windows)
    logits = logits_of(MODEL, WEIGHTS, torch.from_numpy(windows)).numpy().astype(np.float64)
    whole = np.exp(logits)
    for row in range(3):
        for at in range(19):
            chance = whole[row, at, windows[row, at + 1]] / whole[row, at].sum()
            assert abs(ours[row, at] - np.log(chance)) < 1e-5


def test_llama_cpp_scores_every_kind_of_token(tmp_path: Path, corpus: Corpus) -> None:
    """Parts of characters, special tokens in the middle, and the end of a text: none of these
    does its server report by itself.
    """
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    write(tmp_path / "x.gguf", portable_of(MODEL, WEIGHTS, corpus.tokenizer, 128), "F32")
    tokenizer = corpus.tokenizer
    texts = ["naïve 日本語 🙂 then wind", "wind <end> sel", "日本", ""]
    ids = [part for text in texts for part in (*tokenizer.encode(text).tolist(), tokenizer.eos)]
    ids += [1, 2, 3, *tokenizer.encode("日").tolist()[:2]]
    windows = np.array([ids, list(reversed(ids))])  # and characters that are no UTF-8 at all
    with LlamaCpp(tmp_path / "x.gguf", exact=True) as engine:
        found = engine.log_probabilities(windows)
        assert np.abs(found - engine.log_probabilities(windows)).max() == 0
    assert np.abs(found - log_probabilities(MODEL, WEIGHTS, windows)).max() <= 1e-4


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


def test_the_bounds_are_those_of_the_layout(tmp_path: Path, corpus: Corpus) -> None:
    held = held_out(corpus, 32, 300, 20)
    portable = portable_of(MODEL, WEIGHTS, corpus.tokenizer)
    layout = LAYOUTS["minicpm"]
    for dtype, bound in layout.bounds.items():
        (tmp_path / dtype).mkdir()
        path = layout.write(tmp_path / dtype, portable, dtype)
        found = verify(layout, dtype, path, portable, held)
        assert (found.most, found.most_change) == (bound.difference, bound.change)
        assert found.good and found.engine == "read back by windtunnel"
    exact = verify(layout, "fp32", tmp_path / "bf16", portable, held)
    assert not exact.good, "rounded weights are not exact"
