"""The whole search upon a loss that is known: what it chooses, when it has a verdict, and what it
does where the best point lies outside of its space.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from known_fleet import known

from windtunnel.data.shards import Corpus
from windtunnel.results.search import SEARCH, SearchNumbers
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.search import search as study
from windtunnel.tunnel.search.design import Design
from windtunnel.tunnel.search.settings import SETTINGS

DESIGN = Design(
    width=16,
    depth=1,
    tokens=400 * 256,
    batch=256,
    trials=16,
    start=8,
    batch_trials=4,
    candidates=2,
    fresh_seeds=2,
)
SEED, RUN = 0.03, 0.004  # standard deviations of the noise, nats

Find = Callable[..., StudyResult[SearchNumbers]]


def loss(run: Run, best_rate: float) -> float:
    """A bowl over the four settings, and noise that follows from seed and point."""
    recipe = run.recipe
    octaves = {
        0.03: math.log2(recipe.optimizer.lr / best_rate),
        0.01: math.log2(recipe.model.scale_depth / 1.4),
        0.004: math.log2(recipe.model.scale_emb / 12),
        0.02: math.log2(recipe.model.init_std / 0.1),
    }
    # scattered evenly between -1.7 and 1.7, of variance 1
    scatter = 3.4 * (zlib.crc32(run.id.encode()) / 2**32 - 0.5)
    noise = SEED * math.sin(recipe.seed) + RUN * scatter
    return 4 + sum(bend * off**2 for bend, off in octaves.items()) + noise


@pytest.fixture
def find(make_lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Find:
    def found(best_rate: float, **changes: Any) -> StudyResult[SearchNumbers]:
        lab = make_lab()
        known(monkeypatch, study, lambda run: loss(run, best_rate))
        study.search(lab.path, corpus, replace(DESIGN, **changes), Watch())
        rates = {row.point["lr"] for row in read_table(lab.path, SEARCH)}
        result = read_study(lab.path, SEARCH)
        searched = result.numbers.settings["lr"]
        assert all(searched.low <= rate <= searched.high for rate in rates)
        return result

    return found


def test_within_its_space_it_finds_the_best_point_and_says_by_how_much(find: Find) -> None:
    result = find(0.03)
    numbers = result.numbers
    assert numbers.chosen.point["lr"] == pytest.approx(0.03, rel=0.5)
    above = 0.03 * math.log2(0.01 / 0.03) ** 2  # of the paper's rate
    assert numbers.difference.mean == pytest.approx(-above, abs=0.03)
    assert (result.verdict, numbers.outcome, numbers.edges) == ("pass", "beats", {})
    first = SETTINGS["lr"]
    assert (numbers.settings["lr"].low, numbers.settings["lr"].high) == (first.low, first.high)
    assert numbers.trials == 16, "no more than were asked for"
    assert "beats the paper's defaults" in result.summary


def test_an_optimum_beyond_an_end_widens_the_space_until_it_lies_within(find: Find) -> None:
    numbers = find(0.2).numbers
    assert numbers.settings["lr"].high == pytest.approx(4 * SETTINGS["lr"].high)
    assert numbers.chosen.point["lr"] == pytest.approx(0.2, rel=0.5)
    assert "lr" not in numbers.edges
    assert 16 <= numbers.trials <= 16 + 3 * 4


def test_an_optimum_at_an_end_is_said(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a space that goes no further."""
    bound = replace(SETTINGS["lr"], most=SETTINGS["lr"].high)
    monkeypatch.setitem(SETTINGS, "lr", bound)
    result = find(30.0, trials=12)
    assert result.numbers.settings["lr"].high == bound.high
    assert result.numbers.edges["lr"] == "high"
    assert "lr lies at the upper end of what was searched (lr 0.08)" in result.summary
    assert result.verdict == "pass", "it beats the paper's point all the same"


def test_runs_that_are_too_short_give_no_verdict(find: Find) -> None:
    result = find(0.3, tokens=399 * 256, trials=12)
    assert result.verdict is None and result.numbers.outcome is None
    assert "runs of 399 steps are too short for a verdict, which needs 400" in result.summary
    assert "beats" not in result.summary and result.numbers.trials == 12
