"""The whole transfer study upon bowls whose lowest points follow a known law of size, length and
batch: the laws of rate and batch that it tells, and what a fixed rate costs.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
from known_fleet import known
from plan_labs import with_search_study

from windtunnel.cli.transfer import _print as print_study
from windtunnel.data.shards import Corpus
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.results.transfer import TRANSFER, SizeRate, TransferNumbers
from windtunnel.scaling_recipe import LAB_TRANSFER, batch_rule, rate_law
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run, list_runs
from windtunnel.tunnel.transfer import grid
from windtunnel.tunnel.transfer import transfer as study
from windtunnel.tunnel.transfer.design import Design

DESIGN = Design(
    parametrizations=("minicpm",),
    widths=(32, 64),
    depths=(2,),
    lengths=(1_638_400, 204_800, 614_400),
    batches=(1024, 256),
    seeds=(1,),
)
CURVATURE = 0.03  # nats by octaves of the rate
BY_TOKENS, BY_BATCH = -0.35, 0.4


def best_rate(tokens: float, batch: float) -> float:
    return 0.013 * (tokens / 204_800) ** BY_TOKENS * (batch / 1024) ** BY_BATCH


def loss(run: Run) -> float:
    recipe = run.recipe
    off = math.log2(recipe.optimizer.lr / best_rate(recipe.total_tokens, recipe.train.batch))
    return 4 + CURVATURE * off**2


@pytest.fixture(scope="module")
def found(make_lab: Any, corpus: Corpus) -> StudyResult[TransferNumbers]:
    lab = make_lab()
    with pytest.MonkeyPatch.context() as patch:
        known(patch, grid, loss)
        study.transfer(lab.path, corpus, DESIGN, Watch())
    lengths = {row.tokens for row in read_table(lab.path, TRANSFER)}
    assert lengths == set(DESIGN.lengths), "all of them whole steps"
    return read_study(lab.path, TRANSFER)


def test_every_run_has_the_settings_of_a_search_that_beat_the_papers(
    make_lab: Any, corpus: Corpus
) -> None:
    lab = make_lab()
    with_search_study(lab.path, 0.05, "beats", also={"scale_emb": 8.0, "beta2": 0.97})
    with pytest.MonkeyPatch.context() as patch:
        known(patch, grid, loss)
        study.transfer(lab.path, corpus, replace(DESIGN, lengths=(204_800,)), Watch())
    for run in list_runs(lab.path):
        assert (run.recipe.model.scale_emb, run.recipe.optimizer.beta2) == (8.0, 0.97)


def rates(found: StudyResult[TransferNumbers]) -> tuple[SizeRate, ...]:
    return found.numbers.parametrizations["minicpm"].sizes


def test_the_best_rate_of_each_length_and_batch_is_the_true_one(
    found: StudyResult[TransferNumbers],
) -> None:
    told = [(size.width, size.batch, size.tokens) for size in rates(found)]
    lengths = sorted(DESIGN.lengths)
    cells = [(32, 1024), (64, 1024), (32, 256)]
    assert told == [(*cell, tokens) for cell in cells for tokens in lengths]
    for size in rates(found):
        assert size.tokens and size.batch
        assert size.lr == pytest.approx(best_rate(size.tokens, size.batch), rel=0.01)


def test_the_law_has_the_true_powers(found: StudyResult[TransferNumbers]) -> None:
    told = found.numbers.parametrizations["minicpm"].law
    assert told
    law = rate_law(told)
    assert law.by_tokens == pytest.approx(BY_TOKENS, abs=0.01)
    assert law.by_batch == pytest.approx(BY_BATCH, abs=0.02)
    assert law.by_params == pytest.approx(0.0, abs=0.01)
    for name, truth in (("by_tokens", BY_TOKENS), ("by_batch", BY_BATCH), ("by_params", 0.0)):
        low, high = law.interval_of(name)
        assert low < truth < high < low + 0.2
    assert law.at(1e6, 6_553_600, 1024) == pytest.approx(best_rate(6_553_600, 1024), rel=0.05)
    assert "goes as N^" in found.summary and "D^-0.3" in found.summary


def test_what_a_fixed_rate_costs_and_what_the_law_s_rate_does(
    found: StudyResult[TransferNumbers],
) -> None:
    fixed = best_rate(204_800, 1024)
    for size in rates(found):
        assert size.tokens and size.batch and size.regret is not None
        off = math.log2(fixed / best_rate(size.tokens, size.batch))
        assert size.regret == pytest.approx(CURVATURE * off**2, abs=2e-3)
        assert size.regret_of_law == pytest.approx(0.0, abs=2e-4)
    assert max(size.regret or 0.0 for size in rates(found)) > 0.03


def test_the_drift_is_that_of_the_longest_runs(found: StudyResult[TransferNumbers]) -> None:
    drift = found.numbers.parametrizations["minicpm"].drift.width
    assert drift and drift.slope == pytest.approx(0.0, abs=0.01)
    assert found.numbers.tokens == 1_638_400 and found.numbers.lengths == (
        204_800,
        614_400,
        1_638_400,
    )


BATCH_POWER = 0.7


def best_batch(tokens: float) -> float:
    return 700 * (tokens / 614_400) ** BATCH_POWER


def loss_by_batch(run: Run) -> float:
    recipe = run.recipe
    off = math.log2(recipe.train.batch / best_batch(recipe.total_tokens))
    return loss(run) + 0.04 * off**2


def test_with_four_batches_the_study_tells_the_best_batch_and_its_law(
    make_lab: Any, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab()
    design = replace(DESIGN, widths=(32,), batches=(1024, 256, 2048, 512))
    with pytest.MonkeyPatch.context() as patch:
        known(patch, grid, loss_by_batch)
        study.transfer(lab.path, corpus, design, Watch())
    result = read_study(lab.path, TRANSFER)
    told = result.numbers.parametrizations["minicpm"]
    for level, tokens in zip(told.best_batches, sorted(design.lengths), strict=True):
        assert (level.tokens, level.where) == (tokens, "inside")
        assert level.batch == pytest.approx(best_batch(tokens), rel=0.03)
    assert told.batch_law
    assert told.batch_law.constants["p"] == pytest.approx(BATCH_POWER, abs=0.03)
    low, high = told.batch_law.intervals["p"]
    assert low < BATCH_POWER < high
    rule = batch_rule(lab.path, corpus.folder.name)
    assert rule.origin == LAB_TRANSFER
    assert rule.by_tokens.predict(6e6) == pytest.approx(best_batch(6e6), rel=0.1)
    print_study(result)
    printed = capsys.readouterr().out
    assert "each at its best rate" in printed and "bs = " in printed


def test_fewer_batches_tell_no_best_one(found: StudyResult[TransferNumbers]) -> None:
    told = found.numbers.parametrizations["minicpm"]
    assert told.best_batches == () and told.batch_law is None
