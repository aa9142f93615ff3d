"""Simulated studies: the noise that was asked for is the noise that comes out, and is found again
in a table.
"""

from dataclasses import replace

import numpy as np
import pytest
from dry_runs import COUPLED, SIZES, grid_of

from windtunnel.data.shards import Corpus
from windtunnel.laws.loss import LossLaw
from windtunnel.results.dry_run import StudyNoise
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.simulate import (
    SimulatedStudy,
    achieved,
    determined,
    expectation_of,
    measured,
)

QUIET = StudyNoise(stem=0, own=0, length=0, origin="none")
LOUD = StudyNoise(stem=0.01, own=0.02, length=0.03, origin="loud")


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> dict[Size, SizeCounts]:
    return {size: counts_of(corpus, size) for size in SIZES}


def test_without_noise_the_points_lie_on_the_law_at_exact_counts(
    counts: dict[Size, SizeCounts],
) -> None:
    points = measured(grid_of(counts), COUPLED, QUIET, 0)
    assert len(points) == 7 * 7
    np.testing.assert_allclose(
        points.loss, COUPLED.law.at(points.params["params_total"], points.tokens)
    )
    assert set(points.params["params"]) == {counts[size].counts.params for size in Design().sizes}
    assert set(points.stem[points.seed == 1]) == {1, 3}


def test_what_two_designs_share_has_the_same_noise_in_the_same_draw(
    counts: dict[Size, SizeCounts],
) -> None:
    one = measured(grid_of(counts), COUPLED, LOUD, 5)
    other = measured(
        grid_of(counts, sizes=(Size(16, 2), Size(80, 4), Size(96, 4)), repeated=0), COUPLED, LOUD, 5
    )
    for size in (Size(16, 2), Size(96, 4)):
        of_one, of_other = (
            p.loss[(p.params["params_total"] == counts[size].counts.params_total) & (p.seed == 0)]
            for p in (one, other)
        )
        np.testing.assert_array_equal(of_one, of_other)
    assert not np.array_equal(one.loss, measured(grid_of(counts), COUPLED, LOUD, 6).loss)


def test_the_noise_has_the_parts_that_were_asked_for(counts: dict[Size, SizeCounts]) -> None:
    grid = grid_of(counts, sizes=tuple(counts), seeds=2, repeated=8)
    off = np.array(
        [
            measured(grid, COUPLED, LOUD, i).loss.reshape(16, 7) - grid.losses(COUPLED)
            for i in range(400)
        ]
    )
    assert off.mean(1).std() == pytest.approx((0.03**2 + (0.02**2 + 0.01**2) / 16) ** 0.5, rel=0.05)
    apart = off - off.mean(1, keepdims=True)
    assert apart.mean(2).std() == pytest.approx(
        (0.01**2 + 0.02**2 / 7) ** 0.5 * (15 / 16) ** 0.5, rel=0.05
    )
    assert (apart - apart.mean(2, keepdims=True)).std() == pytest.approx(
        0.02 * (6 / 7 * 15 / 16) ** 0.5, rel=0.05
    )
    again = [achieved(counts[Size(96, 4)], 10**6, COUPLED, LOUD, i) for i in range(2000)]
    assert np.std(again) == pytest.approx((0.03**2 + 0.02**2 + 0.01**2) ** 0.5, rel=0.06)


def simulated(
    predicted: float, half: float, actual: float, law: LossLaw = COUPLED.law
) -> SimulatedStudy:
    return SimulatedStudy(
        truth=COUPLED,
        predicted=predicted,
        interval50=(predicted - half / 2, predicted + half / 2),
        interval90=(predicted - half, predicted + half),
        actual=actual,
        law=law,
    )


def test_an_expectation_counts_what_the_intervals_held() -> None:
    expected = expectation_of([simulated(4.0, 0.1, actual) for actual in (4.0, 4.04, 4.08, 4.2)])
    assert (expected.coverage50, expected.coverage90) == (0.5, 0.75)
    assert (
        expected.width90
        == pytest.approx(2 * expected.width50)
        == pytest.approx(0.2 / 4.06, rel=0.01)
    )
    assert expected.error[0] < expected.error[1] < expected.error[2] <= 0


def test_what_the_fits_say_of_an_exponent() -> None:
    laws = [replace(COUPLED.law, alpha=COUPLED.law.alpha * share) for share in (0.8, 1.0, 1.2)]
    found = determined([simulated(4, 0.1, 4, law) for law in laws])
    assert found["N's exponent"].truth == pytest.approx(0.9 * 0.163)
    assert found["N's exponent"].spread == pytest.approx(
        0.18, rel=0.01
    )  # inner 90% of a fifth to either side
    assert found["D's exponent"].spread == 0
    assert "E" not in found, "the coupled law has none"
