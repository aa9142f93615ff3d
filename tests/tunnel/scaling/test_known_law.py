"""The whole scaling study upon a law that is known, and the plan that is made from it: how every
run was trained, what the law predicts, and what the plan expects.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_study import LAW as BATCH_LAW
from batch_study import with_batch_study
from known_fleet import known
from transfer_study import with_transfer_law

from windtunnel.data.shards import Corpus
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.rate import constant_rate
from windtunnel.laws.repetition import PUBLISHED
from windtunnel.model.shape import count
from windtunnel.plan.plan import plan
from windtunnel.plan.record import read_plan
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.recipe import load
from windtunnel.results.scaling import SCALING
from windtunnel.results.study import read_study
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run, lineage, list_runs
from windtunnel.train.schedule import rate_at
from windtunnel.tunnel.scaling import scaling as study
from windtunnel.tunnel.scaling.design import Design

TRUTH = LossLaw.of(E=2.0, A=40.0, alpha=0.3, B=120.0, beta=0.3)
FLOOR, SHARE = 0.2, 0.15
DESIGN = Design(shape="1-sqrt", floor=FLOOR, decay=SHARE)
RATE_LAW = replace(constant_rate(0.02), batch=2048.0, by_batch=0.5)


def loss(run: Run) -> float:
    """Of the law where a run was trained as the design has it. Costs a quarter of a nat for a rate
    that is off by an octave from the root of the batch, along its whole lineage; and for a rate
    half-way through the decay, and at its end, that is not that of the design's schedule.
    """
    recipe = run.recipe
    off = 0.0
    for one in lineage(run):
        batch, lr = one.recipe.train.batch, one.recipe.optimizer.lr
        off += abs(math.log2(lr / (0.02 * math.sqrt(batch / 2048))))
    if recipe.decay_tokens:
        off += abs(recipe.decay_tokens - SHARE * recipe.total_tokens) / recipe.total_tokens
        half = recipe.total_tokens - recipe.decay_tokens / 2
        # 1-sqrt: 1 - (1 - floor) sqrt(share of the decay)
        off += abs(rate_at(recipe, half) - (1 - (1 - FLOOR) * math.sqrt(0.5)))
        off += abs(rate_at(recipe, recipe.total_tokens) - FLOOR)
    params = count(recipe.model).params
    # seeds lie a thousandth apart, as a real study's would by more
    return (
        float(TRUTH.at(params, recipe.total_tokens)) * (1 + 1e-3 * (recipe.seed % 10)) + 0.25 * off
    )


@pytest.fixture(scope="module")
def studied(make_lab: Callable[[], Any], corpus: Corpus) -> Path:
    lab = make_lab()
    with_batch_study(lab)
    settings = {"model": {"scale_emb": 8.0}, "optimizer": {"beta2": 0.97}}
    with_transfer_law(lab.path, RATE_LAW, settings=settings)
    with pytest.MonkeyPatch.context() as patch:
        known(patch, study, loss)
        study.scaling(lab.path, corpus, DESIGN, Watch())
    return lab.path


def test_every_run_is_trained_as_the_design_has_it(studied: Path) -> None:
    runs = list_runs(studied)
    kinds = {run.kind for run in runs}
    assert kinds == {"stem", "branch", "run"} and len({run.recipe.train.batch for run in runs}) > 1
    for run in runs:
        recipe = run.recipe
        wanted = 0.02 * math.sqrt(recipe.train.batch / 2048)
        assert recipe.optimizer.lr == pytest.approx(wanted, rel=5e-3), run.kind
        assert (recipe.model.scale_emb, recipe.optimizer.beta2) == (8.0, 0.97)
        if run.kind != "stem":
            assert (recipe.schedule.decay_shape, recipe.schedule.floor) == ("1-sqrt", FLOOR)
            share = recipe.decay_tokens / recipe.total_tokens
            assert share == pytest.approx(SHARE, abs=2 * recipe.train.batch / recipe.total_tokens)
        if run.kind == "run":
            law = BATCH_LAW["c"] * recipe.total_tokens ** BATCH_LAW["p"]
            assert recipe.train.batch == 2 ** round(math.log2(law))


def test_the_law_is_found_and_predicts_the_audit_run(studied: Path) -> None:
    numbers = read_study(studied, SCALING).numbers
    audit, said = numbers.audit, numbers.law.audit
    assert audit and said and audit.loss and said.error is not None
    assert audit.loss == pytest.approx(float(TRUTH.at(audit.params, audit.tokens)), rel=0.003)
    assert said.predicted == pytest.approx(audit.loss, rel=0.005) and said.inside90
    best = max(numbers.law.forms, key=lambda form: form.weight)
    assert best.count == "params"
    assert best.c * best.beta == pytest.approx(0.3, abs=0.05)
    assert best.c * best.alpha == pytest.approx(0.3, abs=0.05)


def test_a_plan_from_it_expects_what_the_law_gives_and_prices_what_it_repeats(
    studied: Path, corpus: Corpus
) -> None:
    held = sum(source.train.tokens for source in corpus.sources.values())
    evidence = from_lab(studied, "scaling")
    folder = plan(studied, evidence, Request(shape=(96, 4), tokens=4_000_000), None)
    fresh, recipe = read_plan(folder), load(folder / "plan.toml")
    assert fresh.loss == pytest.approx(float(TRUTH.at(fresh.params, fresh.tokens)), rel=0.01)
    assert fresh.interval90[0] < float(TRUTH.at(fresh.params, fresh.tokens)) < fresh.interval90[1]
    # as the runs of the fit were trained, at this length
    law = BATCH_LAW["c"] * fresh.tokens ** BATCH_LAW["p"]
    assert math.log2(recipe.train.batch / law) == pytest.approx(0.0, abs=0.51)
    wanted = 0.02 * math.sqrt(recipe.train.batch / 2048)
    assert recipe.optimizer.lr == pytest.approx(wanted, rel=5e-3)
    assert (recipe.model.scale_emb, recipe.optimizer.beta2) == (8.0, 0.97)
    assert "the lab's transfer study" in fresh.provenance["lr"].how
    assert (recipe.schedule.decay_shape, recipe.schedule.floor) == ("1-sqrt", FLOOR)
    assert recipe.decay_tokens == pytest.approx(SHARE * recipe.total_tokens, abs=recipe.train.batch)
    repeated = plan(studied, evidence, Request(shape=(96, 4), tokens=20 * held), corpus)
    told = read_plan(repeated)
    worth = float(PUBLISHED.effective(told.tokens, held))
    assert told.effective_tokens == pytest.approx(worth) and worth < 0.8 * told.tokens
    assert told.loss == pytest.approx(float(TRUTH.at(told.params, worth)), rel=0.01)
