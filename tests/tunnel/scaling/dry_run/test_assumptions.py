"""What a simulation takes for real: the laws and the noise of a table are found again in it."""

from pathlib import Path

import numpy as np
import pytest
from dry_runs import COUPLED, SIZES, grid_of

from windtunnel.data.shards import Corpus
from windtunnel.laws.points import LossPoints
from windtunnel.results.dry_run import StudyNoise
from windtunnel.results.scaling import ScalingNumbers
from windtunnel.results.study import StudyResult, Verdict
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.dry_run.assumptions import (
    LAPTOP_NOISE,
    LAPTOP_TRUTHS,
    Assumptions,
    assumptions_of,
)
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.simulate import measured


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> dict[Size, SizeCounts]:
    return {size: counts_of(corpus, size) for size in SIZES}


def study_in(
    lab: Path, points: LossPoints, verdict: Verdict = "pass"
) -> StudyResult[ScalingNumbers]:
    """A study with these points as its table, of which only the verdict matters beside."""
    folder = lab / "studies" / "scaling"
    folder.mkdir(parents=True)
    columns = [*points.params, "tokens", "loss", "stem", "seed"]
    values = [*points.params.values(), points.tokens, points.loss, points.stem, points.seed]
    lines = [",".join(map(str, row)) for row in zip(*values, strict=True)]
    (folder / "table.csv").write_text("\n".join([",".join(columns), *lines]))
    return StudyResult[ScalingNumbers].model_construct(study="scaling", verdict=verdict)


def test_an_earlier_study_of_the_lab_gives_the_laws_and_the_noise(
    tmp_path: Path, counts: dict[Size, SizeCounts]
) -> None:
    noise = StudyNoise(stem=0.004, own=0.010, length=0.013, origin="known")
    grid = grid_of(counts, sizes=tuple(counts), seeds=3, repeated=8, points=14)
    points = measured(grid, COUPLED, noise, 1)
    found = assumptions_of(tmp_path, study_in(tmp_path, points))
    additive, coupled = found.truths
    assert (additive.form, coupled.form) == ("additive", "coupled")
    np.testing.assert_allclose(
        coupled.law.at(points.params[coupled.count], points.tokens),
        COUPLED.law.at(points.params["params_total"], points.tokens),
        rtol=0.01,
    )
    assert found.noise.own == pytest.approx(noise.own, rel=0.15)
    assert found.noise.stem == pytest.approx(noise.stem, abs=0.003)
    # 14 lengths tell it to a fifth, the law takes two
    assert found.noise.length == pytest.approx(noise.length, rel=0.6)
    assert "lab" in found.noise.origin


def test_a_study_that_was_too_small_is_not_taken_for_the_truth(
    tmp_path: Path, counts: dict[Size, SizeCounts]
) -> None:
    points = measured(grid_of(counts), COUPLED, LAPTOP_NOISE, 1)
    small = assumptions_of(tmp_path, study_in(tmp_path, points, verdict=None))
    assert small == assumptions_of(tmp_path, None) == Assumptions(LAPTOP_TRUTHS, LAPTOP_NOISE)
    assert {truth.form for truth in small.truths} == {"additive", "coupled"}
