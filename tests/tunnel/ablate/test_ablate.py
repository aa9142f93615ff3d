"""The decay ablation: a real small study."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import load
from windtunnel.report.experiments.ablate import figures
from windtunnel.results.ablate import ABLATE, AblateNumbers
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.tunnel.ablate.ablate import ablate
from windtunnel.tunnel.ablate.arms import Arm
from windtunnel.tunnel.ablate.design import Design

TINY = (
    "--corpus",
    "tiny",
    "--width",
    16,
    "--depth",
    1,
    "--batch",
    512,
    "--tokens",
    "15k",
    "--decay",
    "40%",
)
ARMS = ("--arm", "code=code=1", "--arm", "half=code=1,prose=1,notes=0")
EAGER = {"CXX": "no-compiler"}  # to compile, or to import what does, would take longer


@pytest.fixture(scope="module")
def measured(make_small_lab: Any) -> Any:
    """A lab with a study of two mixtures. Only to be looked at."""
    lab = make_small_lab()
    done = lab.run("ablate", *TINY, *ARMS, **EAGER)
    assert done.returncode == 0, done.stderr
    assert "natural" in done.stdout and "half" in done.stdout
    return lab


def test_arms_without_room_or_with_one_name_are_refused(lab: Any, corpus: Corpus) -> None:
    design, there = Design(tokens=20_480, batch=512), lab.files()
    one = Arm(name="one", decay=0.2)
    for arms, said in (
        ([one], "two or more"),
        ([one, Arm(name="one", decay=0.4)], "its own name"),
        ([one, Arm(name="all", decay=1.0)], "warm-up ends"),
    ):
        with pytest.raises(InputError, match=said):
            ablate(lab.path, corpus, design, arms, Watch())
    assert lab.files() == there
    refused = lab.run("ablate", *TINY, "--arm", "code=code")
    assert refused.returncode == 2
    assert "--arm code=code: expected NAME=SOURCE=WEIGHT" in refused.stderr


def test_every_arm_leaves_the_stem_of_its_seed_with_its_own_mixture(measured: Any) -> None:
    runs = {run["id"]: run for run in measured.json("runs")}
    points = [row for row in read_table(measured.path, ABLATE) if row.source == "all"]
    assert [(row.seed, row.arm) for row in points] == [
        (seed, arm) for seed in (0, 1) for arm in ("natural", "code", "half")
    ]
    mixtures = {
        "natural": None,
        "code": {"code": 1.0},
        "half": {"code": 1.0, "prose": 1.0, "notes": 0.0},
    }
    for row in points:
        run = runs[row.run]
        assert (run["parent"], run["at_tokens"]) == (row.stem, 14_848 - 5632)
        recipe = load(Path(run["path"]) / "recipe.toml")
        assert recipe.seed == row.seed
        assert recipe.decay_tokens == row.decay == 5632
        asked = mixtures[row.arm]
        stages = [(stage.at, stage.mixture) for stage in recipe.data.stages]
        assert stages == ([(9216, asked)] if asked else [])


def test_differences_are_those_of_the_table_and_more_of_a_source_was_read(measured: Any) -> None:
    numbers = read_study(measured.path, ABLATE).numbers
    loss = {}
    for row in read_table(measured.path, ABLATE):
        assert row.loss
        loss[row.seed, row.arm, row.source] = row.loss
    natural, code, _ = numbers.arms
    assert code.difference and code.epochs and natural.epochs
    for source in ("all", "prose", "code", "notes"):
        apart = [loss[seed, "code", source] - loss[seed, "natural", source] for seed in (0, 1)]
        assert code.difference[source].mean == pytest.approx(np.mean(apart))
    assert code.epochs["code"] > natural.epochs["code"]
    assert code.epochs["prose"] < natural.epochs["prose"]
    assert natural.difference is None


def test_the_result_is_read_as_it_was_written(measured: Any) -> None:
    file = ABLATE.folder(measured.path) / "result.json"
    assert StudyResult[AblateNumbers].read(file).to_json() == file.read_text()


def test_figures_hold_every_arm_and_source(measured: Any) -> None:
    drawn = figures(read_study(measured.path, ABLATE), read_table(measured.path, ABLATE))
    (_, heat), (_, bars) = drawn
    assert np.array(heat.data[0].z).shape == (2, 4)
    assert list(bars.data[0].y) == ["code", "half"]
    assert all(reach > 0 for reach in bars.data[0].error_x.array)
