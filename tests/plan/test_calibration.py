"""How forecasts came out: what counts, by how far it reached."""

import json
from pathlib import Path

import pytest
from ledgers import add, forecast, outcome

from windtunnel.plan.calibration import calibration
from windtunnel.results.run import RunStatus


def counts(lab: Path) -> list[tuple[str, str | None]]:
    return [(one.state, one.why) for one in calibration(lab).forecasts]


def test_a_lab_without_forecasts(tmp_path: Path) -> None:
    found = calibration(tmp_path / "lab")
    assert (found.sealed, found.opened, found.all.count, found.forecasts) == (0, 0, 0, ())
    assert found.all.mean_error is None and found.all.mean_size is None
    assert [band.count for band in found.bands] == [0, 0, 0]


def test_losses_are_counted_by_interval_and_band(tmp_path: Path) -> None:
    near, edge, far = forecast(1, flops=1.0), forecast(2, flops=3.0), forecast(3, flops=3.001)
    last, beyond, sealed = forecast(4, flops=30.0), forecast(5, flops=31.0), forecast(6)
    add(tmp_path, near, edge, far, last, beyond, sealed)
    losses = (4.05, 4.15, 3.9, 4.25, 3.7)
    opened = zip((near, edge, far, last, beyond), losses, strict=True)
    add(tmp_path, *(outcome(each, loss) for each, loss in opened))
    found = calibration(tmp_path)
    assert (found.sealed, found.opened, found.changed) == (6, 5, ())
    errors = [4 / loss - 1 for loss in losses]
    assert (found.all.count, found.all.inside50, found.all.inside90) == (5, 2, 3)
    assert found.all.mean_error == pytest.approx(sum(errors) / 5, rel=1e-8)
    assert found.all.mean_size == pytest.approx(sum(map(abs, errors)) / 5, rel=1e-8)
    told = [(b.beyond, b.up_to, b.count, b.inside50, b.inside90) for b in found.bands]
    assert told == [(0, 3, 2, 1, 2), (3, 30, 2, 1, 1), (30, None, 1, 0, 0)]
    assert found.bands[1].mean_error == pytest.approx((errors[2] + errors[3]) / 2, rel=1e-8)
    assert found.bands[1].mean_size == pytest.approx((errors[2] - errors[3]) / 2, rel=1e-8)
    assert counts(tmp_path) == [("counts", None)] * 5 + [("not trained", None)]


def test_what_came_late_or_was_held_against_another_run_does_not_count(tmp_path: Path) -> None:
    early, begun, other = forecast(1), forecast(2, begun=True), forecast(3)
    add(tmp_path, early, begun, other)
    add(tmp_path, outcome(early, 4.0, late=True), outcome(begun, 4.0))
    add(tmp_path, outcome(other, 4.0, other=True))
    found = calibration(tmp_path)
    assert (found.opened, found.all.count) == (3, 0)
    late = ("does not count", "it was sealed after training began")
    against = "it was held against another run than the one that was sealed"
    assert counts(tmp_path) == [late, late, ("does not count", against)]
    # the run that was sealed counts, whenever it came
    add(tmp_path, outcome(other, 4.3))
    assert counts(tmp_path)[2] == ("counts", None)
    assert calibration(tmp_path).all.inside90 == 0


def test_of_several_for_one_run_the_last_counts(tmp_path: Path) -> None:
    first, second = forecast(1, run="a" * 12), forecast(2, run="a" * 12)
    third = forecast(3, run="a" * 12, begun=True)
    add(tmp_path, first, second, third)
    assert counts(tmp_path)[:2] == [("not trained", None)] * 2
    add(tmp_path, outcome(first, 4.3))
    assert counts(tmp_path)[0] == ("counts", None)
    add(tmp_path, outcome(second, 4.0))
    why = f"{second.id} is the last forecast of this run"
    assert counts(tmp_path)[:2] == [("does not count", why), ("counts", None)]
    assert (calibration(tmp_path).all.count, calibration(tmp_path).all.inside90) == (1, 1)


def test_a_changed_line_does_not_count(tmp_path: Path) -> None:
    first, second, third = forecast(1), forecast(2), forecast(3)
    file = add(tmp_path, first, second, outcome(first, 4.0), outcome(second, 4.3), third)
    lines = file.read_text().splitlines()
    changed = [json.dumps(json.loads(line) | {"loss": 4.001}) for line in lines]
    file.write_text("\n".join([changed[0], lines[1], lines[2], changed[3], lines[4]]) + "\n")
    found = calibration(tmp_path)
    assert found.changed == (1, 4) and found.all.count == 0
    assert counts(tmp_path) == [
        ("does not count", "its line in the ledger was changed"),
        ("not trained", None),
        ("not trained", None),
    ]
    assert found.chain == json.loads(lines[-1])["chain"]


def test_how_far_a_run_is_whose_forecast_was_not_opened(tmp_path: Path) -> None:
    runs = [forecast(number) for number in (1, 2, 3, 4)]
    add(tmp_path, *runs)
    for one, status in zip(runs, ("done", "running"), strict=False):
        file = tmp_path / "runs" / one.run / "status.json"
        RunStatus(status=status, tokens=1).write(file, make_folder=True)
    damaged = tmp_path / "runs" / runs[2].run
    damaged.mkdir()
    (damaged / "status.json").write_text("{")
    states = [state for state, _ in counts(tmp_path)]
    assert states == ["done, not opened", "not done", "not done", "not trained"]
