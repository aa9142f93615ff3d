"""The forecasts on the page have the errors that `record` and `plan --audit` say."""

from pathlib import Path

import pytest
from ledgers import LOSS, add, forecast, outcome

from windtunnel.plan.calibration import calibration
from windtunnel.report.blocks import Section, Table
from windtunnel.report.forecasts import outcomes_figure, sections
from windtunnel.report.view import LabView


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """Of a lab with a forecast that came true, one that was too low, and one that waits."""
    near, low, waiting = forecast(1), forecast(2), forecast(3)
    add(tmp_path, near, low, waiting, outcome(near, 3.9), outcome(low, 4.4))
    (found,) = sections(LabView(tmp_path))
    return found


def test_the_table_says_predicted_over_reached(section: Section) -> None:
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    at = list(table.heads).index("error")
    assert [row[at] for row in table.rows] == ["+2.56%", "-9.09%", "–"]


def test_a_diamond_is_the_error_and_lies_in_the_bar_where_the_loss_lies_inside(
    section: Section, tmp_path: Path
) -> None:
    opened = [one for one in calibration(tmp_path).forecasts if one.outcome]
    wide, _, got = outcomes_figure(opened).to_dict()["data"]
    errors, bars = list(got["x"]), wide["error_x"]
    assert errors == [100 * one.outcome.error for one in opened if one.outcome]
    assert errors == pytest.approx([100 * (LOSS / 3.9 - 1), 100 * (LOSS / 4.4 - 1)])
    ends = zip(bars["arrayminus"], bars["array"], strict=True)
    inside = [-down <= error <= up for error, (down, up) in zip(errors, ends, strict=True)]
    assert inside == [one.outcome.inside90 for one in opened if one.outcome] == [True, False]
    # the interval is from 3.8 to 4.2: a run at its lower end would make the forecast 5.3% too high
    assert bars["array"][0] == pytest.approx(100 * (LOSS / 3.8 - 1))
