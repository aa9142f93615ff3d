"""A scaling study that is too small for a law, upon losses that are known: which runs it wants, and
every number that it says of them.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from known_fleet import Loss, known

from windtunnel.data.shards import Corpus
from windtunnel.laws.batch import ByTokens
from windtunnel.model.shape import count, flops_per_token
from windtunnel.report.experiments.scaling import figures
from windtunnel.results.scaling import SCALING, ScalingNumbers
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.scaling_recipe import BatchRule
from windtunnel.train.loop import Watch
from windtunnel.train.remove import who_names
from windtunnel.train.run import Run, list_runs, open_run
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling import scaling as study
from windtunnel.tunnel.scaling.chain import lay_out
from windtunnel.tunnel.scaling.design import Design

DESIGN = Design(
    sizes=(Size(32, 2), Size(16, 1)),
    shortest=20_000,
    longest=80_000,
    points=3,
    decay=0.2,
    shape="linear",
    floor=0.25,
    batch=512,
    lr=0.02,
    seeds=3,
    repeated=1,
    audit_size=Size(48, 3),
    audit_tokens=159_744,
)
CHAIN = lay_out(DESIGN, BatchRule(ByTokens(512, 0.0), "given"))


def base(run: Run) -> float:
    return 3 + 100 / run.recipe.model.width + 20_000 / run.recipe.total_tokens


def loss(run: Run) -> float:
    """The second and third seed lie 0.02 below and above the first."""
    return base(run) + (0.0, -0.02, 0.02)[run.recipe.seed % 10]


Studied = tuple[StudyResult[ScalingNumbers], Path]


def studied(lab: Any, corpus: Corpus, patch: pytest.MonkeyPatch, of: Loss = loss) -> Studied:
    known(patch, study, of)
    study.scaling(lab.path, corpus, DESIGN, Watch())
    return read_study(lab.path, SCALING), lab.path


@pytest.fixture(scope="module")
def whole(make_lab: Any, corpus: Corpus) -> Studied:
    with pytest.MonkeyPatch.context() as patch:
        return studied(make_lab(), corpus, patch)


def test_every_run_is_one_of_the_design(whole: Studied) -> None:
    """Three stems of the smaller size, one of the larger, and the audit run."""
    result, lab = whole
    runs = list_runs(lab)
    assert len(runs) == len(result.runs) == 4 * (1 + 3) + 1
    assert result.runs[-1] == next(run.id for run in runs if run.kind == "run"), "the audit last"
    stems = [run for run in runs if run.kind == "stem"]
    assert sorted((run.recipe.model.width, run.recipe.seed) for run in stems) == [
        (16, 16_010),
        (16, 16_011),
        (16, 16_012),
        (32, 32_020),
    ]
    for run in stems:
        assert run.recipe.total_tokens == CHAIN.segments[-1].end
        assert run.recipe.warmup_tokens == round(0.02 * math.sqrt(20_000 * 80_000))
        assert run.recipe.train.branch_points == tuple(point.at for point in CHAIN.points)
        assert run.recipe.name == f"{run.recipe.model.width}x{run.recipe.model.depth}-stem"
    for run in runs:
        recipe = run.recipe
        assert (recipe.optimizer.lr, recipe.train.batch) == (0.02, 512)
        if run.kind != "stem":
            assert (recipe.schedule.decay_shape, recipe.schedule.floor) == ("linear", 0.25)
    (audit,) = [run for run in runs if run.kind == "run"]
    assert (audit.recipe.model.width, audit.recipe.model.depth) == (48, 3)
    assert (audit.recipe.total_tokens, audit.recipe.seed) == (159_744, 0)
    assert audit.recipe.decay_tokens == pytest.approx(31_949, abs=512)


def test_a_figure_speaks_of_the_audit_where_there_was_one(whole: Studied) -> None:
    result, lab = whole
    rows = read_table(lab, SCALING)
    for which, told in ((rows, True), ([row for row in rows if row.kind != "audit"], False)):
        (bought, figure), *_ = figures(result, which)
        assert ("audit" in bought) == told
        assert any(trace.name.startswith("audit") for trace in figure.data) == told  # type: ignore[union-attr]


def test_every_row_is_of_its_run(whole: Studied) -> None:
    _, lab = whole
    rows = read_table(lab, SCALING)
    assert len(rows) == 4 * 3 + 1
    placed = [(row.width, row.seed, row.tokens) for row in rows[:-1]]
    assert placed == [
        (width, seed, tokens)
        for width, seed in ((16, 16_010), (16, 16_011), (16, 16_012), (32, 32_020))
        for tokens in CHAIN.lengths
    ]
    for row in rows:
        run = open_run(lab / "runs" / row.run)
        counts = count(run.recipe.model)
        assert (row.params, row.params_with_head) == (counts.params, counts.params_with_head)
        assert row.loss == pytest.approx(loss(run)) and row.depth == run.recipe.model.depth
        assert (row.lr, row.batch) == (0.02, 512)
        assert row.stem == (run.parent or "") and row.kind == ("branch" if run.parent else "audit")


def test_the_numbers_are_those_of_the_runs(whole: Studied, corpus: Corpus) -> None:
    numbers = whole[0].numbers
    recipes = [proxy(corpus, width, depth) for width, depth in ((16, 1), (32, 2), (48, 3))]
    counts = [count(recipe.model) for recipe in recipes]
    each = [flops_per_token(recipe.model, recipe.data.context) for recipe in recipes]
    small, large = numbers.sizes
    assert (small.size, large.size, small.seeds, large.seeds) == ("16x1", "32x2", 3, 1)
    for found, flops, width in ((small, each[0], 16), (large, each[1], 32)):
        assert found.flops == flops * CHAIN.trained
        assert found.flops_cosine == flops * CHAIN.retrained
        first, last = (3 + 100 / width + 20_000 / CHAIN.lengths[at] for at in (0, -1))
        assert (found.first_loss, found.last_loss) == pytest.approx((first, last))
        doublings = math.log2(CHAIN.lengths[-1] / CHAIN.lengths[0])
        assert found.gain_per_doubling == pytest.approx((first - last) / doublings)
    assert numbers.span == counts[1].params_total / counts[0].params_total
    cost = numbers.cost
    assert cost.flops == (3 * each[0] + each[1]) * CHAIN.trained
    assert cost.flops_cosine == (3 * each[0] + each[1]) * CHAIN.retrained
    assert cost.ratio == pytest.approx(CHAIN.trained / CHAIN.retrained)
    assert (cost.tokens, cost.tokens_cosine) == (4 * CHAIN.trained, 4 * CHAIN.retrained)
    assert numbers.epochs == 159_744 / corpus.train_tokens
    assert (numbers.decay, numbers.shape, numbers.floor) == (0.2, "linear", 0.25)
    assert (numbers.batch.c, numbers.batch.p, numbers.batch.origin) == (512, 0.0, "given")
    assert (numbers.batch.segments, numbers.fewest_steps) == (CHAIN.segments, CHAIN.fewest_steps)
    # three seeds at three lengths, 0.02 about their mean
    assert numbers.seed_freedom == 6 and numbers.seed_sd == pytest.approx(0.02)
    audit = numbers.audit
    assert audit and audit.loss == pytest.approx(3 + 100 / 48 + 20_000 / 159_744)
    assert (audit.params, audit.params_total) == (counts[2].params, counts[2].params_total)
    assert audit.flops == each[2] * 159_744 and audit.tokens == 159_744
    assert audit.beyond.params == pytest.approx(counts[2].params / counts[1].params)
    assert audit.beyond.tokens == pytest.approx(159_744 / max(CHAIN.lengths))


def test_it_says_what_it_lacks(whole: Studied) -> None:
    result, _ = whole
    assert result.verdict is None
    assert result.summary.startswith("2 sizes over ")
    assert "x, 3 lengths from 20k to 79.9k tokens, at " in result.summary
    high, low = (3 + 100 / width + 20_000 / CHAIN.lengths[at] for width, at in ((16, 0), (32, -1)))
    assert f"loss from {high:.3f} to {low:.3f}; seeds differ by 0.0200 (SD)" in result.summary
    assert "tokens: 5.2085; too small for a verdict, which needs 5 sizes, a span" in result.summary
    assert result.summary.endswith(
        "a span of 16x in parameters, 400 steps at the shortest length, a cost of at most 0.4x of "
        "retraining, a corpus that no run reads more than once"
    )


def test_of_a_study_that_was_interrupted_no_run_is_unused(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def killed(run: Run) -> float:
        ended.append(run.id)
        if len(ended) == 10:
            raise KeyboardInterrupt
        return loss(run)

    with pytest.raises(KeyboardInterrupt):
        studied(lab, corpus, monkeypatch, killed)
    there = list_runs(lab.path)
    assert {run.status().status for run in there} == {"done", "interrupted"}
    assert not who_names(lab.path, there).unused([run.id for run in there])
    studied(lab, corpus, monkeypatch)
    assert not (SCALING.folder(lab.path) / "runs.json").exists()
    there = list_runs(lab.path)
    assert not who_names(lab.path, there).unused([run.id for run in there])


def test_without_an_audit_run_the_longest_is_that_of_the_branches(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, study, loss)
    design = Design(
        sizes=DESIGN.sizes, shortest=20_000, longest=80_000, points=3, batch=512, audit=False
    )
    study.scaling(lab.path, corpus, design, Watch())
    result = read_study(lab.path, SCALING)
    assert result.numbers.audit is None and "audit" not in result.summary
    assert result.numbers.epochs == max(result.numbers.lengths) / corpus.train_tokens
    assert {row.kind for row in read_table(lab.path, SCALING)} == {"branch"}


def test_a_branch_that_diverged_fails_the_study_and_is_in_no_number(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger size's longest, and the audit run."""

    def diverging(run: Run) -> float | None:
        width, tokens = run.recipe.model.width, run.recipe.total_tokens
        return (
            None if (width == 32 and tokens > 60_000 and run.parent) or width == 48 else loss(run)
        )

    result, _ = studied(lab, corpus, monkeypatch, diverging)
    assert result.verdict == "fail" and result.summary.endswith("; 2 runs diverged")
    large = result.numbers.sizes[1]
    assert large.last_loss == pytest.approx(3 + 100 / 32 + 20_000 / CHAIN.lengths[1])
    doublings = math.log2(CHAIN.lengths[1] / CHAIN.lengths[0])
    assert (
        large.first_loss
        and large.last_loss
        and large.gain_per_doubling
        == pytest.approx((large.first_loss - large.last_loss) / doublings)
    )
    assert result.numbers.audit and result.numbers.audit.loss is None
    assert "tokens: diverged; 2 runs diverged" in result.summary


def test_a_size_with_one_loss_or_none_gains_nothing(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(run: Run) -> float | None:
        if not run.parent:
            return loss(run)
        if run.recipe.model.width == 16:
            return None
        return loss(run) if run.recipe.total_tokens < 25_000 else None

    result, _ = studied(lab, corpus, monkeypatch, diverging)
    small, large = result.numbers.sizes
    assert (small.first_loss, small.last_loss, small.gain_per_doubling) == (None, None, None)
    assert large.first_loss == large.last_loss and large.gain_per_doubling is None
    assert (result.numbers.seed_sd, result.numbers.seed_freedom) == (None, 0)
    assert "seeds differ" not in result.summary


def test_smaller_sizes_go_further(make_lab: Any, corpus: Corpus) -> None:
    """Three lengths of the larger size, and two more of the smaller one."""
    lab = make_lab()
    with pytest.MonkeyPatch.context() as patch:
        known(patch, study, loss)
        design = replace(DESIGN, further=2, seeds=1, audit=False)
        study.scaling(lab.path, corpus, design, Watch())
    rows = [row for row in read_table(lab.path, SCALING) if row.source == "all"]
    lengths = {width: sorted(r.tokens for r in rows if r.width == width) for width in (16, 32)}
    assert lengths[32] == lengths[16][:3] and len(lengths[16]) == 5
    assert lengths[16][-1] == pytest.approx(4 * lengths[32][-1], rel=0.01)
    numbers = read_study(lab.path, SCALING).numbers
    small, large = numbers.sizes
    assert (small.longest, large.longest) == (lengths[16][-1], lengths[32][-1])
    assert small.last_loss == pytest.approx(3 + 100 / 16 + 20_000 / lengths[16][-1])
    stems = [run for run in list_runs(lab.path) if run.kind == "stem"]
    own = {run.recipe.model.width: run.recipe.total_tokens for run in stems}
    assert own == pytest.approx(
        {width: 0.8 * each[-1] for width, each in lengths.items()}, rel=0.01
    )
    trained = own[16] + own[32] + sum(sum(each) for each in lengths.values()) / 5
    assert numbers.cost.tokens == pytest.approx(trained, rel=0.01)
