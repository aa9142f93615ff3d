"""The figures of a transfer study over several lengths: which runs each shows."""

from typing import Any

import numpy as np
import pytest

from windtunnel.laws.rate import RateLaw
from windtunnel.report.experiments.transfer import figures
from windtunnel.results.batch import BestBatch, FittedLaw
from windtunnel.results.study import StudyResult
from windtunnel.results.transfer import (
    Drifts,
    ParametrizationRates,
    SizeRate,
    TransferNumbers,
    TransferRow,
)
from windtunnel.scaling_recipe import rate_found

LENGTHS = (200_000, 800_000)


def size(width: int, batch: int, tokens: int, lr: float) -> SizeRate:
    return SizeRate(
        width=width,
        depth=2,
        params=width**2,
        tokens=tokens,
        batch=batch,
        best_loss=4.0,
        lr=lr,
        interval=(lr / 2, lr * 2),
        noise=0.01,
        regret=0.0,
    )


def row(tokens: int, batch: int, lr: float, loss: float) -> TransferRow:
    known: dict[str, Any] = {"run": "r", "kind": "branch", "source": "all", "seed": 0, "flops": 1}
    sizes: dict[str, Any] = {"params": 1024, "params_total": 2048, "width": 32, "depth": 2}
    return TransferRow(
        **known,
        **sizes,
        tokens=tokens,
        batch=batch,
        lr=lr,
        loss=loss,
        bits_per_byte=1.0,
        parametrization="minicpm",
    )


def drawn_of(rows: list[TransferRow], best: tuple[BestBatch, ...] = ()) -> list[tuple[str, Any]]:
    law = RateLaw(
        lr=0.01,
        params=1024,
        tokens=LENGTHS[0],
        batch=512,
        by_params=0.0,
        by_tokens=-0.5,
        by_batch=0.5,
        covariance=0.01 * np.eye(4),
    )
    rates = ParametrizationRates(
        sizes=tuple(size(32, batch, tokens, 0.01) for batch in (512, 2048) for tokens in LENGTHS),
        drift=Drifts(width=None, depth=None),
        law=rate_found(law),
        best_batches=best,
        batch_law=FittedLaw(constants={"c": 1.0, "p": 0.5}, intervals={}) if best else None,
        passes=False,
    )
    numbers = TransferNumbers(
        tokens=LENGTHS[1],
        batch=512,
        lengths=LENGTHS,
        batches=(512, 2048),
        seeds=(1,),
        parametrizations={"minicpm": rates},
    )
    result = StudyResult[TransferNumbers](
        study="transfer", verdict=None, summary="", runs=(), numbers=numbers
    )
    return figures(result, rows)


@pytest.fixture
def drawn() -> list[tuple[str, Any]]:
    return drawn_of(
        [
            row(LENGTHS[0], 512, 0.01, 5.0),
            row(LENGTHS[1], 512, 0.02, 4.0),
            row(LENGTHS[1], 2048, 0.03, 4.5),
        ]
    )


def bowls_of(drawn: list[tuple[str, Any]]) -> list[tuple[list[float], list[float]]]:
    """(rates, losses) of the runs in each panel."""
    found = []
    for panel in drawn[0][1]:
        runs = [trace for trace in panel.data if trace.customdata is not None]
        found += [(list(trace.x), list(trace.y)) for trace in runs]
    return found


def test_each_length_has_its_bowls_with_the_first_batch(drawn: list[tuple[str, Any]]) -> None:
    assert bowls_of(drawn) == [([0.01], [5.0]), ([0.02], [4.0])]
    titles = [panel.layout.title.text for panel in drawn[0][1]]
    assert titles == ["minicpm, 200k tokens", "minicpm, 800k tokens"]


def test_the_optimum_stands_on_its_bowl_with_its_interval(drawn: list[tuple[str, Any]]) -> None:
    best = [trace for trace in drawn[0][1][1].data if trace.name == "best rate of 32x2"]
    assert [(list(one.x), list(one.y)) for one in best] == [([0.01], [4.0])]
    assert (best[0].error_x.array[0], best[0].error_x.arrayminus[0]) == (0.01, 0.005)


def test_a_run_that_ends_at_a_whole_step_is_of_the_length_that_was_asked_for() -> None:
    """200,000 and 800,000 tokens are 390.6 and 1,562.5 steps of 512."""
    drawn = drawn_of([row(390 * 512, 512, 0.01, 5.0), row(1562 * 512, 512, 0.02, 4.0)])
    assert bowls_of(drawn) == [([0.01], [5.0]), ([0.02], [4.0])]


def test_the_best_rate_along_the_length_has_the_law_beside_it(
    drawn: list[tuple[str, Any]],
) -> None:
    assert len(drawn) == 2, "of a single width there is nothing to compare over widths"
    lines = [trace for trace in drawn[1][1].data if trace.mode == "lines"]
    assert [trace.name for trace in lines] == ["32x2, batch 512", "32x2, batch 2,048"]
    assert list(lines[0].y) == pytest.approx([0.01, 0.005])
    assert list(lines[1].y) == pytest.approx([0.02, 0.01])


def test_the_best_batch_along_the_length_has_its_law_and_only_what_was_measured() -> None:
    best = (
        BestBatch(loss=5.0, where="inside", batch=500.0, interval=(400.0, 700.0), tokens=2e5),
        BestBatch(loss=4.0, where="above", batch=None, interval=None, tokens=8e5),
    )
    _, figure = drawn_of([row(LENGTHS[0], 512, 0.01, 5.0)], best)[-1]
    points, law = figure.data
    assert (list(points.x), list(points.y)) == ([2e5], [500.0])
    assert (points.error_y.array[0], points.error_y.arrayminus[0]) == (200.0, 100.0)
    assert law.name == "bs = 1 D^0.50"
    assert list(law.y) == pytest.approx([2e5**0.5, 8e5**0.5])
