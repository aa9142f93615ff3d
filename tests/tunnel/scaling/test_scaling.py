"""The scaling study: its arithmetic, a real small one with a growing batch, and a kill."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_study import with_batch_study
from drawn import each_of
from patience import PATIENCE, wait_until

from windtunnel.report.experiments.scaling import figures
from windtunnel.results.scaling import (
    SCALING,
    AuditForecast,
    AuditRun,
    BatchAlong,
    Beyond,
    ScalingNumbers,
    ScalingRow,
    SizeLosses,
    StudyCost,
    StudyLaw,
)
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.tunnel.scaling.judge import judge
from windtunnel.tunnel.scaling.scaling import pooled_sd

TINY = (
    *(
        "--corpus",
        "tiny",
        "--sizes",
        "16x1,16x2",
        "--shortest",
        "6k",
        "--longest",
        "14k",
        "--points",
        3,
    ),
    *("--repeated", 1, "--audit-size", "32x1", "--audit-tokens", "14k"),
)
RUNS = 1 + 3 * (2 + 3)  # the audit; three stems of two segments and three branches
EAGER = {"CXX": "no-compiler"}  # to compile, or to import what does, would take longer


@pytest.fixture(scope="module")
def whole(make_small_lab: Any) -> Any:
    """A lab with a study that nobody interrupted. Only to be looked at."""
    lab = make_small_lab()
    with_batch_study(lab)
    study(lab)
    return lab


def study(lab: Any) -> str:
    done = lab.run("scaling", *TINY, **EAGER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder_of(lab: Any) -> Path:
    return SCALING.folder(lab.path)


def points_of(lab: Any) -> list[ScalingRow]:
    """The rows of all held-out text together."""
    return [row for row in read_table(lab.path, SCALING) if row.source == "all"]


def test_seed_noise_is_pooled_over_points(rng: np.random.Generator) -> None:
    groups = [list(3.0 + index + rng.normal(0, 0.02, 3)) for index in range(400)]
    noise, freedom = pooled_sd([*groups, [9.0]])
    assert freedom == 800
    assert noise == pytest.approx(0.02, rel=0.1)  # its own standard error is 2.5%
    assert pooled_sd([[1.0], [2.0]]) == (None, 0)


def numbers_of(audit: float | None = None, **changes: Any) -> ScalingNumbers:
    """Of a study that is large enough, with some changes; `audit`: what its audit run got, where
    3.75 was predicted.
    """
    size = SizeLosses(
        size="64x4",
        params=1,
        params_with_head=1,
        params_total=1,
        flops=1,
        flops_cosine=1,
        first_loss=5.0,
        last_loss=4.0,
        gain_per_doubling=0.3,
        seeds=1,
    )
    values: dict[str, Any] = {
        "corpus": "tiny",
        "lengths": (240_000, 1_920_000),
        "decay": 0.1,
        "shape": "exponential",
        "floor": 0.1,
        "batch": BatchAlong(origin="given", c=512, p=0.0, segments=()),
        "cost": cost_of(0.39),
        "sizes": (size,) * 5,
        "span": 16.0,
        "fewest_steps": 468,
        "epochs": 0.2,
        "seed_sd": 0.012,
        "seed_freedom": 14,
    }
    if audit is not None:
        values |= {"audit": audit_of(audit), "law": StudyLaw(audit=forecast_of(audit))}
    return ScalingNumbers(**values | changes)


def cost_of(ratio: float) -> StudyCost:
    return StudyCost(
        flops=1, flops_cosine=1, ratio=ratio, tokens=1, tokens_cosine=1, core_minutes=1.0
    )


def audit_of(loss: float) -> AuditRun:
    return AuditRun(
        run="audited",
        params=2_000_000,
        params_with_head=2_787_072,
        params_total=2_787_072,
        tokens=3_840_000,
        batch=2048,
        flops=1,
        core_minutes=1.0,
        beyond=Beyond(params=4.5, params_with_head=4.5, params_total=4.5, tokens=2.0),
        loss=loss,
    )


def forecast_of(got: float) -> AuditForecast:
    low, high = 3.69, 3.8
    return AuditForecast(
        predicted=3.75,
        interval50=(3.73, 3.77),
        interval90=(low, high),
        error=3.75 / got - 1,
        inside90=low <= got <= high,
    )


@pytest.mark.parametrize(
    ("numbers", "failed", "verdict", "said"),
    [
        (numbers_of(), 0, "pass", "0.390 of what"),
        (numbers_of(), 1, "fail", "1 run diverged"),
        (numbers_of(span=15.0), 0, None, "needs a span of 16x"),
        (numbers_of(cost=cost_of(0.41)), 0, None, "needs a cost of at most 0.4x"),
        (numbers_of(fewest_steps=300), 0, None, "needs 400 steps"),
        (numbers_of(epochs=1.5), 0, None, "more than once"),
        (numbers_of(3.70), 0, "pass", "3.7000, predicted 3.7500, 90% [3.690, 3.800], +1.35% off"),
        (numbers_of(3.60), 0, "fail", "outside the interval"),
    ],
)
def test_a_smaller_study_has_no_verdict_and_a_diverged_run_fails_it(
    numbers: ScalingNumbers, failed: int, verdict: str | None, said: str
) -> None:
    found, summary = judge(numbers, failed)
    assert found == verdict
    assert said in summary


def test_a_study_measures_every_size_and_length_and_the_audit_run(whole: Any) -> None:
    result, points = read_study(whole.path, SCALING), points_of(whole)
    numbers = result.numbers
    rows = read_table(whole.path, SCALING)
    assert len(rows) == 4 * len(points), "a row for each of three sources and one for all"
    branches = [row for row in points if row.kind == "branch"]
    assert len(branches) == 3 * 3
    assert len({row.stem for row in branches}) == 3
    assert [row.batch for row in branches] == [512, 512, 1024] * 3
    assert {row.tokens for row in branches} == set(numbers.lengths)
    for row in branches:
        assert row.flops and row.flops / row.tokens > 6 * row.params_with_head
    (audit,) = [row for row in points if row.kind == "audit"]
    assert (audit.width, audit.depth, audit.stem) == (32, 1, "")
    assert len(result.runs) == RUNS
    assert result.verdict is None
    assert numbers.law.refused and "2 sizes" in numbers.law.refused
    assert numbers.seed_freedom == 3
    assert numbers.audit and numbers.audit.loss == audit.loss
    assert numbers.copying, "text is held out"
    assert numbers.copying.saved == pytest.approx(0, abs=0.02), "few steps teach no model to copy"
    assert 0 < numbers.copying.copyable < 1
    assert numbers.cost.flops == trained_flops(whole)
    assert numbers.cost.flops_cosine == sum(branch.flops or 0 for branch in branches)


def trained_flops(lab: Any) -> float:
    """Of the stems and branches, from what each run itself recorded."""
    each = {row.params_total: (row.flops or 0) / row.tokens for row in points_of(lab)}
    total = 0.0
    for run in lab.json("runs"):
        if run["kind"] != "run":
            recipe = (Path(run["path"]) / "recipe.toml").read_text()
            depth = 2 if "depth = 2" in recipe else 1
            flops = sorted(each.values())[depth - 1]
            total += flops * (run["tokens"] - (run["at_tokens"] or 0))
    return total


def test_the_result_is_read_as_it_was_written(whole: Any) -> None:
    file = folder_of(whole) / "result.json"
    assert StudyResult[ScalingNumbers].read(file).to_json() == file.read_text()


def test_figures_show_every_point(whole: Any) -> None:
    result, rows = read_study(whole.path, SCALING), read_table(whole.path, SCALING)
    envelope, losses, costs = each_of(figures(result, rows))
    assert [len(trace.x) for trace in losses.data] == [3, 3, 3, 1]
    lowest = list(envelope.data[-1].y)
    assert lowest == sorted(lowest, reverse=True)
    assert [len(trace.x) for trace in costs.data] == [2, 2]


def test_a_killed_study_trains_only_what_is_missing_and_gives_the_same_table(
    whole: Any, make_small_lab: Any
) -> None:
    lab = make_small_lab()
    with_batch_study(lab)
    process = lab.start("scaling", *TINY, **EAGER)
    kept = wait_for_runs(process, lab, 4)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not (folder_of(lab) / "result.json").exists(), "it was to end before its time"
    before = {run: (lab.path / "runs" / run / "metrics.jsonl").stat().st_mtime_ns for run in kept}
    study(lab)
    assert (folder_of(lab) / "table.csv").read_bytes() == (
        folder_of(whole) / "table.csv"
    ).read_bytes()
    assert before == {
        run: (lab.path / "runs" / run / "metrics.jsonl").stat().st_mtime_ns for run in kept
    }


def wait_for_runs(process: Any, lab: Any, many: int) -> list[str]:
    """Until so many runs are done; which ones."""

    def done() -> list[str]:
        files = lab.path.glob("runs/[!.]*/status.json")
        return [file.parent.name for file in files if '"done"' in file.read_text()]

    wait_until(lambda: len(done()) >= many, process)
    return done()
