"""The scaling study: its arithmetic, a real small one with a growing batch, and a kill."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE, wait_until
from tables import read_table

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.batch import ByTokens
from windtunnel.report.experiments.scaling import figures
from windtunnel.tunnel.scaling.scaling import (
    LAPTOP_BATCH,
    BatchLaw,
    Chain,
    Design,
    Size,
    batch_law,
    judge,
    lay_out,
    pooled_sd,
)

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


def with_batch_study(lab: Any) -> None:
    folder = lab.path / "studies" / "batch"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(
        json.dumps({"numbers": {"corpus": "tiny", "laws": {"tokens": LAW}}})
    )


def study(lab: Any) -> str:
    done = lab.run("scaling", *TINY, **EAGER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder_of(lab: Any) -> Path:
    return lab.path / "studies" / "scaling"


def lengths(chain: Chain) -> list[int]:
    return [point.tokens for point in chain.points]


def test_the_default_study_is_large_enough_and_costs_at_most_two_fifths_of_retraining() -> None:
    design = Design()
    chain = lay_out(design, LAPTOP_BATCH)
    assert chain.trained / chain.retrained <= 0.4
    assert chain.fewest_steps >= 400
    assert lengths(chain) == pytest.approx(design.lengths, rel=0.02)
    assert design.audit_tokens >= 2 * max(lengths(chain))
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
    assert batch_law(lab.path, corpus) is LAPTOP_BATCH
    with_batch_study(lab)
    found = batch_law(lab.path, corpus)
    assert (found.law.c, found.law.p) == (LAW["c"], LAW["p"])
    file = lab.path / "studies" / "batch" / "result.json"
    file.write_text(file.read_text().replace('"tiny"', '"another"'))
    assert batch_law(lab.path, corpus) is LAPTOP_BATCH
    file.write_text('{"numbers": {}}')
    with pytest.raises(InputError, match=r"batch/result\.json"):
        batch_law(lab.path, corpus)


NUMBERS: dict[str, Any] = {
    "lengths": [240_000, 1_920_000],
    "span": 16.0,
    "fewest_steps": 468,
    "epochs": 0.2,
    "seed_sd": 0.012,
    "sizes": [{"first_loss": 5.0, "last_loss": 4.0}] * 5,
    "cost": {"ratio": 0.39},
    "audit": None,
    "law": {"forms": [], "audit": None, "refused": None},
}


def audited(got: float) -> dict[str, Any]:
    said = {
        "predicted": 3.75,
        "interval90": [3.69, 3.8],
        "error": 3.75 / got - 1,
        "inside90": 3.69 <= got <= 3.8,
    }
    audit = {"params_total": 2_787_072, "tokens": 3_840_000, "loss": got}
    return {"audit": audit, "law": {"forms": [], "audit": said, "refused": None}}


@pytest.mark.parametrize(
    ("change", "failed", "verdict", "said"),
    [
        ({}, 0, "pass", "0.390 of what"),
        ({}, 1, "fail", "1 runs diverged"),
        ({"span": 15.0}, 0, None, "needs a span of 16x"),
        ({"cost": {"ratio": 0.41}}, 0, None, "needs a cost of at most 0.4x"),
        ({"fewest_steps": 300}, 0, None, "needs 400 steps"),
        ({"epochs": 1.5}, 0, None, "more than once"),
        (audited(3.70), 0, "pass", "3.7000, predicted 3.7500, 90% [3.690, 3.800], +1.35% off"),
        (audited(3.60), 0, "fail", "outside of the interval"),
    ],
)
def test_a_smaller_study_has_no_verdict_and_a_diverged_run_fails_it(
    change: dict[str, Any], failed: int, verdict: str | None, said: str
) -> None:
    found, summary = judge(NUMBERS | change, failed)
    assert found == verdict
    assert said in summary


def test_a_study_measures_every_size_and_length_and_the_audit_run(whole: Any) -> None:
    table, result = (
        read_table(folder_of(whole)),
        json.loads((folder_of(whole) / "result.json").read_text()),
    )
    points = [row for row in table if row["source"] == "all"]
    assert len(table) == 4 * len(points), "a row for each of three sources and one for all"
    branches = [row for row in points if row["kind"] == "branch"]
    assert len(branches) == 3 * 3
    assert len({row["stem"] for row in branches}) == 3
    assert [row["batch"] for row in branches] == ["512", "512", "1024"] * 3
    assert {int(row["tokens"]) for row in branches} == set(result["numbers"]["lengths"])
    for row in branches:
        assert float(row["flops"]) / int(row["tokens"]) > 6 * int(row["params_with_head"])
    (audit,) = [row for row in points if row["kind"] == "audit"]
    assert (audit["width"], audit["depth"], audit["stem"]) == ("32", "1", "")
    assert len(result["runs"]) == RUNS
    assert result["verdict"] is None
    assert "2 sizes" in result["numbers"]["law"]["refused"]
    assert result["numbers"]["seed_freedom"] == 3
    assert result["numbers"]["audit"]["loss"] == float(audit["loss"])
    cost = result["numbers"]["cost"]
    for key, exact in (
        ("flops", trained_flops(whole)),
        ("flops_cosine", sum(float(b["flops"]) for b in branches)),
    ):
        assert cost[key] == exact


def trained_flops(lab: Any) -> float:
    """Of the stems and branches, from what each run itself recorded."""
    each = {
        row["params_total"]: float(row["flops"]) / int(row["tokens"])
        for row in read_table(folder_of(lab))
    }
    total = 0.0
    for run in lab.json("runs"):
        if run["kind"] != "run":
            recipe = (Path(run["path"]) / "recipe.toml").read_text()
            depth = 2 if "depth = 2" in recipe else 1
            flops = sorted(each.values())[depth - 1]
            total += flops * (run["tokens"] - (run["at_tokens"] or 0))
    return total


def test_figures_show_every_point(whole: Any) -> None:
    result = json.loads((folder_of(whole) / "result.json").read_text())
    losses, envelope, costs = (
        figure for _, figure in figures(result, read_table(folder_of(whole)))
    )
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
