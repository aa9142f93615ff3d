"""The batch study: its numbers from losses whose law is known, and a real one that survives a
kill.
"""

import json
import math
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drawn import each_of
from patience import PATIENCE, wait_until

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.batch import BATCH_LAWS, interval_of
from windtunnel.report.experiments.batch import figures
from windtunnel.results.batch import BATCH
from windtunnel.results.study import read_study, read_table
from windtunnel.train.run import open_run
from windtunnel.tunnel.batch.batch import Branching, analyse, branches, judge
from windtunnel.tunnel.batch.design import ARMS, Arm, Design
from windtunnel.tunnel.design import Size, options_of
from windtunnel.tunnel.fleet.fleet import Branch

PARAMS = {Size(32, 2): 20_000, Size(32, 4): 40_000, Size(64, 2): 80_000}
TINY = (
    "--corpus",
    "tiny",
    "--sizes",
    "32x1",
    "--batches",
    "256,512,1024,2048",
    "--tokens",
    "8192,16384",
    "--lr-batch",
    512,
    "--arms",
    "fixed",
)
EAGER = {"CXX": "no-compiler"}  # to compile, or to import what does, would take longer


def best_batch(tokens: float) -> float:
    """700 at the shortest length, 1700 at the longest: the size has no say."""
    return 1.75 * tokens**0.5


def losses(
    design: Design, rng: np.random.Generator, noise: float = 0.002
) -> dict[Branching, float | None]:
    """Bowls about the best batch; one that the rate is scaled for is wider."""
    found: dict[Branching, float | None] = {}
    for size in design.sizes:
        for arm in design.arms:
            for batch in design.batches:
                for at, end in design.points:
                    off = np.log2(batch / best_batch(end))
                    fall = 60 * end**-0.3 + 20 * PARAMS[size] ** -0.3
                    width = 0.03 if arm == "fixed" else 0.015
                    loss = 1.5 + fall + width * off**2 + noise * rng.normal()
                    found[Branching(size, arm, batch, at, end)] = float(loss)
    return found


def test_the_law_of_the_best_batch_is_found_and_chosen(rng: np.random.Generator) -> None:
    design = Design()
    numbers = analyse(design, PARAMS, losses(design, rng))
    verdict, summary = judge(numbers)
    assert verdict == "pass", summary
    assert numbers.chosen in ("tokens", "tokens_params"), (
        "batches follow the tokens here, not the loss"
    )
    law = numbers.laws["tokens"]
    low, high = law.intervals["p"]
    assert low < 0.5 < high and 0.02 < high - low < 0.2, law
    for tokens in design.lengths:
        said = law.constants["c"] * tokens ** law.constants["p"]
        assert said == pytest.approx(best_batch(tokens), rel=0.05)
    low, high = numbers.laws["tokens_params"].intervals["q"]
    assert low < 0.15 and high > -0.15
    regret = {name: nats or 0.0 for name, nats in numbers.arms["fixed"].regret.size.items()}
    assert 0 < regret["tokens"] < 0.003 < regret["constant"]
    assert 0 < regret["three_term"] < regret["constant"]
    three = numbers.arms["fixed"].three_term
    assert three and 0 < three.exponent < 1
    assert numbers.laws == numbers.arms["fixed"].laws
    numbers.to_json()


TRUTHS: dict[str, tuple[Callable[[float, float], float], Callable[[float], float]]] = {
    # contours that are parabolas in the logarithm of the batch, about 2,000 tokens
    "parabolas": (
        lambda tokens, batch: 60 * (tokens * math.exp(-0.1 * math.log2(batch / 2000) ** 2)) ** -0.3,
        lambda tokens: 2000.0,
    ),
    "three-term": (
        lambda tokens, batch: 6 * (tokens / batch) ** -0.3 + 8.4 * batch**-0.3,
        best_batch,
    ),
}


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_interval_of_a_plan_holds_the_best_batch_beyond_the_lengths_measured(
    truth: str,
) -> None:
    """Ten studies whose stems share half of their noise, asked at the longest length and at ten
    times that; `bench/intervals.py` has more of them.
    """
    falls, best = TRUTHS[truth]
    design, held, widths = Design(arms=("fixed",)), [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shared = {(size, batch): rng.normal() for size in design.sizes for batch in design.batches}
        measured: dict[Branching, float | None] = {}
        for one in branchings(design):
            loss = 2 + 8 * PARAMS[one.size] ** -0.2 + falls(one.tokens, one.batch)
            measured[one] = loss + 0.005 * (shared[one.size, one.batch] + rng.normal())
        arm = analyse(design, PARAMS, measured).arms["fixed"]
        assert arm.chosen is not None
        kept = arm.laws[arm.chosen]
        law = BATCH_LAWS[arm.chosen](**kept.constants)
        for tokens in (1e6, 1e7):
            loss = 2 + 8 * 80_000**-0.2 + falls(tokens, best(tokens))
            low, high = interval_of(law, np.array(kept.covariance), loss, tokens, 80_000)
            held.append(low <= best(tokens) <= high)
            widths.append(math.log(high / low) / 2)
    assert np.mean(held) >= 0.75, held
    assert 0.03 < np.median(widths) < 0.35, "of use, and no surer than the noise lets it be"


def branchings(design: Design) -> list[Branching]:
    """Every loss of a study with one arm."""
    found = []
    for size in design.sizes:
        for batch in design.batches:
            found += [Branching(size, "fixed", batch, at, end) for at, end in design.points]
    return found


def test_runs_that_diverged_are_left_out_and_the_law_is_still_found(
    rng: np.random.Generator,
) -> None:
    design = Design()
    measured = losses(design, rng)
    failed = {one: None for one in measured if one.batch == 8192 and one.size == (64, 2)}
    numbers = analyse(design, PARAMS, measured | failed)
    assert numbers.chosen in ("tokens", "tokens_params")
    numbers.to_json()


def test_too_few_vertices_give_no_verdict(rng: np.random.Generator) -> None:
    design = Design(batches=(2048, 4096, 8192, 16384))
    numbers = analyse(design, PARAMS, losses(design, rng))
    levels = [level for size in numbers.arms["fixed"].sizes for level in size.levels]
    assert {level.where for level in levels} == {"below"}
    assert all(level.batch is None for level in levels)
    verdict, summary = judge(numbers)
    assert verdict is None and "too few to trust a law" in summary
    assert numbers.laws == {} and numbers.chosen is None
    numbers.to_json()


def test_two_sizes_can_be_left_out_one_at_a_time_but_tell_no_law_of_size(
    rng: np.random.Generator,
) -> None:
    design = Design(sizes=(Size(32, 2), Size(64, 2)))
    regret = analyse(design, PARAMS, losses(design, rng)).arms["fixed"].regret
    assert regret.size["tokens_params"] is None and regret.size["tokens"] is not None
    assert regret.longest["tokens_params"] is not None


def test_every_branch_leaves_where_its_batch_can(corpus: Corpus) -> None:
    """All lengths are the same for every batch, and the rate is scaled in one arm only."""
    design = Design()
    wanted = branches(corpus, design)
    assert len(wanted) == 3 * 2 * 5 * 4
    for one, branch in wanted.items():
        assert not isinstance(branch.stem, Branch)
        recipe = branch.stem
        assert recipe.train.batch == one.batch
        assert one.at % one.batch == 0 and branch.decay % one.batch == 0
        assert one.at + branch.decay == one.tokens
        power = 0.5 if one.arm == "sqrt" else 0
        assert recipe.optimizer.lr == pytest.approx(0.01 * (one.batch / 2048) ** power, rel=1e-5)
    assert [end for _, end in design.points] == list(design.lengths), (
        "nothing is rounded off at the defaults"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"batches": (512, 1024, 2048)}, "--batches 512,1024,2048: expected 4 or more"),
        ({"batches": (512, 768, 2048, 4096, 8192)}, "--batches .*multiple of each"),
        ({"lengths": (100_000, 101_000)}, "--tokens .*differ by whole batches"),
        ({"lengths": (8_192, 983_040)}, "more than the warm-up"),
    ],
)
def test_a_design_that_cannot_be_measured_is_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Design(**fault)


def test_a_new_arm_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Arm("linear", "in proportion to the batch", lambda lr, ratio: lr * ratio)
    monkeypatch.setitem(ARMS, "linear", arm)
    words = next(each for each in options_of(Design) if each.flag == "--arms")
    assert "linear" in words.full_help
    design = Design(arms=words.kind.parse("--arms", "linear"), lr=0.01, lr_batch=1024)
    assert [design.rate("linear", batch) for batch in (512, 2048)] == [0.005, 0.02]
    with pytest.raises(InputError, match="--arms log: expected one of fixed, sqrt, linear"):
        words.kind.parse("--arms", "log")


def test_a_real_study_fills_every_cell_and_is_not_trained_twice(make_small_lab: Any) -> None:
    lab = make_small_lab()
    done = lab.run("batch", *TINY, "--json", **EAGER)
    assert done.returncode == 0, done.stderr
    result = read_study(lab.path, BATCH)
    assert json.loads(done.stdout) == json.loads(result.to_json())
    assert result.verdict is None
    table = read_table(lab.path, BATCH)
    rows = [row for row in table if row.source == "all"]
    assert len(rows) == 4 * 2, "four batches, two lengths"
    for row in rows:
        recipe = open_run(lab.path / "runs" / row.run).recipe
        assert (recipe.train.batch, recipe.optimizer.lr) == (row.batch, row.lr)
        assert recipe.total_tokens == row.tokens and row.loss
    drawn = figures(result, table)
    contours, losses, best = (each_of([one]) for one in drawn)
    assert len(contours) == 1 and best
    assert len(losses[0].data) == 2, "a line for each number of tokens"
    before = {path: path.stat().st_mtime_ns for path in lab.path.glob("runs/*/metrics.jsonl")}
    study(lab)
    assert {
        path: path.stat().st_mtime_ns for path in lab.path.glob("runs/*/metrics.jsonl")
    } == before


@pytest.mark.slow  # 18 runs, twice
def test_a_kill_leaves_no_trace_in_the_table(make_small_lab: Any) -> None:
    whole, killed = make_small_lab(), make_small_lab()
    study(whole)
    process = killed.start("batch", *TINY, **EAGER)
    wait_until(lambda: len(list(killed.path.glob("runs/[!.]*/status.json"))) >= 12, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    trained = {
        file.parent.name: file.read_bytes() for file in killed.path.glob("runs/*/metrics.jsonl")
    }
    assert not list(killed.path.glob("studies/*/result.json")), "it was to end before its time"
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
