"""The batch study: its numbers from losses whose law is known, and a real one that survives a
kill.
"""

import csv
import json
import signal
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE, wait_until

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.report.experiments.batch import figures
from windtunnel.train.run import open_run
from windtunnel.tunnel.batch.batch import Design, Point, analyse, judge
from windtunnel.tunnel.fleet.fleet import Branch

PARAMS = {(32, 2): 20_000, (32, 4): 40_000, (64, 2): 80_000}
TINY = (
    "--corpus",
    "tiny",
    "--sizes",
    "32x1",
    "--batches",
    "256,512,1024,2048",
    "--tokens",
    "8192,16384",
    "--trunk",
    512,
    "--arms",
    "fixed",
)
EAGER = {"TORCHDYNAMO_DISABLE": "1"}  # compiling would take longer than the runs


def best_batch(tokens: float) -> float:
    """700 at the shortest length, 1700 at the longest: the size has no say."""
    return 1.75 * tokens**0.5


def losses(
    design: Design, rng: np.random.Generator, noise: float = 0.002, shift: float = 0.0
) -> dict[Point, float]:
    """Bowls about the best batch, `shift` octaves off it; one that the rate is scaled for is
    wider.
    """

    def loss(point: Point, length: int) -> float:
        off = np.log2(point.batch / best_batch(length)) - shift
        fall = 60 * length**-0.3 + 20 * PARAMS[point.size] ** -0.3
        return (
            1.5 + fall + (0.03 if point.arm == "fixed" else 0.015) * off**2 + noise * rng.normal()
        )

    ends = {at: end for at, end in design.points}
    sizes, arms = design.sizes, ("fixed", "sqrt")
    points = [
        (s, a, b, at)
        for s in sizes
        for a in arms
        for b in design.batches
        for at, _ in design.points
    ]
    full = {Point("full", s, a, b, at, ends[at]) for s, a, b, at in points}
    trunk = {Point("trunk", s, a, b, at, at + design.window_of(ends[at])) for s, a, b, at in points}
    return {point: float(loss(point, ends[point.at])) for point in sorted(full | trunk, key=repr)}


def test_the_law_of_the_best_batch_is_found_and_chosen(rng: np.random.Generator) -> None:
    design = Design()
    numbers = analyse(design, PARAMS, losses(design, rng))
    verdict, summary = judge(numbers)
    assert verdict == "pass", summary
    assert numbers["chosen"] in ("tokens", "tokens_params"), (
        "batches follow the tokens here, not the loss"
    )
    law = numbers["laws"]["tokens"]
    low, high = law["intervals"]["p"]
    # these bowls are parabolas at a length, not on a contour: a bias of a tenth of an octave is
    # no noise
    assert low - 0.1 < 0.5 < high + 0.1 and 0.02 < high - low < 0.4, law
    for tokens in design.lengths:
        assert law["c"] * tokens ** law["p"] == pytest.approx(best_batch(tokens), rel=0.3)
    low, high = numbers["laws"]["tokens_params"]["intervals"]["q"]
    assert low < 0.15 and high > -0.15
    regret = numbers["arms"]["fixed"]["regret"]["size"]
    assert regret["tokens"] < 0.003 < regret["constant"]
    assert regret["three_term"] < regret["constant"]
    assert 0 < numbers["arms"]["fixed"]["three_term"]["exponent"] < 1
    assert numbers["laws"] == numbers["arms"]["fixed"]["laws"]
    json.dumps(numbers, allow_nan=False)


def test_batch_branches_are_held_against_the_full_way(rng: np.random.Generator) -> None:
    design = Design()
    agreeing, off = (analyse(design, PARAMS, losses(design, rng)), dict[str, Any]())
    astray = losses(design, np.random.default_rng(1), shift=1.0)
    mixed = {
        p: loss for p, loss in losses(design, np.random.default_rng(1)).items() if p.way == "full"
    }
    off = analyse(
        design, PARAMS, mixed | {p: loss for p, loss in astray.items() if p.way == "trunk"}
    )
    same, apart = (numbers["trunk"]["fixed"] for numbers in (agreeing, off))
    assert abs(same["octaves"]) < 0.3
    assert apart["octaves"] == pytest.approx(1.0, abs=0.35)
    assert apart["regret"] > same["regret"]
    assert agreeing["trunk"]["cost"]["share"] == pytest.approx(0.35, abs=0.05)


def test_too_few_vertices_give_no_verdict(rng: np.random.Generator) -> None:
    design = Design(batches=(2048, 4096, 8192, 16384))
    numbers = analyse(design, PARAMS, losses(design, rng))
    levels = [level for size in numbers["arms"]["fixed"]["sizes"] for level in size["levels"]]
    assert {level["where"] for level in levels} == {"below"} and all(
        level["batch"] is None for level in levels
    )
    verdict, summary = judge(numbers)
    assert verdict is None and "too few to trust a law" in summary
    assert numbers["laws"] == {} and numbers["chosen"] is None
    json.dumps(numbers, allow_nan=False)


def test_two_sizes_can_be_left_out_one_at_a_time_but_tell_no_law_of_size(
    rng: np.random.Generator,
) -> None:
    design = Design(sizes=((32, 2), (64, 2)))
    regret = analyse(design, PARAMS, losses(design, rng))["arms"]["fixed"]["regret"]
    assert regret["size"]["tokens_params"] is None and regret["size"]["tokens"] is not None
    assert regret["longest"]["tokens_params"] is not None


def test_every_branch_leaves_where_its_batch_can(corpus: Corpus) -> None:
    """All lengths are the same for every batch, and the rate is scaled in one arm only."""
    design = Design()
    wanted = design.wanted(corpus)
    assert len(wanted) == 2 * 3 * 2 * 5 * 4
    for point, branch in wanted.items():
        assert isinstance(branch, Branch) and not isinstance(branch.stem, Branch)
        batch = branch.batch or branch.stem.train.batch
        assert batch == point.batch and point.at % batch == 0 and branch.decay % batch == 0
        assert point.at % branch.stem.train.batch == 0 and point.at + branch.decay == point.tokens
        rate = branch.lr or branch.stem.optimizer.lr
        assert rate == pytest.approx(
            0.01 * (batch / 2048) ** (0.5 if point.arm == "sqrt" else 0), rel=1e-5
        )
    assert [end for _, end in design.points] == list(design.lengths), (
        "nothing is rounded off at the defaults"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"batches": (512, 1024, 2048)}, "at least 4"),
        ({"batches": (512, 768, 2048, 4096, 8192)}, "multiple of each"),
        ({"trunk": 256}, "trunk's batch of 256 among them"),
        ({"lengths": (100_000, 101_000)}, "differ by whole batches"),
        ({"lengths": (8_192, 983_040)}, "more than the warm-up"),
    ],
)
def test_a_design_that_cannot_be_measured_is_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Design(**fault)


def test_a_real_study_fills_every_cell_and_is_not_trained_twice(make_lab: Any) -> None:
    lab = make_lab()
    done = lab.run("batch", *TINY, "--json", **EAGER)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] is None and result["numbers"]["trunk"]["cost"]["share"] < 0.6
    table = (lab.path / "studies" / "batch" / "table.csv").read_text()
    rows = [row for row in csv.DictReader(table.splitlines()) if row["source"] == "all"]
    assert len(rows) == 2 * 4 * 2, "two ways, four batches, two lengths"
    for row in rows:
        recipe = open_run(lab.path / "runs" / row["run"]).recipe
        assert (recipe.train.batch, recipe.optimizer.lr) == (int(row["batch"]), float(row["lr"]))
        assert recipe.total_tokens == int(row["tokens"]) and float(row["loss"]) > 0
    shared = {row["run"] for row in rows if row["batch"] == "512"}
    assert len(shared) == 2, "the trunk's batch is the same run in both ways, one a length"
    drawn = figures(result, rows)
    assert len(drawn) == 2 and all(caption for caption, _ in drawn) and len(drawn[0][1].data) == 2
    before = {path: path.stat().st_mtime_ns for path in lab.path.glob("runs/*/metrics.jsonl")}
    study(lab)
    assert {
        path: path.stat().st_mtime_ns for path in lab.path.glob("runs/*/metrics.jsonl")
    } == before


@pytest.mark.slow  # 18 runs, twice
def test_a_kill_leaves_no_trace_in_the_table(make_lab: Any) -> None:
    whole, killed = make_lab(), make_lab()
    study(whole)
    process = killed.start("batch", *TINY, **EAGER)
    wait_until(lambda: len(list(killed.path.glob("runs/[!.]*/status.json"))) >= 12, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    trained = {
        file.parent.name: file.read_bytes() for file in killed.path.glob("runs/*/metrics.jsonl")
    }
    assert not (killed.path / "studies").exists(), "it was to end before its time"
    study(killed)
    again = [killed.path / "runs" / run / "metrics.jsonl" for run in trained]
    assert (
        sum(file.read_bytes() == trained[file.parent.name] for file in again) >= len(again) - 3
    ), "kept, not made anew"
    table = (whole.path / "studies" / "batch" / "table.csv").read_text()
    assert (killed.path / "studies" / "batch" / "table.csv").read_text() == table


def study(lab: Any) -> None:
    done = lab.run("batch", *TINY, **EAGER)
    assert done.returncode == 0, done.stderr
