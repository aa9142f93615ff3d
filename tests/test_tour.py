"""The tour: its designs can be laid out at any size that it may choose, and the chain runs to its
end.
"""

import inspect
import json
from typing import Any

import pytest

from windtunnel.cli.tour import tour
from windtunnel.model.shape import count
from windtunnel.recipe import Model
from windtunnel.results.study import Verdict
from windtunnel.results.tour import TourStep
from windtunnel.scaling_recipe import LAPTOP_BATCH
from windtunnel.tour import (
    _AHEAD,
    _COSTS,
    _FARTHEST,
    _FEWEST,
    _OVER,
    _SPEED,
    _STEP,
    _VOCAB,
    designs_of,
    left_out_of,
    reach_in,
    seconds_of,
    summary_of,
)
from windtunnel.tunnel.scaling.chain import lay_out
from windtunnel.tunnel.scaling.design import FEWEST_SIZES, FEWEST_STEPS, SMALLEST_SPAN


@pytest.mark.parametrize("unit", [_STEP * 4, _FEWEST, 300_000 - 300_000 % _STEP, 10 * _FEWEST])
def test_its_designs_fit_every_length(unit: int) -> None:
    designs = designs_of(unit)
    design = designs.scaling
    chain = lay_out(design, LAPTOP_BATCH)
    assert len(chain.points) == design.points and chain.points[-1].tokens <= 4.2 * unit
    assert max(designs.transfer.lengths) == 2 * unit and design.longest == 4 * unit


def test_the_studies_of_the_shortest_tour_are_large_enough_for_verdicts() -> None:
    designs = designs_of(_FEWEST)
    assert designs.search.tokens // designs.search.batch >= 400 and _FEWEST % _STEP == 0
    assert designs.scaling.shortest // designs.scaling.batch >= FEWEST_STEPS
    assert len(designs.scaling.sizes) >= FEWEST_SIZES
    params = []
    for size in designs.scaling.sizes:
        shape = {"width": size.width, "depth": size.depth, "heads": 1, "vocab": _VOCAB}
        params.append(count(Model.model_validate(shape)).params_total)
    assert max(params) >= SMALLEST_SPAN * min(params)
    assert designs.transfer.one_size and len(designs.transfer.lengths) >= 3


def step(study: str, verdict: Verdict) -> TourStep:
    return TourStep(study=study, verdict=verdict, summary="", minutes=1.0)


def test_the_summary_says_how_many_passed_failed_and_had_no_verdict() -> None:
    steps = [step("check", "pass"), step("search", "pass"), step("scaling", None)]
    assert summary_of(steps) == (
        "3 steps: 2 passed (check, search); none failed; 1 had no verdict (scaling)"
    )
    assert "1 failed (plan)" in summary_of([*steps, step("plan", "fail")])


def test_what_there_is_no_time_for_is_left_out_instead_of_being_shrunk() -> None:
    whole = sum(cost.fixed + cost.runs for cost in _COSTS.values())
    transfer = _COSTS["transfer"].fixed + _COSTS["transfer"].runs
    assert left_out_of(whole) == ()
    assert left_out_of(whole - 1) == ("transfer",)
    assert left_out_of(whole - transfer - 1) == ("transfer", "search")
    assert left_out_of(-1.0) == ("transfer", "search")
    said = summary_of([step("check", "pass")], ("transfer", "search"))
    assert said.endswith("2 left out for want of time (transfer, search)")


def test_how_long_it_takes_goes_with_the_runs_and_what_is_left_out() -> None:
    whole = seconds_of(_FEWEST, ())
    assert whole == sum(cost.fixed + cost.runs for cost in _COSTS.values())
    runs = sum(cost.runs for cost in _COSTS.values())
    assert seconds_of(2 * _FEWEST, ()) == pytest.approx(whole + runs)
    search = _COSTS["search"]
    assert seconds_of(_FEWEST, ["search"]) == pytest.approx(whole - search.fixed - search.runs)


def test_the_default_tour_leaves_nothing_out_on_the_machine_of_its_costs() -> None:
    default = inspect.signature(tour).parameters["minutes"].default
    assert left_out_of(_OVER * default * 60) == ()
    assert left_out_of(default * 60 / 4) == ("transfer", "search"), "and at a quarter of its speed"


def test_the_planned_run_takes_the_time_that_is_left_and_reaches_no_farther_than_the_law() -> None:
    cost = _COSTS["plan"]
    planned = cost.fixed + cost.runs
    assert reach_in(planned, _FEWEST, _SPEED) == _AHEAD
    assert reach_in(cost.fixed + 2 * cost.runs, _FEWEST, _SPEED) == 2 * _AHEAD
    assert reach_in(planned / 2, _FEWEST, 2 * _SPEED) == _AHEAD, "twice as fast, half the time"
    assert reach_in(cost.fixed + 2 * cost.runs, 2 * _FEWEST, _SPEED) == _AHEAD, "runs twice as long"
    assert reach_in(-100.0, _FEWEST, _SPEED) == _AHEAD
    assert reach_in(1e6, _FEWEST, _SPEED) == _FARTHEST


def test_a_corpus_that_is_neither_there_nor_known_is_refused(lab: Any) -> None:
    done = lab.run("tour", "--corpus", "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr
    mistyped = lab.run("tour", "--corpus", "esay")
    assert mistyped.returncode == 2 and "did you mean 'essay'?" in mistyped.stderr


@pytest.mark.slow
def test_the_whole_chain_and_its_page(lab: Any) -> None:
    taken = lab.run("tour", "--corpus", "tiny", "--minutes", "1", CXX="no-compiler")
    assert taken.returncode == 0, taken.stderr
    result = json.loads((lab.path / "studies" / "tour" / "result.json").read_text())
    steps = result["numbers"]["steps"]
    assert [step["study"] for step in steps] == ["check", "scaling", "plan"]
    assert result["numbers"]["left_out"] == ["transfer", "search"]
    assert [sample["what"] for sample in result["numbers"]["samples"]] == [
        "the smallest",
        "the middle one",
        "the best",
    ]
    assert "windtunnel corpus build mine" in taken.stdout
    assert steps[-1]["verdict"] in ("pass", "fail")
    said = json.loads((lab.path / "plans" / "tour" / "plan.json").read_text())
    assert said["audit"]["inside90"] == (steps[-1]["verdict"] == "pass")
    assert said["audit"]["run"] == result["numbers"]["written_by"]
    page = (lab.path / "report.html").read_text()
    for name in ("check", "scaling", "plan-tour"):
        assert f'id="{name}"' in page
    size = json.loads((lab.path / "studies" / "tour" / "size.json").read_text())
    assert size["ahead"] >= _AHEAD
    again = lab.run("tour", "--corpus", "tiny", "--minutes", "1", CXX="no-compiler")
    assert again.returncode == 0 and "runs to train" not in again.stderr
