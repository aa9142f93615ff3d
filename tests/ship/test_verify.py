"""Verification: an engine is held to our forward pass and our token ids, within the layout's
bounds.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ship_models import logits_of, model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.results.export import Agreement
from windtunnel.ship.engines import Scores
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.held_out import held_out
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
    held = held_out(corpus, 32, 300, 20)
    portable = portable_of(MODEL, WEIGHTS, corpus.tokenizer)
    ours = log_probabilities(MODEL, WEIGHTS, held.windows)
    ids = [corpus.tokenizer.encode(line).tolist() for line in held.lines]

    def asked(log_probabilities: np.ndarray, ids: list[list[int]]) -> Agreement:
        scores = Scores(engine="a stub", log_probabilities=log_probabilities, ids=ids)
        layout = dataclasses.replace(LAYOUTS["hf"], engine=lambda path, held: scores)
        return verify(layout, "fp32", tmp_path, portable, held)

    same = asked(ours, ids)
    assert same.good and (same.lines, same.wrong_lines, same.max_difference) == (20, 0, 0)
    mixed = asked(ours, [ids[0], [*ids[1], 7], [], *ids[3:]])
    assert not mixed.good and mixed.wrong_lines == 2
    off = ours.copy()
    off[2, 3] += 0.01
    found = asked(off, [])
    assert not found.good and found.max_difference == pytest.approx(0.01)
    assert found.mean_difference == pytest.approx(0.01 / ours.size) and found.lines == 0
