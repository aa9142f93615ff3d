"""Verification: an engine is held to our forward pass and our token ids, within the layout's
bounds.
"""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ship_models import logits_of, model_of, portable_of, weights_of

from windtunnel.data.chat_format import OURS
from windtunnel.data.shards import Corpus
from windtunnel.results.export import Agreement
from windtunnel.ship.engines import Asked, Scores
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.held_out import held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.template import conversation
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


def test_what_an_engine_does_otherwise_is_counted(tmp_path: Path, corpus: Corpus) -> None:
    held, tokenizer = held_out(corpus, 32, 300, 20), corpus.tokenizer
    settings = {"eos_token": "<|end|>", "chat_template": OURS.template}
    portable = portable_of(MODEL, WEIGHTS, tokenizer, **settings)
    ids = [tokenizer.encode(line).tolist() for line in held.lines]
    rendered = conversation(portable)
    same = Scores(
        engine="a stub",
        log_probabilities=log_probabilities(MODEL, WEIGHTS, held.windows),
        ids=ids,
        marked=[tokenizer.encode_marked(text) for text in (*held.lines, rendered)],
        rendered=rendered,
        ends=[0],
    )

    def found(**other: Any) -> Agreement:
        scores = dataclasses.replace(same, **other)
        layout = dataclasses.replace(LAYOUTS["hf"], engine=lambda path, asked: scores)
        return verify(layout, "fp32", tmp_path, portable, held)

    assert found().good and (found().lines, found().marked_lines) == (20, 21)
    assert (found().wrong_lines, found().max_difference, found().ends) == (0, 0, ["<|end|>"])
    mixed = found(ids=[ids[0], [*ids[1], 7], [], *ids[3:]])
    assert not mixed.good and mixed.wrong_lines == 2
    marked = found(marked=[[0, *same.marked[0]], *same.marked[1:]])
    assert not marked.good and marked.wrong_marked_lines == 1
    assert not found(rendered=rendered + " ").good and found(rendered="").template is False
    endless = found(ends=[])
    assert not endless.good and endless.missed_ends == ["<|end|>"]
    off = same.log_probabilities.copy()
    off[2, 3] += 0.01
    less = found(log_probabilities=off)
    assert not less.good and less.max_difference == pytest.approx(0.01)
    assert less.mean_difference == pytest.approx(0.01 / off.size)


@pytest.mark.parametrize(
    ("off", "field", "value"),
    [
        ("nothing", "max_difference", 0.0),
        ("one number", "max_difference", 0.5),
        ("one number", "bits_per_byte_change", None),
        ("ids", "wrong_lines", 1),
        ("marked", "wrong_marked_lines", 2),
        ("ends", "missed_ends", ["<|end|>"]),
    ],
)
def test_every_word_of_an_engine_is_compared_with_ours(
    off: str, field: str, value: Any, corpus: Corpus, tmp_path: Path
) -> None:
    model = model_of("tied")
    portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
    held = held_out(corpus, 32, 100, 30)
    ours = log_probabilities(model, portable.weights, held.windows)
    seen: list[Asked] = []

    def engine(path: Path, asked: Asked) -> Scores:
        seen.append(asked)
        theirs = ours.copy()
        ids = [list(map(int, one)) for one in corpus.tokenizer.encode_batch(held.lines)]
        marked = [corpus.tokenizer.encode_marked(text) for text in asked.marked]
        if off == "one number":
            theirs[1, 2] -= 0.5
        if off == "ids":
            ids[3] = [*ids[3], 1]
        if off == "marked":
            marked[0], marked[-1] = [1, 2], [3]
        ends = [] if off == "ends" else list(asked.ends)
        return Scores(
            engine="known", log_probabilities=theirs, ids=ids, marked=marked, rendered="", ends=ends
        )

    layout = replace(LAYOUTS["hf"], engine=engine)
    found = verify(layout, "fp32", tmp_path, portable, held)
    assert len(seen[0].marked) == 20 and seen[0].messages == ()
    assert (found.lines, found.marked_lines, found.tokens) == (30, 20, held.tokens)
    assert found.bits_per_byte == pytest.approx(held.bits_per_byte(ours))
    if value is None:
        value = pytest.approx(0.5 / np.log(2) / held.bytes, rel=1e-3)
    got = getattr(found, field)
    assert got == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value)
    assert found.good is (off == "nothing") and found.template is None
    assert (found.most, found.most_change) == (1e-4, None)
