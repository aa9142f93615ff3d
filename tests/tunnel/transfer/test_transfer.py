"""The transfer study: the grid that follows the minimum, and a real study killed half-way."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from patience import wait_until
from processes import Process

from windtunnel.errors import InputError
from windtunnel.recipe import PARAMETRIZATIONS, Recipe
from windtunnel.results.transfer import DriftFound, Drifts, ParametrizationRates, SizeRate
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.transfer.design import Design
from windtunnel.tunnel.transfer.grid import Cell, around_best, chain
from windtunnel.tunnel.transfer.transfer import expected_power, judge, within

pytestmark = pytest.mark.usefixtures("eager")

DESIGN = Design(
    parametrizations=("minicpm",),
    widths=(16, 32),
    depths=(1, 2),
    lengths=(2560,),
    batches=(256,),
    seeds=(1,),
)
PROGRAM = f"""
import sys
from pathlib import Path
from windtunnel.data.shards import Corpus
from windtunnel.train.loop import Watch
from windtunnel.tunnel.transfer.design import Design
from windtunnel.tunnel.transfer.transfer import transfer
lab = Path(sys.argv[1])
transfer(lab, Corpus.open(lab / "corpora" / "tiny"), {DESIGN!r}, Watch())
"""


def test_the_grid_asks_for_neighbours_on_either_side_of_the_best() -> None:
    assert around_best({0: 4.0, 1: 3.9, 2: 3.8}) == {0, 1, 2, 3, 4}
    assert around_best({0: 3.9, 1: 3.8, 2: 3.9, 3: None}) == {-1, 0, 1, 2, 3}
    assert max(around_best({14: 1.0})) == 14, "no minimum is looked for beyond a factor of 128"


def test_every_width_at_the_first_depth_and_every_further_depth_at_the_first_width() -> None:
    cells = chain(Design(widths=(32, 64), depths=(2, 4, 8), batches=(512,)), "minicpm")
    sizes = ((32, 2), (64, 2), (32, 4), (32, 8))
    assert cells == [Cell("minicpm", Size(*size), 512) for size in sizes]


def test_every_further_batch_at_the_first_width_and_depth() -> None:
    cells = chain(Design(widths=(32, 64), depths=(2,), batches=(2048, 512, 256)), "minicpm")
    assert [(cell.size.width, cell.batch) for cell in cells] == [
        (32, 2048),
        (64, 2048),
        (32, 512),
        (32, 256),
    ]


@pytest.mark.parametrize("twice", [{"lengths": (10, 20, 10)}, {"batches": (512, 512)}])
def test_a_length_or_a_batch_that_is_there_twice_is_refused(twice: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected different numbers of tokens"):
        Design(**twice)


def test_theory_expects_no_drift_where_matrices_have_their_share_of_the_rate(
    recipe: Callable[..., Recipe],
) -> None:
    powers = {
        name: expected_power(recipe(model={"parametrization": name}).model)
        for name in PARAMETRIZATIONS
    }
    assert powers == pytest.approx({"minicpm": 0.0, "completep": 0.0, "standard": -0.5})


def test_seeds_are_one_number_or_one_a_parametrization() -> None:
    two = ("minicpm", "standard")
    assert [Design(parametrizations=two, seeds=(3,)).seeds_of(name) for name in two] == [3, 3]
    assert [Design(parametrizations=two, seeds=(3, 2)).seeds_of(name) for name in two] == [3, 2]
    assert Design(parametrizations=two[:1], seeds=(3, 2)).seeds_of("minicpm") == 3
    with pytest.raises(InputError, match="--seeds 3,2: expected one number, or one for each of"):
        Design(parametrizations=(*two, "completep"), seeds=(3, 2))


def test_where_every_run_diverged_the_grid_still_has_a_middle() -> None:
    assert around_best({0: None, 1: None}) == {-2, -1, 0, 1, 2}


def test_steps_are_half_octaves() -> None:
    assert [Design(lr=0.01).rate(step) for step in (-2, 0, 1, 4)] == pytest.approx(
        [0.005, 0.01, 0.0141421, 0.04]
    )


@pytest.mark.parametrize(
    ("interval", "passes"),
    [((-0.1, 0.14), True), ((-0.2, 0.1), False), ((0.0, 0.16), False), ((-1.2, -0.8), False)],
)
def test_the_whole_interval_must_lie_inside(interval: tuple[float, float], passes: bool) -> None:
    assert within(DriftFound(slope=sum(interval) / 2, interval=interval)) is passes


def begin(lab: Any) -> Process:
    """The study in a process of its own: what it trains by compiles nothing, whatever the tests
    before it had their workers do.
    """
    return Process([str(lab.path)], dict(os.environ), program=PROGRAM)


def run(lab: Any) -> None:
    assert begin(lab).wait() == 0


def kill(lab: Any, at: int) -> None:
    """SIGKILL the study when so many runs are done."""
    process = begin(lab)
    wait_until(lambda: done(lab) >= at, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def done(lab: Any) -> int:
    files = (lab.path / "runs").glob("[!.]*/status.json") if (lab.path / "runs").exists() else []
    return sum(json.loads(file.read_text())["status"] == "done" for file in files)


@pytest.fixture(scope="module")
def studied(make_small_lab: Callable[[], Any]) -> Any:
    lab = make_small_lab()
    kill(lab, at=4)
    before = {
        path: path.stat().st_mtime_ns
        for path in (lab.path / "runs").glob("*/metrics.jsonl")
        if json.loads((path.parent / "status.json").read_text())["status"] == "done"
    }
    run(lab)
    assert len(before) >= 4 and all(path.stat().st_mtime_ns == at for path, at in before.items())
    return lab


def test_killed_and_run_again_it_gives_the_same_table(
    studied: Any, make_small_lab: Callable[[], Any]
) -> None:
    whole = make_small_lab()
    run(whole)
    tables = [
        (lab.path / "studies" / "transfer" / "table.csv").read_bytes() for lab in (studied, whole)
    ]
    assert tables[0] == tables[1] and tables[0].count(b"\n") > 4 * 3 * 5


def test_the_result_has_a_best_rate_a_size_and_a_drift_an_axis(studied: Any) -> None:
    result = json.loads((studied.path / "studies" / "transfer" / "result.json").read_text())
    assert len(result["runs"]) >= 3 * 5
    assert (
        result["verdict"] is None
        and "needs 3 widths, a span of 8x in width, 400 steps" in result["summary"]
    )
    found = result["numbers"]["parametrizations"]["minicpm"]
    assert [(s["width"], s["depth"]) for s in found["sizes"]] == [(16, 1), (32, 1), (16, 2)]
    assert found["sizes"][0]["regret"] in (0.0, None)
    for size in found["sizes"]:
        if size["lr"]:
            assert size["interval"][0] <= size["lr"] <= size["interval"][1]


@pytest.mark.parametrize(("passes", "verdict"), [(True, "pass"), (False, "fail")])
def test_the_first_parametrization_is_judged(passes: bool, verdict: str) -> None:
    drift = Drifts(width=DriftFound(slope=0.1, interval=(0.0, 0.2)), depth=None)
    results = {
        name: ParametrizationRates(sizes=(), drift=drift, passes=wanted)
        for name, wanted in (("minicpm", passes), ("standard", not passes))
    }
    given, summary = judge(Design(), results)
    assert given == verdict and "by +0.10 [+0.00, +0.20] octaves for an octave of width" in summary
    assert judge(Design(lengths=(399 * 2048,)), results)[0] is None


ONE_SIZE = Design(
    widths=(32,), depths=(2,), lengths=(409_600, 819_200, 1_638_400), batches=(512, 1024)
)


def at_regrets(*regrets: float | None) -> dict[str, ParametrizationRates]:
    """What was found of a single size whose law costs so much at each length."""
    sizes = []
    for tokens, regret in zip(ONE_SIZE.lengths, regrets, strict=True):
        sizes.append(
            SizeRate(
                width=32,
                depth=2,
                params=24_576,
                tokens=tokens,
                batch=512,
                best_loss=4.5,
                lr=0.01,
                interval=(0.008, 0.012),
                noise=0.01,
                regret=0.0,
                regret_of_law=regret,
            )
        )
    drift = Drifts(width=None, depth=None)
    return {"minicpm": ParametrizationRates(sizes=tuple(sizes), drift=drift, passes=False)}


@pytest.mark.parametrize(
    ("regrets", "verdict"),
    [((0.002, 0.0, 0.01), "pass"), ((0.002, 0.0, 0.011), "fail"), ((0.002, None, 0.0), "fail")],
)
def test_of_a_single_size_the_law_over_length_and_batch_is_judged(
    regrets: tuple[float | None, ...], verdict: str
) -> None:
    given, summary = judge(ONE_SIZE, at_regrets(*regrets))
    assert given == verdict
    highest = max(regret for regret in regrets if regret is not None)
    assert f"following it costs at most {highest:.4f} nats/token" in summary


@pytest.mark.parametrize(
    ("lengths", "needs"),
    [
        ((409_600, 1_638_400), "3 lengths"),
        ((819_200, 1_000_000, 1_638_400), "a span of 4x in length"),
        ((51_200, 102_400, 204_799), "400 steps"),
    ],
)
def test_a_verdict_on_a_single_size_needs_lengths_a_span_and_steps(
    lengths: tuple[int, ...], needs: str
) -> None:
    design = replace(ONE_SIZE, lengths=lengths)
    verdict, summary = judge(design, at_regrets(0.0, 0.0, 0.0))
    assert verdict is None and needs in summary
