"""The whole ablation upon losses that are known: which runs it wants, and what it says of them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from known_fleet import Loss, known

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.quantities import Length
from windtunnel.recipe import load
from windtunnel.results.ablate import ABLATE, AblateNumbers
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run, list_runs, open_run
from windtunnel.tunnel.ablate import ablate as study
from windtunnel.tunnel.ablate.arms import Arm, natural_mixture
from windtunnel.tunnel.ablate.design import Design

DESIGN = Design(width=32, depth=2, tokens=20_500, batch=512, lr=0.02, seeds=2)
ARMS = (
    Arm(name="base", decay=0.2),
    Arm(name="code", decay=0.2, mixture={"code": 1.0}),
    Arm(name="long", decay=0.4, shape="exponential"),
)
# Of each arm over the base arm, by source; those of code differ by 0.02 between seeds.
APART = {
    "base": {"all": 0.0, "prose": 0.0, "code": 0.0, "notes": 0.0},
    "code": {"all": -0.02, "prose": 0.06, "code": -0.3, "notes": 0.02},
    "long": {"all": -0.05, "prose": -0.06, "code": -0.04, "notes": -0.02},
}


def arm_of(run: Run) -> str:
    """By the name that the study gave it; a stem has none."""
    name = run.recipe.name.removeprefix("ablate-").rpartition("-seed")[0]
    return "base" if name == "stem" else name


def loss(run: Run) -> Mapping[str, float]:
    seed = run.recipe.seed
    found = {}
    for source, apart in APART[arm_of(run)].items():
        scatter = 0.02 * seed if arm_of(run) == "code" else 0.0
        found[source] = 4 + seed + apart + scatter
    return found


Study = tuple[StudyResult[AblateNumbers], Path]


def studied(
    lab: Any, corpus: Corpus, patch: pytest.MonkeyPatch, of: Loss = loss, seeds: int = 2
) -> StudyResult[AblateNumbers]:
    known(patch, study, of)
    design = Design(width=32, depth=2, tokens=20_500, batch=512, lr=0.02, seeds=seeds)
    study.ablate(lab.path, corpus, design, ARMS, Watch())
    return read_study(lab.path, ABLATE)


@pytest.fixture(scope="module")
def whole(make_lab: Any, corpus: Corpus) -> Study:
    lab = make_lab()
    with pytest.MonkeyPatch.context() as patch:
        return studied(lab, corpus, patch), lab.path


def test_arms_of_all_lengths_end_at_the_same_token_and_leave_one_stem_a_seed(whole: Study) -> None:
    """Whole steps of 512: 20,480 tokens, of which a decay of 0.2 takes 4,096 and 0.4 takes
    8,192.
    """
    result, lab = whole
    runs = {run.id: run for run in list_runs(lab)}
    assert len(result.runs) == len(runs) == 2 * (1 + 3)
    stems = [run for run in runs.values() if run.kind == "stem"]
    assert sorted(run.recipe.seed for run in stems) == [0, 1]
    for stem in stems:
        assert stem.recipe.total_tokens == 20_480 - 4_096, "as long as the shortest decay needs it"
        assert stem.recipe.optimizer.lr == 0.02 and stem.recipe.train.batch == 512
        assert stem.recipe.train.branch_points == (12_288, 16_384)
    rows = [row for row in read_table(lab, ABLATE) if row.source == "all"]
    assert [(row.seed, row.arm) for row in rows] == [
        (seed, arm.name) for seed in (0, 1) for arm in ARMS
    ]
    for row in rows:
        run = open_run(lab / "runs" / row.run)
        arm = next(arm for arm in ARMS if arm.name == row.arm)
        decay = 8_192 if arm.name == "long" else 4_096
        assert run.parent == row.stem and runs[row.stem].recipe.seed == row.seed
        assert (run.at_tokens, run.recipe.total_tokens) == (20_480 - decay, 20_480)
        assert row.decay == run.recipe.decay_tokens == decay
        assert row.shape == run.recipe.schedule.decay_shape == arm.shape
        assert run.recipe.schedule.floor == arm.floor
        stages = load(run.path / "recipe.toml").data.stages
        assert [stage.mixture for stage in stages] == ([arm.mixture] if arm.mixture else [])


def test_what_an_arm_gave_is_the_mean_over_seeds_and_its_difference_to_the_first(
    whole: Study, corpus: Corpus
) -> None:
    numbers = whole[0].numbers
    assert numbers.base == "base" and numbers.sources == ("all", "prose", "code", "notes")
    assert (numbers.seeds, numbers.failed, numbers.tokens) == (2, 0, 20_500)
    assert numbers.size == "32x2" and numbers.natural == natural_mixture(corpus)
    base, code, long = numbers.arms
    assert base.difference is None and base.loss == {source: 4.5 for source in APART["base"]}
    assert code.difference and long.difference and code.loss and long.loss and numbers.noise
    for source in APART["base"]:
        # 0 and 0.02 more of its two seeds
        assert code.loss[source] == pytest.approx(4.5 + APART["code"][source] + 0.01)
        assert code.difference[source].mean == pytest.approx(APART["code"][source] + 0.01)
        assert long.difference[source].mean == pytest.approx(APART["long"][source])
        # differences of code vary by 2e-4, those of long not at all
        noise = numbers.noise[source]
        assert noise is not None and noise == pytest.approx(math.sqrt(2e-4 / 2))
    assert (code.decay, long.decay, long.shape) == (4_096, 8_192, "exponential")
    assert code.mixture == {"code": 1.0}


def test_how_often_each_source_was_read_is_told_of_every_arm(whole: Study, corpus: Corpus) -> None:
    result, lab = whole
    for arm in result.numbers.arms:
        row = next(row for row in read_table(lab, ABLATE) if row.arm == arm.name)
        run = open_run(lab / "runs" / row.run)
        windows = Windows(corpus, run.recipe.data, run.recipe.seed)
        assert arm.epochs == windows.order.epochs(20_480 // run.recipe.data.context)


def test_the_best_arm_and_the_largest_gain_on_a_source_are_said(whole: Study) -> None:
    said = whole[0].summary
    assert said.startswith("compared with base, long is the best of 2 arms on all held-out text: ")
    assert "long is the best of 2 arms on all held-out text: -0.0500 [" in said
    assert "; the largest gain on one source is code on code: -0.2900 [" in said
    # prose and notes: 0.07 and 0.03
    assert "], with +0.0500 on the others (2 seeds, 90% intervals" in said


def test_one_seed_has_differences_without_intervals(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = studied(lab, corpus, monkeypatch, seeds=1)
    assert result.numbers.seeds == 1
    assert result.numbers.noise == {source: None for source in APART["base"]}
    assert "on all held-out text: -0.0500 nats/token; the largest" in result.summary
    assert "-0.3000, with +0.0400 on the others (1 seed, " in result.summary


def test_a_seed_of_which_an_arm_diverged_is_left_out(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(run: Run) -> Mapping[str, float] | None:
        return None if (arm_of(run), run.recipe.seed) == ("long", 0) else loss(run)

    numbers = studied(lab, corpus, monkeypatch, once).numbers
    assert (numbers.seeds, numbers.failed) == (1, 1)
    code = numbers.arms[1]
    assert code.difference and code.difference["all"].interval is None
    assert code.difference["all"].mean == pytest.approx(0.0), "of the second seed alone"


def test_where_no_seed_has_all_arms_nothing_was_measured(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(run: Run) -> Mapping[str, float] | None:
        return None if arm_of(run) == "code" else loss(run)

    result = studied(lab, corpus, monkeypatch, diverging)
    assert result.summary == "no seed has all its arms, since runs diverged"
    assert (result.numbers.seeds, result.numbers.failed, result.numbers.noise) == (0, 2, None)
    assert [arm.loss for arm in result.numbers.arms] == [None] * 3
    assert [arm.decay for arm in result.numbers.arms] == [4_096, 4_096, 8_192]


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        (ARMS[:1], "arms base: expected two or more"),
        ((*ARMS[:1], *ARMS[:1]), "arms base, base: expected two or more, each with its own name"),
        ((ARMS[0], Arm(name="all", decay=0.99)), "a decay from token 512 of 20500 on: the warm-up"),
    ],
)
def test_arms_that_can_not_be_compared_are_refused(
    lab: Any, corpus: Corpus, arms: tuple[Arm, ...], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        study.ablate(lab.path, corpus, DESIGN, arms, Watch())
    assert not (lab.path / "runs").exists()


def test_a_decay_may_begin_just_after_the_warm_up(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes one step of 512 here."""
    known(monkeypatch, study, loss)
    late = Arm(name="long", decay=(20_480 - 1_024) / 20_500)
    study.ablate(lab.path, corpus, DESIGN, (ARMS[0], late), Watch())
    (stem,) = {run.recipe.schedule.warmup for run in list_runs(lab.path) if run.kind == "stem"}
    assert stem == Length(tokens=512)
