"""A shape is compiled once on a machine: a later process finds it on the disk, and both say so."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windtunnel.recipe import Recipe
from windtunnel.train.compiled import Compiled


def test_it_says_what_was_compiled() -> None:
    assert str(Compiled(3, 1, 12.4)) == "3 graphs compiled anew and 1 found on the disk, 12 s"
    assert (
        str(Compiled(0, 5, 3.6))
        == "nothing compiled anew: 5 graphs found on the disk and loaded in 4 s"
    )
    assert Compiled(3, 1, 2.0) + Compiled(1, 1, 1.0) - Compiled(1, 0, 1.0) == Compiled(3, 2, 2.0)


@pytest.mark.slow
def test_a_second_start_compiles_nothing(make_lab: Any, recipe: Any, tmp_path: Path) -> None:
    """Real processes, each in a lab of its own, with one cache."""
    said = []
    for seed in (0, 1):
        lab = make_lab()
        asked: Recipe = recipe(seed=seed, train={"compile": True})
        cache = str(tmp_path / "compiled")
        done = lab.run("train", lab.write(asked), TORCHINDUCTOR_CACHE_DIR=cache)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert re.search(r"[1-9]\d* graphs compiled anew and 0 found", said[0]), said[0]
    assert re.search(r"nothing compiled anew: [1-9]\d* graphs found", said[1]), said[1]


def test_torchs_compiler_is_imported_only_where_something_is_compiled() -> None:
    code = "import sys, windtunnel.train.loop; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
