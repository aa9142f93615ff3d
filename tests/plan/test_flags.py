"""What could be wrong with a plan: when each flag is raised, and how grave it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from plan_labs import PAPER, outlook_of

from windtunnel.laws.intervals import Profile
from windtunnel.plan import flags
from windtunnel.plan.devices import speed_of
from windtunnel.plan.evidence import Evidence, StudyVerdict
from windtunnel.plan.request import Request
from windtunnel.plan.settings import BatchChoice, RateChoice
from windtunnel.plan.sizes import by_6nd
from windtunnel.recipe import Recipe
from windtunnel.results.plan import BestRatio, Provenance, Reach, StudiedRate
from windtunnel.results.study import Numbers, StudyResult

MEASURED = Provenance(how="measured")


def said(found: object) -> list[tuple[str, str]]:
    return [(flag.about, flag.level) for flag in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("times", "level"), [(3, None), (30, "caution"), (300, "stop")])
def test_distance(times: float, level: str | None) -> None:
    found = flags.of_reach(Reach(params=times, tokens=1), 20, (1, 100))
    assert [flag.level for flag in found] == ([level] if level else [])


def test_a_little_too_long_is_said_already() -> None:
    reach = Reach(params=1, tokens=1.1 * flags.FAR_IN_TOKENS)
    (far,) = flags.of_reach(reach, 20, (1, 100))
    assert far.level == "caution" and "too narrow" in far.text


def test_the_papers_ratio_is_flagged_as_never_measured() -> None:
    found = by_6nd(outlook_of(PAPER), 1e21)
    assert found.ratio == pytest.approx(184, rel=0.01)
    (flag,) = flags.of_reach(Reach(params=1, tokens=1), found.ratio, (10, 66))
    assert flag.level == "caution"
    assert "184 tokens a parameter" in flag.text and "never measured" in flag.text


@pytest.mark.parametrize(
    ("epochs", "level"), [(0.5, None), (2, "note"), (8, "caution"), (40, "stop")]
)
def test_epochs(epochs: float, level: str | None) -> None:
    found = flags.of_data(epochs * 1e6, 1e6, 1.0)
    assert [flag.level for flag in found] == ([level] if level else [])


def test_a_budget_that_is_not_spent() -> None:
    assert said(flags.of_data(1e6, None, 0.4)) == [("budget", "caution")]
    assert not said(flags.of_data(1e6, None, 0.95))


def test_a_floor_that_is_not_pinned_down() -> None:
    loose = Profile(name="E", value=1.5, low=None, high=1.8)
    firm = Profile(name="c alpha", value=0.3, low=0.28, high=0.32)
    none = BestRatio(count="params", value=None, interval90=None)
    found = list(flags.of_law([loose, firm], True, none))
    assert said(found) == [("optimum", "stop"), ("law", "note"), ("ratio", "caution")]
    assert found[1].text.startswith("E is not pinned down")
    pinned = BestRatio(count="params", value=1.5, interval90=(1, 2))
    assert not said(flags.of_law([firm], False, pinned))


@pytest.mark.parametrize(("params", "raised"), [(95, False), (105, False), (80, True), (120, True)])
def test_another_size_than_was_asked_for(params: float, raised: bool) -> None:
    assert bool(said(flags.of_size(params, 100))) == raised
    assert not said(flags.of_size(params, None))


def test_settings_that_the_laws_were_not_measured_with(recipe: Callable[..., Recipe]) -> None:
    """A batch of four windows for 50 steps at lr 0.01."""
    made = recipe(optimizer={"lr": 0.01})
    inside = BatchChoice(batch=128, interval=None, inside=True, provenance=MEASURED)
    rate = RateChoice(0.01, MEASURED, ())
    assert said(flags.of_settings(made, inside, rate)) == [("steps", "caution")]
    long = made.change(schedule={"tokens": 128 * 400})
    assert not said(flags.of_settings(long, inside, rate))
    outside = replace(inside, inside=False)
    assert said(flags.of_settings(long, outside, rate)) == [("batch", "caution")]
    assert said(flags.of_settings(long, inside, replace(rate, lr=0.02))) == [("lr", "caution")]
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


def test_memory_of_all_devices_together(evidence: Evidence) -> None:
    speed = speed_of(evidence, Request(flops=1e18, device="rtx4090", devices=2))
    (flag,) = flags.of_memory(50 * 10**9, speed)
    assert flag.level == "stop" and "2 rtx4090 have 48B" in flag.text
    assert not said(flags.of_memory(40 * 10**9, speed))
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
