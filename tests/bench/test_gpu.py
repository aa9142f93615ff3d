"""The script that proves a GPU is whole: every part goes through on a CPU, at a size for one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.py"
PARTS = ["study", "memory", "bits", "check", "public", "big", "population", "sft", "export"]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), "--device", "cpu", *options]
    # nothing is compiled: that would take minutes, and what is compiled here says nothing of a GPU
    return subprocess.run(
        command, env=os.environ | {"CXX": "no-compiler"}, capture_output=True, text=True
    )


@pytest.mark.slow
def test_every_part_goes_through_and_none_is_repeated(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    claims = json.loads(done.stdout.splitlines()[-1])
    assert {one["claim"] for one in claims} > {
        "a scaling study ends",
        "the same bits after a kill, deterministic = true",
        "an export that its engine reads",
    }
    told = (tmp_path / "parts.jsonl").read_text()
    assert [json.loads(line)["part"] for line in told.splitlines()] == PARTS
    again = run(tmp_path)
    assert again.stdout == done.stdout and (tmp_path / "parts.jsonl").read_text() == told


def test_a_part_that_fails_is_a_claim_that_fails(tmp_path: Path) -> None:
    """There is nothing to export."""
    done = run(tmp_path, "--parts", "export")
    assert done.returncode == 1
    (found,) = json.loads(done.stdout.splitlines()[-1])
    assert (found["claim"], found["ok"]) == ("export ends", False)
