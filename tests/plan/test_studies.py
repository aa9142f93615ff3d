"""What a lab's studies give a plan, and what they say beside it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from plan_labs import (
    LENGTHS,
    SIZES,
    table_of,
    with_batch_study,
    with_check,
    with_search_study,
    with_study,
    with_transfer_study,
)
from transfer_study import with_transfer_law

from windtunnel.errors import InputError
from windtunnel.laws.rate import constant_rate
from windtunnel.plan import flags
from windtunnel.plan.evidence import Evidence, from_table
from windtunnel.plan.settings import PlannedRun, batch_for, rate_for
from windtunnel.plan.studies import from_lab
from windtunnel.recipe import Recipe, dump
from windtunnel.results.batch import FittedLaw
from windtunnel.scaling_recipe import LAB_BATCH, LAB_TRANSFER

RUN = PlannedRun(4.5, 1e6, 1e5)


def test_a_scaling_study_gives_its_points_and_how_its_runs_were_trained(
    evidence: Evidence,
) -> None:
    assert len(evidence.points) == len(SIZES) * len(LENGTHS)
    assert evidence.sizes == SIZES and evidence.corpus == "tiny"
    assert (evidence.decay.share, evidence.decay.shape, evidence.decay.floor) == (
        0.1,
        "exponential",
        0.1,
    )
    assert evidence.seed_sd == 0.01
    # of a release that had one rate for all runs
    assert evidence.recipe and evidence.recipe.rate.lr(1e9, 1e9, 1e6) == 0.01
    assert evidence.core_speed is not None
    assert evidence.core_speed.flops_per_second == 6e12 / 60


def test_a_study_and_its_table_alone_are_the_same_points(studied: Path, evidence: Evidence) -> None:
    alone = from_table(studied / "studies/scaling/table.csv").points
    assert (alone.loss == evidence.points.loss).all() and (alone.stem == evidence.points.stem).all()


def test_the_batch_is_that_of_the_runs_with_the_interval_of_the_batch_study(tmp_path: Path) -> None:
    best = {tokens: 3 * tokens**0.4 for tokens in (1e5, 2e5, 4e5, 8e5)}
    lab = with_batch_study(with_study(tmp_path, batch=(3.0, 0.4, LAB_BATCH)), best, runs=("r1",))
    run, x = PlannedRun(4.5, 1.6e6, 5e4), math.log(1.6e6)
    found = batch_for(from_lab(lab, "scaling"), run)
    assert found.batch == pytest.approx(3 * 1.6e6**0.4, rel=0.01) and found.inside
    assert found.beside == pytest.approx(found.batch, rel=0.01)
    assert (found.provenance.study, found.provenance.runs) == ("batch", ("r1",))
    # the variance of log c + p log D, where c and p go together
    spread = 1.6449 * math.sqrt(0.25 - 2 * 0.02 * x + 0.0017 * x**2)
    assert found.interval and math.log(found.interval[1] / found.batch) == pytest.approx(spread)
    assert math.log(found.batch / found.interval[0]) == pytest.approx(spread)
    older = with_study(tmp_path / "older", batch=(3.0, 0.4, LAB_BATCH))
    found = batch_for(from_lab(with_batch_study(older, best, covariance=None), "scaling"), run)
    assert found.interval is None and found.batch == pytest.approx(3 * 1.6e6**0.4, rel=0.01)


def test_the_interval_of_a_batch_is_not_that_of_another_study(tmp_path: Path) -> None:
    """Trained by the transfer study's law; a batch study was made since."""
    best = {tokens: 12 * tokens**0.5 for tokens in (1e5, 2e5, 4e5, 8e5)}
    lab = with_batch_study(with_study(tmp_path, batch=(3.0, 0.4, LAB_TRANSFER)), best)
    found = batch_for(from_lab(lab, "scaling"), RUN)
    assert found.batch == pytest.approx(3 * 1e6**0.4) and found.interval is None
    assert found.provenance.study == "scaling"
    assert found.beside == pytest.approx(12 * 1e6**0.5, rel=0.01)


@pytest.mark.parametrize("covariance", [((0.25, -0.02), (-0.02, 0.0017)), None])
def test_without_a_batch_study_the_interval_is_that_of_the_transfer_study(
    tmp_path: Path, covariance: tuple[tuple[float, float], ...] | None
) -> None:
    law = FittedLaw(constants={"c": 3.0, "p": 0.4}, intervals={}, covariance=covariance)
    lab = with_study(tmp_path, batch=(3.0, 0.4, LAB_TRANSFER))
    with_transfer_law(lab, constant_rate(0.01), batches=law)
    found = batch_for(from_lab(lab, "scaling"), RUN)
    assert found.batch == pytest.approx(3 * 1e6**0.4)
    assert (found.interval is None) == (covariance is None)
    if found.interval:
        assert found.provenance.study == "transfer"
        assert found.interval[0] < found.batch < found.interval[1]


def test_another_best_batch_is_said_and_not_taken(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    best = {tokens: 12 * tokens**0.5 for tokens in (1e5, 2e5, 4e5, 8e5)}
    lab = with_batch_study(with_study(tmp_path), best)
    found = from_lab(lab, "scaling")
    batch = batch_for(found, RUN)
    assert batch.batch == pytest.approx(2 * 1e6**0.5)
    assert batch.beside == pytest.approx(12 * 1e6**0.5, rel=0.01)
    steps = recipe(train={"batch": 2048}, schedule={"tokens": 2048 * 500})
    raised = [flag.text for flag in flags.of_settings(steps, batch, rate_for(found, RUN, 2048))]
    assert any(
        "best batch by the lab's own study is 12k tokens, not 2048" in text for text in raised
    )
    near = steps.change(train={"batch": 8192}, schedule={"tokens": 8192 * 500})
    raised = [flag.text for flag in flags.of_settings(near, batch, rate_for(found, RUN, 8192))]
    assert not any("best batch by" in text for text in raised)


def test_a_better_rate_elsewhere_is_said_and_not_taken(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    lab = with_study(tmp_path)
    with_transfer_study(lab, 0.03, (0.025, 0.04), verdict="fail", runs=("t1", "t2"))
    found = from_lab(lab, "scaling")
    rate = rate_for(found, RUN, 512)
    assert rate.lr == 0.01
    (beside,) = rate.beside
    assert (beside.study, beside.lr, beside.runs) == ("transfer", 0.03, ("t1", "t2"))
    assert beside.interval == (0.025, 0.04) and beside.at == "64x2, 800000 tokens"
    levels = {flag.about: flag.level for flag in flags.of_studies(found, recipe())}
    assert levels == {"transfer": "caution", "check": "note"}


@pytest.mark.parametrize(
    ("outcome", "said"), [("beats", True), ("ties", True), ("loses", False), (None, False)]
)
def test_a_searched_rate_is_said_unless_it_lost_or_was_too_short_to_tell(
    outcome: str | None, said: bool, tmp_path: Path
) -> None:
    lab = with_search_study(with_study(tmp_path), 0.02, outcome, runs=("s1",))
    found = [beside.outcome for beside in rate_for(from_lab(lab, "scaling"), RUN, 512).beside]
    assert found == ([outcome] if said else [])


def test_a_search_with_another_optimiser_says_nothing_of_the_rate(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    lab = with_search_study(with_study(tmp_path), 0.05, "beats", "muon", verdict="fail")
    found = from_lab(lab, "scaling")
    assert not rate_for(found, RUN, 512).beside
    assert [flag.about for flag in flags.of_studies(found, recipe())] == ["check"]
    muon = recipe(optimizer={"kind": "muon"})
    assert "search" in {flag.about for flag in flags.of_studies(found, muon)}


@pytest.mark.parametrize(
    ("checked", "stops"),
    [
        (("minicpm", "adamw"), True),
        (("minicpm", "muon"), False),
        (("standard", "adamw"), False),
        (("completep", "adamw"), False),
    ],
)
def test_only_a_check_of_the_recipes_own_rules_stops_a_plan(
    checked: tuple[str, str], stops: bool, tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    lab = with_check(with_study(tmp_path), *checked, verdict="fail")
    found = list(flags.of_studies(from_lab(lab, "scaling"), recipe()))
    assert [(flag.about, flag.level) for flag in found] == [("check", "stop" if stops else "note")]
    assert stops or "no coordinate check of minicpm with adamw yet" in found[0].text


def test_studies_follow_the_optimiser_and_the_rules_of_the_runs_in_the_fit(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    lab = with_study(tmp_path, runs=("abc",))
    muon = recipe(optimizer={"kind": "muon"})
    (lab / "runs" / "abc").mkdir(parents=True)
    (lab / "runs" / "abc" / "recipe.toml").write_text(dump(muon))
    with_search_study(lab, 0.05, "beats", "muon")
    with_transfer_study(lab, 0.03, (0.025, 0.04), verdict="fail")
    with_batch_study(lab, {tokens: 3 * tokens**0.4 for tokens in (1e5, 2e5, 4e5)})
    found = from_lab(lab, "scaling")
    assert [beside.study for beside in rate_for(found, RUN, 512).beside] == ["search"]
    assert found.studied_batch is None, "best batches of AdamW"
    assert [flag.about for flag in flags.of_studies(found, muon)] == ["check"]


def test_the_verdict_is_that_of_the_study_which_the_plan_rests_on(
    tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    lab = with_study(with_study(tmp_path), "second")
    for study, verdict in (("scaling", "pass"), ("second", "fail")):
        file = lab / "studies" / study / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"verdict": verdict}))
    for study, stopped in (("scaling", False), ("second", True)):
        levels = {flag.level for flag in flags.of_studies(from_lab(lab, study), recipe())}
        assert ("stop" in levels) is stopped


def test_a_study_of_another_corpus_says_nothing(tmp_path: Path) -> None:
    lab = with_transfer_study(with_study(tmp_path), 0.03, (0.025, 0.04), corpus="other")
    found = from_lab(lab, "scaling")
    assert not rate_for(found, RUN, 512).beside and set(found.verdicts) == {"scaling"}


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    (lab / "studies/scaling/result.json").write_text("{")
    with pytest.raises(InputError, match=r"scaling/result\.json"):
        from_lab(lab, "scaling")


def test_an_absent_study_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="windtunnel scaling"):
        from_lab(tmp_path, "scaling")


def test_a_damaged_study_is_refused_by_its_field(tmp_path: Path) -> None:
    file = with_study(tmp_path) / "studies/scaling/result.json"
    result = json.loads(file.read_text())
    del result["numbers"]["lengths"]
    file.write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"scaling/result\.json: numbers\.lengths: missing"):
        from_lab(tmp_path, "scaling")


def test_a_damaged_table_is_refused_by_line_and_column(tmp_path: Path) -> None:
    folder = with_study(tmp_path) / "studies/scaling"
    table_of(folder / "table.csv", width="wide")
    with pytest.raises(InputError, match=r"table\.csv: line 2: width"):
        from_lab(tmp_path, "scaling")
