"""What could be wrong with a plan: when each flag is raised, and how grave it is."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from plan_labs import PAPER, TRUTH, outlook_of

from windtunnel.laws.choice import choose
from windtunnel.laws.intervals import Profile
from windtunnel.laws.points import LossPoints
from windtunnel.plan import flags
from windtunnel.plan.devices import speed_of
from windtunnel.plan.evidence import Evidence, StudyVerdict
from windtunnel.plan.request import Request
from windtunnel.plan.settings import BatchChoice, RateChoice
from windtunnel.plan.sizes import by_6nd
from windtunnel.recipe import Recipe
from windtunnel.results.plan import BestRatio, Provenance, Reach, StudiedRate
from windtunnel.results.scaling import Copying
from windtunnel.results.study import Numbers, StudyResult
from windtunnel.scaling_recipe import (
    GIVEN,
    LAB_TRANSFER,
    LAPTOP_BATCH,
    LAPTOP_RATE,
    BatchRule,
    ScalingRecipe,
)

MEASURED = Provenance(how="measured")


def said(found: object) -> list[tuple[str, str]]:
    return [(flag.about, flag.level) for flag in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("times", "level"),
    [(3, None), (10, None), (11, "caution"), (30, "caution"), (100, "caution"), (300, "stop")],
)
def test_distance(times: float, level: str | None) -> None:
    found = flags.of_reach(Reach(params=times, tokens=1), 20, (1, 100))
    assert [flag.level for flag in found] == ([level] if level else [])


@pytest.mark.parametrize(
    ("times", "level"),
    [(1, None), (3, None), (4, "caution"), (10, "caution"), (100, "caution"), (101, "stop")],
)
def test_distance_in_tokens(times: float, level: str | None) -> None:
    """A third of what is far in size: there runs came out below their intervals."""
    found = list(flags.of_reach(Reach(params=1, tokens=times), 20, (1, 100)))
    assert [flag.level for flag in found] == ([level] if level else [])
    assert all("longer" in flag.text for flag in found)


def test_a_little_too_long_is_said_already() -> None:
    near, reach = (Reach(params=1, tokens=times) for times in (2.9, 3.1))
    assert not list(flags.of_reach(near, 20, (1, 100)))
    (far,) = flags.of_reach(reach, 20, (1, 100))
    assert far.level == "caution" and "too narrow" in far.text


def test_the_papers_ratio_is_flagged_as_never_measured() -> None:
    found = by_6nd(outlook_of(PAPER), 1e21)
    assert found.ratio == pytest.approx(184, rel=0.01)
    (flag,) = flags.of_reach(Reach(params=1, tokens=1), found.ratio, (10, 66))
    assert flag.level == "caution"
    assert "184 tokens a parameter" in flag.text and "never measured" in flag.text


@pytest.mark.parametrize(
    ("epochs", "level"),
    [
        (0.5, None),
        (1, None),
        (1.01, "note"),
        (2, "note"),
        (4, "note"),
        (4.1, "caution"),
        (16, "caution"),
        (17, "stop"),
    ],
)
def test_epochs(epochs: float, level: str | None) -> None:
    found = flags.of_data(epochs * 1e6, 1e6, 1.0)
    assert [flag.level for flag in found] == ([level] if level else [])


def test_a_budget_that_is_not_spent() -> None:
    assert said(flags.of_data(1e6, None, 0.4)) == [("budget", "caution")]
    assert not said(flags.of_data(1e6, None, 0.95)) and not said(flags.of_data(1e6, None, 0.9))


def test_a_floor_that_is_not_pinned_down() -> None:
    loose = Profile(name="E", value=1.5, low=None, high=1.8)
    firm = Profile(name="c alpha", value=0.3, low=0.28, high=0.32)
    none = BestRatio(count="params", value=None, interval90=None)
    found = list(flags.of_law([loose, firm], True, none))
    assert said(found) == [("optimum", "stop"), ("law", "note"), ("ratio", "caution")]
    assert found[1].text.startswith("E is not pinned down")
    pinned = BestRatio(count="params", value=1.5, interval90=(1, 2))
    (two,) = flags.of_law([loose, firm, replace(loose, name="c beta")], False, pinned)
    assert two.text.startswith("E and c beta are not pinned down")
    assert not said(flags.of_law([firm], False, pinned))


@pytest.mark.parametrize(
    ("excess", "said"),
    [(None, None), (0.02, None), (-0.04, None), (0.31, "31% above"), (-0.08, "8% below")],
)
def test_held_out_text_that_is_unlike_what_is_trained(
    excess: float | None, said: str | None
) -> None:
    found = list(flags.of_held_out(excess))
    assert [flag.level for flag in found] == ["caution"] * (said is not None)
    assert said is None or said in found[0].text


def test_held_out_text_that_is_read_in_training_too() -> None:
    assert not said(flags.of_repeats({})) and not said(flags.of_repeats({"a": 0.05}))
    (flag,) = flags.of_repeats({"a": 0.2, "b": 0.01, "c": 0.06})
    assert flag.level == "note" and "20% of a, 6% of c stands word for word" in flag.text


@pytest.mark.parametrize(
    ("saved", "times", "raised"),
    [(0.01, 9, True), (-0.01, 2, True), (0.01, 1.4, False), (0.3, 9, False)],
)
def test_what_no_run_of_the_fit_has_learnt(saved: float, times: float, raised: bool) -> None:
    copying = Copying(saved=saved, copyable=0.32)
    for reach in (Reach(params=times, tokens=1), Reach(params=1, tokens=times)):
        found = list(flags.of_copying(copying, reach))
        assert said(found) == [("copying", "caution")] * raised
        assert not raised or f"{max(0, saved):.1%} less" in found[0].text
        assert not raised or "32% of the loss" in found[0].text
        assert not said(flags.of_copying(None, reach))


@pytest.mark.parametrize(
    ("params", "raised"),
    [(91, False), (109, False), (90, True), (110.1, True), (80, True), (120, True)],
)
def test_another_size_than_was_asked_for(params: float, raised: bool) -> None:
    assert bool(said(flags.of_size(params, 100))) == raised
    assert not said(flags.of_size(params, None))


@pytest.mark.parametrize(("deepest", "raised"), [(1, True), (2, False), (4, False), (None, False)])
def test_more_layers_than_any_model_in_the_fit(
    evidence: Evidence, recipe: Callable[..., Recipe], deepest: int | None, raised: bool
) -> None:
    sizes = ((16, 1), (32, deepest)) if deepest else ()
    planned = recipe(model={"depth": 2})
    found = list(flags.of_depth(replace(evidence, sizes=sizes), planned))
    assert said(found) == ([("depth", "caution")] if raised else [])
    assert all("has 2 layers" in flag.text and "than 1:" in flag.text for flag in found)


@pytest.mark.parametrize(
    ("rule", "reach", "raised"),
    [
        (LAPTOP_BATCH, Reach(params=1, tokens=3), True),
        (LAPTOP_BATCH, Reach(params=3, tokens=1), True),
        (LAPTOP_BATCH, Reach(params=1.2, tokens=1), False),
        (BatchRule(LAPTOP_BATCH.by_tokens, LAB_TRANSFER), Reach(params=1, tokens=3), False),
        (BatchRule(LAPTOP_BATCH.by_tokens, GIVEN), Reach(params=1, tokens=3), False),
    ],
)
def test_a_batch_that_was_not_measured_on_this_corpus(
    evidence: Evidence, rule: BatchRule, reach: Reach, raised: bool
) -> None:
    kept = replace(evidence, recipe=ScalingRecipe(rate=LAPTOP_RATE, batch=rule))
    found = list(flags.of_unmeasured_batch(kept, reach))
    assert [(flag.about, flag.level) for flag in found] == ([("batch", "note")] if raised else [])
    assert not list(flags.of_unmeasured_batch(replace(evidence, recipe=None), reach))


def test_settings_that_the_laws_were_not_measured_with(recipe: Callable[..., Recipe]) -> None:
    """A batch of four windows for 50 steps at lr 0.01."""
    made = recipe(optimizer={"lr": 0.01})
    inside = BatchChoice(batch=128, interval=None, inside=True, provenance=MEASURED)
    rate = RateChoice(0.01, MEASURED, ())
    assert said(flags.of_settings(made, inside, rate)) == [("steps", "caution")]
    long = made.change(schedule={"tokens": 128 * 400})
    assert not said(flags.of_settings(long, inside, rate))
    short = made.change(schedule={"tokens": 128 * 399})
    assert said(flags.of_settings(short, inside, rate)) == [("steps", "caution")]
    outside = replace(inside, inside=False)
    assert said(flags.of_settings(long, outside, rate)) == [("batch", "caution")]
    assert said(flags.of_settings(long, inside, replace(rate, lr=0.02))) == [("lr", "caution")]
    held = list(flags.of_settings(long, inside, replace(rate, held_at=64.0)))
    assert said(held) == [("lr", "caution")] and "up to 64 tokens a step" in held[0].text
    small = long.change(train={"batch": 32})
    assert said(flags.of_settings(small, inside, rate)) == [("batch", "note")]


@pytest.mark.parametrize(
    ("lr", "interval", "outcome", "raised"),
    [
        (0.03, (0.025, 0.04), None, True),
        (0.03, (0.005, 0.04), None, False),
        (0.03, None, "beats", True),
        (0.015, None, "beats", False),
        (0.03, None, "ties", False),
    ],
)
def test_a_better_rate_of_another_study(
    lr: float,
    interval: tuple[float, float] | None,
    outcome: str | None,
    raised: bool,
    recipe: Callable[..., Recipe],
) -> None:
    long = recipe(optimizer={"lr": 0.01}, schedule={"tokens": 128 * 400, "warmup": 512})
    batch = BatchChoice(batch=128, interval=None, inside=True, provenance=MEASURED)
    other = StudiedRate(
        study="search", lr=lr, interval=interval, at="32x2", outcome=outcome, runs=()
    )
    found = list(flags.of_settings(long, batch, RateChoice(0.01, MEASURED, (other,))))
    assert said(found) == ([("lr", "caution")] if raised else [])
    assert not raised or f"windtunnel scaling --lr {lr:g}" in found[0].text


@pytest.mark.parametrize("lr", [0.005, 0.02])
def test_twice_and_half_a_rate_say_nothing_against_it(
    lr: float, recipe: Callable[..., Recipe]
) -> None:
    long = recipe(optimizer={"lr": 0.01}, schedule={"tokens": 128 * 400, "warmup": 512})
    batch = BatchChoice(batch=128, interval=None, inside=True, provenance=MEASURED)
    other = StudiedRate(study="search", lr=lr, interval=None, at="32x2", outcome="beats", runs=())
    assert not said(flags.of_settings(long, batch, RateChoice(0.01, MEASURED, (other,))))


def test_a_weight_decay_that_averages_over_little_of_the_run(
    evidence: Evidence, recipe: Callable[..., Recipe]
) -> None:
    """Of 1,000 steps a decay of 0.01 averages over 100, a tenth."""
    fitted = replace(evidence, template=recipe())

    def of(weight_decay: float) -> list[str]:
        made = recipe(
            optimizer={"weight_decay": weight_decay}, schedule={"tokens": 128 * 1000, "warmup": 512}
        )
        return [flag.text for flag in flags.of_weight_decay(fitted, made)]

    assert not of(0.01)
    (text,) = of(0.02)
    assert "over about 50 steps, 5.0% of this run" in text
    fitted = replace(evidence, template=None)
    assert "0.02, the default of a recipe, averages" in of(0.02)[0]


def test_a_model_that_the_law_was_not_measured_with(
    evidence: Evidence, recipe: Callable[..., Recipe]
) -> None:
    with_runs = replace(evidence, template=recipe())
    own = recipe().model.parametrization
    assert not said(flags.of_model(with_runs, own, asked=True))
    assert said(flags.of_model(with_runs, "standard", True)) == [("parametrization", "caution")]
    without = replace(evidence, template=None)
    assert said(flags.of_model(without, own, asked=False)) == [("model", "caution")]
    table = replace(without, lab=None, rates=((1e6, 0.01),))
    assert said(flags.of_model(table, "standard", asked=False)) == [("parametrization", "note")]
    assert not said(flags.of_model(table, "standard", asked=True))
    assert not said(flags.of_model(replace(table, rates=()), "standard", asked=False))


def test_memory_of_each_device(evidence: Evidence) -> None:
    speed = speed_of(evidence, Request(flops=1e18, device="rtx4090", devices=2))
    (flag,) = flags.of_memory(25 * 10**9, speed)
    assert flag.level == "stop" and "on each of 2 devices; 1 rtx4090 has 24B" in flag.text
    single = speed_of(evidence, Request(flops=1e18, device="rtx4090"))
    (one,) = flags.of_memory(25 * 10**9, single)
    assert "of memory; 1 rtx4090 has 24B" in one.text
    assert single and not said(flags.of_memory(single.memory or 0, single)), "all of it is enough"
    assert not said(flags.of_memory(20 * 10**9, speed))
    assert not said(flags.of_memory(10**15, speed_of(evidence, Request(flops=1, device="cpu"))))


def test_a_failed_study_and_a_check_that_was_not_made(
    evidence: Evidence, recipe: Callable[..., Recipe]
) -> None:
    bad = StudyResult[Numbers](
        study="scaling", verdict="fail", summary="bad; worse", numbers=Numbers()
    )
    fails = StudyVerdict(result=bad, optimizer="adamw", parametrization="minicpm")
    failed = replace(evidence, verdicts={"scaling": fails, "ablate": fails})
    found = list(flags.of_studies(failed, recipe()))
    assert said(found) == [("scaling", "stop"), ("check", "note")]
    assert found[0].text == "The scaling study failed: bad."
    passes = replace(fails, result=bad.model_copy(update={"verdict": "pass"}))
    checked = replace(evidence, verdicts={"check": passes})
    assert not said(flags.of_studies(checked, recipe()))


def test_another_corpus_and_an_assumed_vocabulary() -> None:
    assert said(flags.of_corpus("mine", "core", None)) == [("corpus", "caution")]
    assert said(flags.of_corpus(None, "core", 2048)) == [("vocab", "note")]
    assert not said(flags.of_corpus("core", "core", None))


def test_the_gravest_comes_first_and_decides() -> None:
    note, care, stop = flags.note("a", "b"), flags.caution("c", "d"), flags.stop("e", "f")
    assert flags.by_weight([note, stop, care]) == (stop, care, note)
    assert flags.outcome([note, stop]) == "no-go"
    assert flags.outcome([note, care]) == "caution"
    assert flags.outcome([note]) == flags.outcome([]) == "go"


def test_a_run_that_went_wrong_is_named_by_its_numbers() -> None:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(3e4, 6e5, 5), np.geomspace(3e5, 3e6, 5)))
    scatter = 0.002 * np.random.default_rng(0).standard_normal(25)
    points = LossPoints.of(n, d, TRUTH.at(n, d) * np.exp(scatter))
    assert list(flags.of_points(choose(points, draws=5))) == []
    points.loss[7] *= 0.9
    (flag,) = flags.of_points(choose(points, draws=5))
    assert (flag.about, flag.level) == ("outlier", "caution")
    assert (
        f"The loss {points.loss[7]:.4g} of the run of 134k parameters on 533k tokens" in flag.text
    )
    assert "below the law" in flag.text
