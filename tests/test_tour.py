"""The tour: its designs can be laid out at any size that it may choose, and the chain runs to its
end.
"""

import json
from typing import Any

import pytest

from windtunnel.results.study import Verdict
from windtunnel.results.tour import TourStep
from windtunnel.scaling_recipe import LAPTOP_BATCH
from windtunnel.tour import _FEWEST, _STEP, designs_of, left_out_of, summary_of
from windtunnel.tunnel.scaling.chain import lay_out


@pytest.mark.parametrize("unit", [_STEP * 4, _FEWEST, 300_000 - 300_000 % _STEP, 10 * _FEWEST])
def test_its_designs_fit_every_length(unit: int) -> None:
    designs = designs_of(unit)
    design = designs.scaling
    chain = lay_out(design, LAPTOP_BATCH)
    assert len(chain.points) == design.points and chain.points[-1].tokens <= 4.2 * unit
    assert designs.batch.points[-1][1] <= 2 * unit
    assert max(designs.transfer.lengths) == 4 * unit == design.longest


def test_the_search_of_the_shortest_tour_has_steps_enough_for_an_outcome() -> None:
    search = designs_of(_FEWEST).search
    assert search.tokens // search.batch >= 400 and _FEWEST % _STEP == 0


def step(study: str, verdict: Verdict) -> TourStep:
    return TourStep(study=study, verdict=verdict, summary="", minutes=1.0)


def test_the_summary_says_how_many_passed_failed_and_had_no_verdict() -> None:
    steps = [step("check", "pass"), step("search", "pass"), step("batch", None)]
    assert summary_of(steps) == (
        "3 steps: 2 passed (check, search); none failed; 1 had no verdict (batch)"
    )
    assert "1 failed (plan)" in summary_of([*steps, step("plan", "fail")])


def test_what_there_is_no_time_for_is_left_out_instead_of_being_shrunk() -> None:
    each = {"search": 2.0, "transfer": 5.0, "batch": 3.0, "scaling": 1.0, "plan": 1.0}
    assert left_out_of(each, 12.0 * _FEWEST) == ()
    assert left_out_of(each, 11.9 * _FEWEST) == ("batch",)
    assert left_out_of(each, 8.9 * _FEWEST) == ("batch", "transfer")
    assert left_out_of(each, -1.0) == ("batch", "transfer", "search")
    said = summary_of([step("check", "pass")], ("batch", "transfer"))
    assert said.endswith("2 left out for want of time (batch, transfer)")


def test_a_corpus_that_is_neither_there_nor_known_is_refused(lab: Any) -> None:
    done = lab.run("tour", "--corpus", "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr


@pytest.mark.slow
def test_the_whole_chain_and_its_page(lab: Any) -> None:
    taken = lab.run("tour", "--corpus", "tiny", "--minutes", "1", CXX="no-compiler")
    assert taken.returncode == 0, taken.stderr
    result = json.loads((lab.path / "studies" / "tour" / "result.json").read_text())
    steps = result["numbers"]["steps"]
    assert [step["study"] for step in steps] == ["check", "scaling", "plan"]
    assert result["numbers"]["left_out"] == ["batch", "transfer", "search"]
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
    again = lab.run("tour", "--corpus", "tiny", "--minutes", "1", CXX="no-compiler")
    assert again.returncode == 0 and "runs to train" not in again.stderr
