"""Plans: each kind of budget, what is kept of the runs in the fit, and where numbers come from."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plan_labs import CHINCHILLA, LENGTHS, SIZES, TRUTH, VOCAB, table_of, with_study
from shared_data import shared

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.choice import Predictor, choose
from windtunnel.laws.optimum import closed_form
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.evidence import Evidence, from_table
from windtunnel.plan.plan import plan as make_plan
from windtunnel.plan.plan import work_out
from windtunnel.plan.record import read_plan
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.recipe import dump, load
from windtunnel.results.plan import PlanResult

FOLDER = Path("lab/plans/first")


def planned(
    evidence: Evidence, predictor: Predictor, corpus: Corpus | None = None, **request: Any
) -> PlanResult:
    return work_out(evidence, predictor, Request(**request), corpus, FOLDER)[1]


def said(plan: PlanResult) -> dict[str, str]:
    return {flag.about: flag.level for flag in plan.flags}


@pytest.mark.parametrize(
    "request_of",
    [
        {"flops": 1e11},
        {"hours": 0.002, "device": "cpu"},
        {"tokens": 1_000_000},
        {"params": 30_000.0},
        {"shape": (48, 3)},
        {"bytes_served": 60_000},
        {"bytes_served": 60_000, "flops": 1e11},
        {"bytes_served": 60_000, "tokens": 500_000},
        {"bytes_served": 10**9, "tokens": 500_000},
        {"params": 30_000.0, "flops": 1e11},
        {"params": 30_000.0, "tokens": 500_000},
    ],
)
def test_each_kind_of_budget_is_kept(
    request_of: dict[str, Any], evidence: Evidence, predictor: Predictor, corpus: Corpus
) -> None:
    recipe, plan = work_out(evidence, predictor, Request(**request_of), corpus, FOLDER)
    asked = Request(**request_of)
    if asked.flops:
        assert 0.95 * asked.flops < plan.flops <= asked.flops
    if asked.hours:
        assert plan.training.hours == pytest.approx(0.002, rel=0.05)
    if asked.tokens:
        assert asked.tokens * 0.99 < plan.tokens <= asked.tokens
    if asked.params:
        assert plan.params == pytest.approx(asked.params, rel=0.25)
    if asked.bytes_served:
        assert plan.serving.bytes["q4"] + plan.serving.cache_bytes <= asked.bytes_served
    counts = count(recipe.model)
    assert (plan.params, plan.params_total) == (counts.params, counts.params_total)
    assert plan.tokens == recipe.total_tokens
    assert plan.flops == flops_per_token(recipe.model, recipe.data.context) * recipe.total_tokens
    assert plan.interval90[0] < plan.interval50[0] < plan.loss < plan.interval50[1]


def test_tokens_in_hand_have_the_best_size_for_them_or_the_largest_that_fits(
    evidence: Evidence, predictor: Predictor
) -> None:
    free, small = (
        planned(evidence, predictor, tokens=500_000, bytes_served=served)
        for served in (10**9, 60_000)
    )
    alone = planned(evidence, predictor, tokens=500_000)
    assert (free.shape, free.tokens) == (alone.shape, alone.tokens)
    assert small.params < alone.params and small.tokens == pytest.approx(500_000, rel=0.01)
    assert small.serving.bytes["q4"] + small.serving.cache_bytes <= 60_000


def test_epochs_multiply_the_tokens_in_hand(evidence: Evidence, predictor: Predictor) -> None:
    twice = planned(evidence, predictor, shape=(48, 2), tokens=200_000, epochs=2)
    assert twice.tokens == pytest.approx(400_000, rel=0.01)
    assert twice.epochs == pytest.approx(2, rel=0.01)


def test_epochs_of_a_corpus_bound_what_a_size_is_trained_on(
    evidence: Evidence, predictor: Predictor, corpus: Corpus
) -> None:
    plan = planned(evidence, predictor, corpus, shape=(48, 2), flops=1e13, epochs=2)
    assert plan.tokens == pytest.approx(2 * corpus.train_tokens, rel=0.02)


def test_the_loss_of_the_truth_is_within_the_interval(
    evidence: Evidence, predictor: Predictor, corpus: Corpus
) -> None:
    plan = planned(evidence, predictor, shape=(64, 6), tokens=1_500_000)
    truth = float(TRUTH.at(plan.params, plan.tokens))
    assert plan.interval90[0] < truth < plan.interval90[1]
    assert plan.loss == pytest.approx(truth, rel=0.02)
    assert plan.extrapolation.tokens == pytest.approx(1.5 / 0.8, rel=1e-2)


def test_a_plan_decays_and_batches_as_the_runs_of_the_fit_did(
    evidence: Evidence, predictor: Predictor, corpus: Corpus
) -> None:
    recipe, plan = work_out(evidence, predictor, Request(flops=1e12), corpus, FOLDER)
    schedule = recipe.schedule
    assert (schedule.decay_shape, schedule.floor) == ("exponential", 0.1)
    assert recipe.decay_tokens == pytest.approx(0.1 * recipe.total_tokens, abs=recipe.train.batch)
    assert recipe.train.batch == pytest.approx(2 * recipe.total_tokens**0.5, rel=0.5)
    assert recipe.optimizer.lr == 0.01 and plan.provenance["lr"].study == "scaling"
    assert recipe.train.branch_points[-1] == recipe.total_tokens - recipe.decay_tokens
    assert all(at % recipe.train.batch == 0 for at in recipe.train.branch_points)


def test_every_number_names_its_study_and_runs(evidence: Evidence, predictor: Predictor) -> None:
    plan = planned(evidence, predictor, flops=1e11)
    for key in ("loss", "range_params", "batch_tokens", "lr", "params"):
        source = plan.provenance[key]
        assert source.study == "scaling" and len(source.runs) == len(SIZES) * len(LENGTHS)
    assert "arXiv" in plan.provenance["effective_tokens"].how


def test_more_epochs_of_few_tokens_are_priced_and_flagged(
    evidence: Evidence, predictor: Predictor, corpus: Corpus
) -> None:
    held = sum(source.train.tokens for source in corpus.sources.values())
    plan = planned(evidence, predictor, corpus, shape=(48, 2), tokens=6 * held)
    assert plan.epochs == pytest.approx(6, rel=0.01) and said(plan)["epochs"] == "caution"
    fresh = planned(evidence, predictor, shape=(48, 2), tokens=6 * held)
    assert plan.effective_tokens < fresh.effective_tokens and plan.loss > fresh.loss


def test_settings_of_a_measured_run_are_kept(
    evidence: Evidence, predictor: Predictor, tmp_path: Path, recipe: Any
) -> None:
    lab = with_study(tmp_path, runs=("abc",))
    run = lab / "runs" / "abc"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(dump(recipe(optimizer={"beta2": 0.9, "weight_decay": 2e-3})))
    made, _ = work_out(from_lab(lab, "scaling"), predictor, Request(flops=1e11), None, FOLDER)
    assert (made.data.context, made.model.base_width, made.model.vocab) == (32, 16, VOCAB)
    assert (made.optimizer.beta2, made.optimizer.weight_decay) == (0.9, 2e-3)
    assert made.train.evaluate_tokens == recipe().train.evaluate_tokens


@pytest.mark.parametrize(("flops", "flagged"), [(1e11, False), (1e16, False), (1e18, True)])
def test_a_plan_has_the_weight_decay_of_the_runs_in_the_fit_at_every_length(
    flops: float, flagged: bool, predictor: Predictor, tmp_path: Path, recipe: Any
) -> None:
    run = with_study(tmp_path, runs=("abc",)) / "runs" / "abc"
    run.mkdir(parents=True)
    measured = recipe(data={"context": 256}, train={"batch": 256}, schedule={"tokens": 25_600})
    (run / "recipe.toml").write_text(dump(measured.change(optimizer={"weight_decay": 2e-3})))
    found = from_lab(tmp_path, "scaling")
    made, plan = work_out(found, predictor, Request(flops=flops), None, FOLDER)
    assert made.optimizer.weight_decay == plan.weight_decay == 2e-3
    assert ("weight_decay" in said(plan)) is flagged
    steps = plan.tokens // plan.batch_tokens
    assert (steps > 10 / 2e-3) is flagged
    assert (steps > 2000) is (flops > 1e12), "where the default fell once"


@pytest.mark.parametrize("flops", [1e11, 1e18])
def test_without_runs_weight_decay_is_the_default_at_every_length(
    flops: float, evidence: Evidence, predictor: Predictor
) -> None:
    made, plan = work_out(evidence, predictor, Request(flops=flops), None, FOLDER)
    assert made.optimizer.weight_decay == 1e-3
    steps = plan.tokens // plan.batch_tokens
    assert (steps > 2000) is (flops > 1e12)
    assert ("weight_decay" in said(plan)) is (steps > 10 / 1e-3)


@pytest.mark.parametrize("flops", [1e11, 1e14, 1e18])
def test_the_warm_up_is_two_percent_and_at_most_two_thousand_steps(
    flops: float, evidence: Evidence, predictor: Predictor
) -> None:
    made, plan = work_out(evidence, predictor, Request(flops=flops), None, FOLDER)
    steps = plan.tokens // plan.batch_tokens
    assert made.warmup_tokens == plan.warmup_tokens
    wanted = max(1, min(round(0.02 * steps), 2000))
    assert plan.warmup_tokens == wanted * plan.batch_tokens


def test_a_table_alone_is_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes, lengths = (
        np.repeat(np.geomspace(1e7, 1e9, 4), 5),
        np.tile(np.geomspace(1e9, 3e10, 5), 4),
    )
    losses = CHINCHILLA.at(sizes, lengths) * np.exp(0.002 * rng.standard_normal(20))
    rows = "\n".join(f"{n},{d},{loss}" for n, d, loss in zip(sizes, lengths, losses, strict=True))
    (tmp_path / "runs.csv").write_text(f"params,tokens,loss\n{rows}\n")
    folder = make_plan(
        tmp_path,
        from_table(tmp_path / "runs.csv"),
        Request(flops=1e20, device="h100", price=2.0),
        None,
    )
    made, recipe = read_plan(folder), load(folder / "plan.toml")
    assert made.loss == pytest.approx(closed_form(CHINCHILLA, 1e20).loss, rel=0.02)
    assert recipe.data.corpus == "mine" and recipe.model.base_width == 256
    assert said(made)["vocab"] == "note"
    training = made.training
    assert training.hours == pytest.approx(made.flops / (0.25 * 989e12) / 3600)
    assert training.cost == pytest.approx(2 * training.hours)


def test_a_study_without_its_runs_keeps_the_tunnels_parametrization_and_says_so(
    tmp_path: Path,
) -> None:
    lab = with_study(tmp_path)
    table_of(lab / "studies" / "scaling" / "table.csv", lr="0.01")
    folder = make_plan(lab, from_lab(lab, "scaling"), Request(flops=1e13), None)
    assert load(folder / "plan.toml").model.parametrization == "minicpm"
    assert any(
        "runs of the study are not in this lab" in flag.text for flag in read_plan(folder).flags
    )


def test_too_small_a_budget_is_refused(evidence: Evidence, predictor: Predictor) -> None:
    with pytest.raises(InputError, match="too small a budget"):
        planned(evidence, predictor, params=50_000.0, flops=1e8)


def test_what_does_not_fit_the_device_is_a_stop(evidence: Evidence, predictor: Predictor) -> None:
    plan = planned(evidence, predictor, params=20e9, tokens=10**9, device="rtx4090")
    assert said(plan)["memory"] == "stop" and plan.go == "no-go"


def test_chinchillas_table_gives_chinchillas_optimum(tmp_path: Path) -> None:
    rows = list(csv.DictReader(shared("epoch_chinchilla/svg_extracted_data.csv").open()))
    kept = sorted(rows, key=lambda row: -float(row["loss"]))[5::3]
    text = ["params,tokens,loss"]
    for row in kept:
        size, flops = float(row["Model Size"]), float(row["Training FLOP"])
        text.append(f"{size},{flops / (6 * size)},{row['loss']}")
    (tmp_path / "chinchilla.csv").write_text("\n".join(text))
    found = from_table(tmp_path / "chinchilla.csv")
    plan = planned(found, choose(found.points), flops=1e21)
    reference = closed_form(CHINCHILLA, 1e21)
    assert plan.best_by_6nd.params == pytest.approx(reference.params, rel=0.15)
    assert plan.loss == pytest.approx(reference.loss, rel=0.01)
    assert plan.range_params[0] < reference.params < plan.range_params[1]
