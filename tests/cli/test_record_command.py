"""`windtunnel record` as people and programs use it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import add, forecast, outcome

Said = subprocess.CompletedProcess[str]


def record(lab: Path, *more: str) -> Said:
    command = [sys.executable, "-c", "from windtunnel.cli import main; main()", "record"]
    return subprocess.run([*command, "--lab", str(lab), *more], capture_output=True, text=True)


def row_of(lines: list[str], forecast: str) -> str:
    return next(line for line in lines if line.startswith(forecast))


def test_a_lab_without_forecasts_says_what_makes_one(tmp_path: Path) -> None:
    done = record(tmp_path / "lab")
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path}/lab holds no forecasts yet: `windtunnel plan` seals one\n"
    assert json.loads(record(tmp_path / "lab", "--json").stdout)["sealed"] == 0
    assert not (tmp_path / "lab").exists()


def test_a_person_reads_the_calibration_and_a_line_a_forecast(tmp_path: Path) -> None:
    near, far, waiting = forecast(1), forecast(2, flops=12.5), forecast(3)
    add(tmp_path, near, far, waiting, outcome(near, 4.05), outcome(far, 4.25))
    done = record(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "3 sealed, 2 opened, 2 of them count"
    cells = [line.split() for line in lines]
    assert ["up", "to", "3x", "1", "1", "1", "-1.23%", "1.23%"] in cells
    assert ["3", "to", "30x", "1", "0", "0", "-5.88%", "5.88%"] in cells
    assert ["more", "than", "30x", "0", "0", "0", "-", "-"] in cells
    assert ["all", "2", "1", "1", "-3.56%", "3.56%"] in cells
    assert row_of(lines, far.id).split()[1:] == [
        *("plan-2", "12.5x", "4.0000", "3.800", "to", "4.200", "4.2500", "-5.88%"),
    ]
    assert lines[lines.index(row_of(lines, far.id)) + 1].endswith(f", run {far.run}: counts")
    assert row_of(lines, waiting.id).split()[-2:] == ["-", "-"]
    assert lines[lines.index(row_of(lines, waiting.id)) + 1].endswith(
        f", run {waiting.run}: not trained"
    )
    assert lines[-1].startswith(f"{tmp_path}/forecasts.jsonl ends with ")
    assert max(map(len, lines[:-2])) <= 80


def test_programs_read_the_same(tmp_path: Path) -> None:
    near = forecast(1)
    add(tmp_path, near, outcome(near, 4.05))
    found = json.loads(record(tmp_path, "--json").stdout)
    assert (found["sealed"], found["opened"], found["all"]["count"]) == (1, 1, 1)
    (one,) = found["forecasts"]
    assert (one["forecast"]["id"], one["outcome"]["loss"], one["state"]) == (
        near.id,
        4.05,
        "counts",
    )


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_edited_ledger_is_a_failed_verdict(tmp_path: Path, more: tuple[str, ...]) -> None:
    file = add(tmp_path, forecast(1), forecast(2))
    file.write_text(file.read_text().replace('"loss": 4.0', '"loss": 4.1', 1))
    done = record(tmp_path, *more)
    assert done.returncode == 1 and not done.stderr
    if more:
        assert json.loads(done.stdout)["changed"] == [1]
    else:
        said = f"CHANGED: line 1 of {file} does not follow from the line before it"
        assert done.stdout.splitlines()[0] == said


def test_a_damaged_ledger_is_one_line(tmp_path: Path) -> None:
    file = add(tmp_path, forecast(1))
    file.write_text("so be it\n" + file.read_text())
    done = record(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"windtunnel: {file}, line 1: damaged")
