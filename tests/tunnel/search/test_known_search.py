"""The whole search upon a loss that is known: what it chooses, when it has a verdict, and what it
does where the best point lies outside of its space.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_fleet import known

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.report.experiments.search import figures
from windtunnel.results.search import SEARCH, SearchNumbers, SearchRow
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.search import search as study
from windtunnel.tunnel.search.design import Design
from windtunnel.tunnel.search.settings import SETTINGS
from windtunnel.tunnel.search.surface import noise_of

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


def found(
    lab: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, best_rate: float, **changes: Any
) -> StudyResult[SearchNumbers]:
    known(monkeypatch, study, lambda run: loss(run, best_rate))
    study.search(lab, corpus, replace(DESIGN, **changes), Watch())
    rates = {row.point["lr"] for row in read_table(lab, SEARCH)}
    result = read_study(lab, SEARCH)
    searched = result.numbers.settings["lr"]
    assert all(searched.low <= rate <= searched.high for rate in rates)
    return result


@pytest.fixture
def find(make_lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Find:
    return lambda rate, **changes: found(make_lab().path, corpus, monkeypatch, rate, **changes)


@pytest.fixture(scope="module")
def within(make_lab: Any, corpus: Corpus) -> StudyResult[SearchNumbers]:
    """What was found where the best rate is 0.03, of which the space has room on either side."""
    with pytest.MonkeyPatch.context() as patch:
        return found(make_lab().path, corpus, patch, 0.03)


def test_within_its_space_it_finds_the_best_point_and_says_by_how_much(
    within: StudyResult[SearchNumbers],
) -> None:
    result = within
    numbers = result.numbers
    assert numbers.chosen.point["lr"] == pytest.approx(0.03, rel=0.5)
    above = 0.03 * math.log2(0.01 / 0.03) ** 2  # of the paper's rate
    assert numbers.difference.mean == pytest.approx(-above, abs=0.03)
    assert (result.verdict, numbers.outcome, numbers.edges) == ("pass", "beats", {})
    first = SETTINGS["lr"]
    assert (numbers.settings["lr"].low, numbers.settings["lr"].high) == (first.low, first.high)
    assert numbers.trials == 16, "no more than were asked for"
    assert "beats the paper's defaults" in result.summary


def test_where_the_paper_s_point_stays_it_is_not_held_against_itself(
    within: StudyResult[SearchNumbers],
) -> None:
    """Nor drawn twice."""
    paper = within.numbers.defaults.point
    kept = within.numbers.chosen.model_copy(update={"point": paper})
    numbers = within.numbers.model_copy(update={"chosen": kept})
    _, summary = study.judge(numbers, 14)
    assert summary.startswith("the paper's defaults stay (lr 0.01, ") and "[" not in summary
    for result, lines in ((within, 2), (within.model_copy(update={"numbers": numbers}), 1)):
        caption, panels = figures(result, [])[0]
        marks = [trace for trace in panels[0].data if trace.name in ("chosen", "the paper's")]
        assert len(marks) == lines
        assert ("which was kept" in caption) == (lines == 1)


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


def test_every_number_is_that_of_the_runs(
    make_lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial of which diverges; another is the luckiest."""
    lab = make_lab()
    diverged: list[str] = []

    def measured(run: Run) -> float | None:
        if run.recipe.optimizer.lr > 0.06 and run.recipe.seed == 0:
            diverged.append(run.id)
            return None
        return loss(run, 0.02)

    known(monkeypatch, study, measured)
    study.search(lab.path, corpus, DESIGN, Watch())
    numbers, rows = read_study(lab.path, SEARCH).numbers, read_table(lab.path, SEARCH)
    by_kind: dict[str, list[SearchRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
        assert (row.width, row.depth, row.batch) == (16, 1, 256)
    trials = by_kind["trial"]
    assert diverged and numbers.failed == len(diverged)
    assert {row.run for row in trials if row.loss is None} == set(diverged)
    assert numbers.trials == len(trials) and [row.trial for row in trials] == list(
        range(len(trials))
    )
    assert [row.trial for row in by_kind["paper"]] == [0, 0]
    best = min((row for row in trials if row.loss is not None), key=lambda row: row.loss or 0)
    assert (numbers.luckiest.trial, numbers.luckiest.loss) == (best.trial, best.loss)
    assert numbers.luckiest.point == best.point
    assert len(numbers.candidates) == 2 and numbers.chosen.trial in {
        one.trial for one in numbers.candidates
    }
    for one in numbers.candidates:
        again = [row.loss for row in by_kind["candidate"] if row.trial == one.trial]
        assert one.losses == tuple(again) and len(again) == 2
        assert one.trial_loss == trials[one.trial].loss and one.point == trials[one.trial].point
        # what is measured lies about what is believed
        assert one.posterior_mean == pytest.approx(np.mean([one.trial_loss, *again]), abs=0.05)
    table = [one.losses for one in numbers.candidates]
    noise = noise_of(table)  # type: ignore[arg-type]
    assert noise and numbers.noise.measured
    assert (numbers.noise.seed, numbers.noise.run) == pytest.approx((noise.seed, noise.run))
    chosen, paper = ([row.loss or 0.0 for row in by_kind[kind]] for kind in ("chosen", "paper"))
    assert (numbers.chosen.losses, numbers.defaults.losses) == (tuple(chosen), tuple(paper))
    apart = np.subtract(chosen, paper)
    assert numbers.difference.mean == pytest.approx(apart.mean())
    # Student's t of one degree of freedom at 95%
    reach = 6.3138 * apart.std(ddof=1) / math.sqrt(2)
    assert numbers.difference.interval == pytest.approx(
        (apart.mean() - reach, apart.mean() + reach), rel=1e-4
    )
    assert numbers.difference.seeds == 2
    assert numbers.expected_gain.trials == (1, 2, 4, 8, 16, 32)
    assert list(numbers.expected_gain.gain) == sorted(numbers.expected_gain.gain)
    assert sum(numbers.importances.values()) <= 1.1 and set(numbers.importances) == set(
        numbers.bowls
    )
    for name, bowl in numbers.bowls.items():
        searched = numbers.settings[name]
        assert len(bowl.value) == 13
        assert (bowl.value[0], bowl.value[-1]) == pytest.approx(
            (searched.low, searched.high), rel=1e-3
        )
        for low, mean, high in zip(bowl.low, bowl.above, bowl.high, strict=True):
            assert low <= mean <= high
        assert searched.low <= bowl.best[0] <= bowl.best[1] <= searched.high
        assert searched.paper == SETTINGS[name].default
    rate = numbers.bowls["lr"]
    lowest = rate.value[rate.above.index(min(rate.above))]
    assert lowest == pytest.approx(0.02, rel=0.6)


def test_where_every_trial_diverges_there_is_nothing_to_choose_from(
    make_lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab()
    known(monkeypatch, study, lambda run: None)
    with pytest.raises(InputError, match="search: all 6 trials diverged"):
        study.search(lab.path, corpus, replace(DESIGN, trials=6, start=4), Watch())
