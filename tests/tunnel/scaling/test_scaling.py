"""The scaling study: its arithmetic, a real small one with a growing batch, and a kill."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE, wait_until

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.batch import ByTokens
from windtunnel.report.experiments.scaling import figures
from windtunnel.results.batch import BATCH, BatchNumbers, FittedLaw
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
from windtunnel.results.study import StudyResult, read_study, read_table, write_study
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import LAPTOP_BATCH, BatchLaw, batch_law, lay_out, lengths_of
from windtunnel.tunnel.scaling.design import RATE_RULES, Design, RateRule
from windtunnel.tunnel.scaling.scaling import judge, pooled_sd

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
LAW = {"c": 8.0, "p": 0.5}  # a batch of 512 up to 8192 tokens, then of 1024
RUNS = 1 + 3 * (2 + 3)  # the audit; three stems of two segments and three branches
EAGER = {"TORCHDYNAMO_DISABLE": "1"}  # compiling would take longer than the runs


@pytest.fixture(scope="module")
def whole(make_lab: Any) -> Any:
    """A lab with a study that nobody interrupted. Only to be looked at."""
    lab = make_lab()
    with_batch_study(lab)
    study(lab)
    return lab


def with_batch_study(lab: Any, corpus: str = "tiny") -> None:
    """Give the lab a batch study of a corpus that found LAW."""
    intervals = {"c": (4.0, 16.0), "p": (0.4, 0.6)}
    numbers = BatchNumbers(
        sizes=(),
        batches=(),
        lengths=(),
        lr=0.01,
        form="hyperbola",
        misfit={},
        laws={"tokens": FittedLaw(constants=LAW, intervals=intervals)},
        chosen="tokens",
        arms={},
        corpus=corpus,
    )
    write_study(lab.path, BATCH, rows=[], verdict=None, summary="", numbers=numbers, runs=[])


def study(lab: Any) -> str:
    done = lab.run("scaling", *TINY, **EAGER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder_of(lab: Any) -> Path:
    return SCALING.folder(lab.path)


def points_of(lab: Any) -> list[ScalingRow]:
    """The rows of all held-out text together."""
    return [row for row in read_table(lab.path, SCALING) if row.source == "all"]


def test_the_default_study_is_large_enough_and_costs_at_most_two_fifths_of_retraining() -> None:
    design = Design()
    chain = lay_out(design, LAPTOP_BATCH)
    assert chain.trained / chain.retrained <= 0.4
    assert chain.fewest_steps >= 400
    assert chain.lengths == pytest.approx(lengths_of(design), rel=0.02)
    assert design.audit_tokens >= 2 * max(chain.lengths)
    assert [point.decay / point.tokens for point in chain.points] == pytest.approx(
        [0.1] * 7, rel=0.05
    )


def test_the_cost_is_that_of_one_stem_and_every_decay() -> None:
    design = Design(shortest=256_000, longest=1_024_000, points=3, batch=2048, decay=0.2)
    chain = lay_out(design, BatchLaw(ByTokens(2048, 0), "given"))
    # 0.8 of the longest on the stem; decays of 0.2 of 256k, 512k, 1024k: to whole steps of 2048
    assert chain.segments[-1].end == 819_200
    assert chain.trained == 819_200 + 51_200 + 102_400 + 204_800
    assert chain.retrained == pytest.approx(256_000 + 512_000 + 1_024_000, abs=3 * 2048)


@pytest.mark.parametrize(
    "law",
    [
        LAPTOP_BATCH,
        BatchLaw(ByTokens(0.2, 0.7), "steep"),
        BatchLaw(ByTokens(1e-3, 1.3), "very steep"),
    ],
)
def test_every_link_of_a_chain_stands_where_a_checkpoint_of_both_batches_can(law: BatchLaw) -> None:
    chain = lay_out(Design(shortest=200_000, longest=6_400_000, points=11), law)
    for before, after in zip(chain.segments, chain.segments[1:], strict=False):
        assert before.end == after.begin
        assert after.batch == 2 * before.batch
        assert after.begin % after.batch == 0
        tie = law.border(
            before.batch
        )  # where the law's batch is as near to the one as to the other
        assert law.law.predict(tie) == pytest.approx(before.batch * 2**0.5)
        assert 0 <= tie - after.begin < after.batch
    for point in chain.points:
        segment = chain.segments[point.segment]
        assert segment.begin < point.at <= segment.end
        assert point.at % segment.batch == point.decay % segment.batch == 0
    assert chain.points[-1].at == chain.segments[-1].end, "the stem goes further than it is used"
    assert len(chain.segments) > 1


def test_one_batch_for_all_where_the_law_says_so_or_a_person() -> None:
    falling = lay_out(Design(), BatchLaw(ByTokens(100_000, -0.3), "falls with the length"))
    assert len(falling.segments) == 1
    assert [
        s.batch for s in lay_out(Design(batch=3072), BatchLaw(ByTokens(3072, 0), "given")).segments
    ] == [3072]


def test_lengths_that_fall_on_one_step_are_refused() -> None:
    with pytest.raises(InputError, match="differ by a step"):
        lay_out(
            Design(shortest=30_000, longest=34_000, batch=4096),
            BatchLaw(ByTokens(4096, 0), "given"),
        )


def test_a_stem_a_size_and_more_seeds_for_the_smallest() -> None:
    design = Design(sizes=(Size(64, 4), Size(16, 2), Size(32, 2)), seeds=3, repeated=1)
    assert design.stems == [
        (Size(16, 2), 0),
        (Size(16, 2), 1),
        (Size(16, 2), 2),
        (Size(32, 2), 0),
        (Size(64, 4), 0),
    ]


def test_sizes_that_are_one_are_refused() -> None:
    with pytest.raises(InputError, match="--sizes 16x2,16x2: expected different sizes"):
        Design(sizes=(Size(16, 2), Size(16, 2)))


def test_a_rule_of_the_rate_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATE_RULES, "linear", RateRule("linear", "as the batch", lambda r: r))
    assert Design(lr_with_batch="linear").rate(1024) == pytest.approx(0.005)
    with pytest.raises(InputError, match="'cubic': expected one of fixed, sqrt, linear"):
        Design(lr_with_batch="cubic").rate(1024)


def test_the_rate_stays_or_goes_by_the_root_of_the_batch() -> None:
    assert [Design().rate(batch) for batch in (512, 8192)] == [0.01, 0.01]
    assert [
        Design(lr_with_batch="sqrt").rate(batch) for batch in (512, 2048, 8192)
    ] == pytest.approx([0.005, 0.01, 0.02])


def test_seed_noise_is_pooled_over_points(rng: np.random.Generator) -> None:
    groups = [list(3.0 + index + rng.normal(0, 0.02, 3)) for index in range(400)]
    noise, freedom = pooled_sd([*groups, [9.0]])
    assert freedom == 800
    assert noise == pytest.approx(0.02, rel=0.1)  # its own standard error is 2.5%
    assert pooled_sd([[1.0], [2.0]]) == (None, 0)


def test_the_batch_law_is_that_of_the_labs_batch_study(lab: Any, corpus: Corpus) -> None:
    assert batch_law(lab.path, corpus, Design()) is LAPTOP_BATCH
    with_batch_study(lab)
    found = batch_law(lab.path, corpus, Design())
    assert (found.law.c, found.law.p) == (LAW["c"], LAW["p"])
    assert batch_law(lab.path, corpus, Design(batch=1024)).batch(10**9) == 1024
    with_batch_study(lab, corpus="another")
    assert batch_law(lab.path, corpus, Design()) is LAPTOP_BATCH
    (BATCH.folder(lab.path) / "result.json").write_text('{"numbers": {}}')
    with pytest.raises(InputError, match=r"batch/result\.json"):
        batch_law(lab.path, corpus, Design())


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
        (numbers_of(), 1, "fail", "1 runs diverged"),
        (numbers_of(span=15.0), 0, None, "needs a span of 16x"),
        (numbers_of(cost=cost_of(0.41)), 0, None, "needs a cost of at most 0.4x"),
        (numbers_of(fewest_steps=300), 0, None, "needs 400 steps"),
        (numbers_of(epochs=1.5), 0, None, "more than once"),
        (numbers_of(3.70), 0, "pass", "3.7000, predicted 3.7500, 90% [3.690, 3.800], +1.35% off"),
        (numbers_of(3.60), 0, "fail", "outside of the interval"),
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
    losses, envelope, costs = (figure for _, figure in figures(result, rows))
    assert [len(trace.x) for trace in losses.data] == [3, 3, 3, 1]
    lowest = list(envelope.data[-1].y)
    assert lowest == sorted(lowest, reverse=True)
    assert [len(trace.x) for trace in costs.data] == [2, 2]


def test_a_killed_study_trains_only_what_is_missing_and_gives_the_same_table(
    whole: Any, make_lab: Any
) -> None:
    lab = make_lab()
    with_batch_study(lab)
    process = lab.start("scaling", *TINY, **EAGER)
    kept = wait_for_runs(process, lab, 4)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not folder_of(lab).exists(), "it was to end before its time"
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
