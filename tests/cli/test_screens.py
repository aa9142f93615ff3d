"""What a study ends with in a terminal of 80 columns and 24 lines: its numbers, the verdict, and
what to do next, in this order.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
from scaling_numbers import study_of

from windtunnel.cli import check as cli_check
from windtunnel.cli import dynamics as cli_dynamics
from windtunnel.cli import scaling as cli_scaling
from windtunnel.cli.study import print_study
from windtunnel.report.blocks import Table, Text
from windtunnel.report.experiments import DETAILS
from windtunnel.report.readings import READINGS
from windtunnel.results.check import Causes, CheckedDesign, CheckNumbers, Slope
from windtunnel.results.dynamics import Claim, DynamicsNumbers, SameBatch
from windtunnel.results.scaling import SCALING, AuditForecast, ScalingNumbers
from windtunnel.results.study import Numbers, StudyResult

COLUMNS, LINES = 80, 24
LONGEST = (
    "5 sizes over 9.0x, 5 lengths from 240k to 1.92M tokens, at 0.447 of what cosine runs from "
    "scratch would cost; loss from 4.529 to 3.549; seeds differ by 0.0406 (SD); audit run of 222k "
    "parameters and 3.84M tokens: 3.2247, predicted 3.3434, 90% [3.262, 3.427], +3.68% off; too "
    "small for a verdict, which needs a span of 16x in parameters, 400 steps at the shortest "
    "length, a cost of at most 0.4x of retraining, a corpus that no run reads more than once"
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a study prints there, as lines."""

    def shown(result: StudyResult[Any], after: Any, lab: str = "lab") -> list[str]:
        monkeypatch.setenv("COLUMNS", str(COLUMNS))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        print_study(Path(lab), Path(f"{lab}/studies/{result.study}"), result, after)
        return capsys.readouterr().out.splitlines()

    return shown


def scaling(sizes: int = 5, **changes: Any) -> StudyResult[ScalingNumbers]:
    return study_of(sizes, **changes).model_copy(update={"summary": LONGEST})


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize(("verdict", "said"), [("pass", "PASS"), (None, "NO VERDICT")])
def test_every_study_ends_with_its_verdict_and_what_to_do(
    terminal: Any, name: str, verdict: Any, said: str
) -> None:
    numbers = study_of().numbers if name == "scaling" else Numbers()
    result = StudyResult(study=name, numbers=numbers, verdict=verdict, summary="It is so.")
    lines = terminal(result, lambda _: print("the numbers"))
    assert lines[:3] == ["the numbers", "", f"{said}: It is so."]
    following = READINGS[name].next(result).replace("`", "").split()
    assert " ".join(lines[3:-1]).split() == following
    assert lines[-1] == f"lab/studies/{name} holds the table; windtunnel report draws it"


def test_commands_of_another_lab_name_it(terminal: Any) -> None:
    result = StudyResult(study="check", numbers=Numbers(), verdict="pass", summary="It is so.")
    lines = terminal(result, lambda _: None, lab="my lab")
    assert "windtunnel search --lab 'my lab'." in " ".join(lines)
    assert lines[-1].endswith("windtunnel report --lab 'my lab' draws it")
    page = READINGS["check"].next(result, " --lab 'my lab'")
    assert "`windtunnel search --lab 'my lab'`" in page


@pytest.mark.parametrize("sizes", [2, 5, 6, 7, 12])
def test_a_scaling_study_fits_a_screen(terminal: Any, sizes: int) -> None:
    result = scaling(sizes)
    lines = terminal(result, cli_scaling._print)
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    found = {line.partition(" ")[0] for line in lines}
    shown = [one.size for one in result.numbers.sizes if one.size in found]
    assert len(shown) == (sizes if sizes <= 6 else 5)
    assert {result.numbers.sizes[0].size, result.numbers.sizes[-1].size} <= set(shown)
    assert (f"... {sizes - 5} sizes between these" in lines) == (sizes > 6)


def test_it_says_which_law_weighs_most_how_far_ahead_it_was_right_and_what_the_audit_said(
    terminal: Any,
) -> None:
    said = " ".join(terminal(scaling(), cli_scaling._print))
    assert (
        "law: interacting 40%, additive 30%, coupled+interacting 20%, coupled+floor 10%; " in said
    )
    assert (
        "interacting, fitted to the smaller and shorter runs, was 0.67% off on the others" in said
    )
    assert (
        "audit: a run 4.5 times as large and 2.0 times as long as any in the fit: the law was "
        "+3.68% off, OUTSIDE its 90% interval"
    ) in said


def test_no_law_and_an_audit_run_that_diverged_are_said(terminal: Any) -> None:
    result = scaling(2, refused="5 points, and a law needs 6")
    said = " ".join(terminal(result, cli_scaling._print))
    assert "no law: 5 points, and a law needs 6" in said
    assert "A plan needs a law, and these runs are too few or too much alike to tell one." in said
    assert "`" not in said and "windtunnel plan" not in said
    assert result.numbers.audit
    audit = result.numbers.audit.model_copy(update={"loss": None})
    forecast = AuditForecast(
        predicted=3.0, interval50=(2.9, 3.1), interval90=(2.8, 3.2), error=None, inside90=None
    )
    law = scaling().numbers.law.model_copy(update={"audit": forecast})
    numbers = result.numbers.model_copy(update={"audit": audit, "law": law})
    lost = result.model_copy(update={"numbers": numbers})
    said = " ".join(terminal(lost, cli_scaling._print))
    assert "times as long as any in the fit diverged" in said


def test_the_page_has_what_the_screen_leaves_out() -> None:
    blocks = DETAILS[SCALING.name](scaling(9))
    sizes, forms = (block for block in blocks if isinstance(block, Table))
    assert len(sizes.rows) == 9 and len(forms.rows) == 10
    assert forms.rows[0] == [
        "interacting",
        "0.20",
        "0.67%",
        "0.59%",
        "N without embeddings",
        "not alone [1.46, 3.1]",
        "0.3 [0.25, open]",
    ]
    assert list(forms.heads)[-2:] == ["E", "alpha"]
    assert forms.rows[-1][0] == "coupled, not converged"
    said = " ".join(block.text for block in blocks if isinstance(block, Text))
    for words in ("2048 from 0 (the lab's batch study)", "3.000e+11 FLOPs", "E 2.73", "+3.63% off"):
        assert words in said
    without = DETAILS[SCALING.name](scaling(refused="5 points are too few"))
    assert any(isinstance(one, Text) and "5 points are too few." in one.text for one in without)


def slope(axis: Any, quantity: str, t: int, verdict: Any) -> Slope:
    return Slope(
        axis=axis,
        t=t,
        quantity=quantity,
        statistic="value",
        slope=0.25,
        low=0.2,
        high=0.3,
        expected=(0.0, 0.0),
        verdict=verdict,
    )


def test_a_check_shows_what_the_theory_does_not_allow_and_counts_the_rest(terminal: Any) -> None:
    quantities = []
    for axis in ("width", "depth"):
        for number in range(27):
            bad = axis == "width" and number == 3
            quantities += [
                slope(axis, f"quantity {number}", t, "fail" if bad and t else "pass")
                for t in (0, 10)
            ]
    design = CheckedDesign.model_construct(steps=(0, 10))
    numbers = CheckNumbers.model_construct(
        design=design,
        corpus=None,
        causes=Causes(width=("the head is not scaled",), depth=()),
        quantities=tuple(quantities),
    )
    result = StudyResult[CheckNumbers].model_construct(
        study="check", numbers=numbers, verdict="fail", summary="it fails", runs=()
    )
    lines = terminal(result, cli_check._print)
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith("width: 1 of 27 quantities ")
    (row,) = (line for line in lines if line.startswith("quantity"))
    assert row.split() == ["quantity", "3", "value", "+0.25", "+0.25!"]
    assert "probable cause: the head is not scaled" in lines
    assert "depth: all 27 quantities go with it as the theory says" in lines


def test_what_the_decay_does_fits_a_screen(terminal: Any) -> None:
    claim = Claim(
        name="weight change",
        says="the largest weight change follows the rate",
        stable=(-0.001234, -0.001334, -0.001134),
        decay=(-0.0001234, -0.0001334, -0.0001134),
        effect=(-1.234e-05, -1.334e-05, -1.134e-05),
        effect_is="power of the rate",
        shown=False,
    )
    numbers = DynamicsNumbers(
        claims=(claim, claim.model_copy(update={"shown": True})),
        decay_begins=100,
        warmup=10,
        block=10,
        same_batch_d2=SameBatch(stable=claim.stable, decay=claim.decay, ratio=claim.effect),
    )
    result = StudyResult(study="dynamics", numbers=numbers, verdict=None, summary="It is so.")
    lines = terminal(result, cli_dynamics._print)
    assert max(map(len, lines)) <= COLUMNS
    assert lines[1] == "weight change    -0.00123 -0.000123  no"
    assert " ".join(" ".join(lines[2:4]).split()) == (
        "power of the rate -1.23e-05, 95% interval -1.33e-05 to -1.13e-05; the paper says that the "
        "largest weight change follows the rate"
    )
