"""The whole transfer study upon bowls that are known: where it finds them, and what it says of
them.
"""

import math
from typing import Any

import pytest
from known_fleet import known

from windtunnel.data.shards import Corpus
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.results.transfer import TRANSFER, SizeRate, TransferNumbers
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.transfer import grid
from windtunnel.tunnel.transfer import transfer as study
from windtunnel.tunnel.transfer.design import Design

DESIGN = Design(
    widths=(32, 64, 128, 256), lengths=(204_800, 409_600), batches=(1024, 256), seeds=(2,)
)
CURVATURE, DEEP = 0.03, -0.2  # nats by octaves of the rate; octaves of it an octave of depth
DRIFT = {"minicpm": 0.1, "standard": -0.8}  # octaves of the rate an octave of width


def best_rate(run: Run) -> float:
    model = run.recipe.model
    drift = DRIFT[model.parametrization]
    octaves = drift * math.log2(model.width / 32) + DEEP * math.log2(model.depth / 2)
    return 0.013 * 2**octaves


def loss(run: Run) -> float:
    """Seeds lie 0.05 nats apart."""
    off = math.log2(run.recipe.optimizer.lr / best_rate(run))
    return 4 + CURVATURE * off**2 + 0.05 * run.recipe.seed


@pytest.fixture(scope="module")
def found(make_lab: Any, corpus: Corpus) -> StudyResult[TransferNumbers]:
    lab = make_lab()
    with pytest.MonkeyPatch.context() as patch:
        known(patch, grid, loss)
        study.transfer(lab.path, corpus, DESIGN, Watch())
    # every row has the rate that its run was trained with
    for row in read_table(lab.path, TRANSFER):
        recipe = (lab.path / "runs" / row.run / "recipe.toml").read_text()
        assert f"lr = {row.lr:g}" in recipe
    return read_study(lab.path, TRANSFER)


def by_size(numbers: TransferNumbers, name: str) -> dict[tuple[int, int], SizeRate]:
    return {(size.width, size.depth): size for size in numbers.parametrizations[name].sizes}


def test_the_best_rate_of_every_size_is_the_true_one(
    found: StudyResult[TransferNumbers],
) -> None:
    for name, drift in DRIFT.items():
        for (width, depth), size in by_size(found.numbers, name).items():
            octaves = drift * math.log2(width / 32) + DEEP * math.log2(depth / 2)
            assert size.lr == pytest.approx(0.013 * 2**octaves, rel=0.01)
            assert size.interval and size.noise is not None
            assert size.interval[0] <= size.lr <= size.interval[1] < 1.05 * size.interval[0]
            assert size.noise < 0.001, "what a seed shares is no noise of its runs"
            # what the best rate of the smallest would cost here
            assert size.regret == pytest.approx(CURVATURE * octaves**2, abs=2e-4)
            assert size.best_loss == pytest.approx(4.0, abs=0.003)


def test_drifts_are_octaves_of_the_rate_an_octave_of_size(
    found: StudyResult[TransferNumbers],
) -> None:
    for name, drift in DRIFT.items():
        told = found.numbers.parametrizations[name].drift
        assert told.width and told.depth
        assert told.width.slope == pytest.approx(drift, abs=0.005)
        assert told.depth.slope == pytest.approx(DEEP, abs=0.01)
        low, high = told.width.interval
        assert low <= drift <= high < low + 0.05
    assert found.verdict == "pass" and not found.numbers.parametrizations["standard"].passes
