"""Points by cells: none is lost, close ones come together, and sums are theirs."""

import numpy as np
import pytest

from windtunnel.laws.cells import Cells
from windtunnel.laws.fit import LossData


def table(points: int, seed: int = 0) -> LossData:
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(np.log(1e7), np.log(3e9), points))
    d = np.exp(rng.uniform(np.log(2e8), np.log(1e11), points))
    return LossData.of(n, d, 2 + rng.random(points), 0.5 + rng.random(points))


def test_every_point_is_in_one_cell_and_cells_are_of_one_size() -> None:
    cells = Cells.of(table(1000))
    assert sorted(cells.order) == list(range(1000))
    counts = np.diff(np.append(cells.begin, 1000))
    assert len(counts) == 128 and set(counts) <= {7, 8}


def test_a_cell_is_small() -> None:
    """Of points spread evenly over a square a cell of a 128th has a side of about an eleventh."""
    data = table(4000)
    cells = Cells.of(data)
    x, y = data.x[cells.order], data.y[cells.order]
    for values in (x, y):
        high, low = (ufunc.reduceat(values, cells.begin) for ufunc in (np.maximum, np.minimum))
        share = (high - low) / np.ptp(values)
        assert 0.05 < np.median(share) < 0.15 and share.max() < 0.3


def test_the_table_of_the_cells_has_the_means_and_weights_of_their_points() -> None:
    data = table(500)
    cells = Cells.of(data)
    gathered = cells.gathered(data)
    first = cells.order[: cells.begin[1]]
    weights = data.weights[first]
    for name in ("x", "y", "loss"):
        of_points = getattr(data, name)[first]
        assert getattr(gathered, name)[0] == pytest.approx(np.average(of_points, weights=weights))
    assert gathered.weights[0] == pytest.approx(weights.sum())
    assert gathered.weights.sum() == pytest.approx(data.weights.sum())
    many = np.random.default_rng(1).random((3, 500))
    assert cells.mean(many)[2, 0] == pytest.approx(np.average(many[2, first], weights=weights))


def test_many_points_at_the_same_places_are_cells_too() -> None:
    """Five sizes at five lengths, sixteen seeds each: 25 places for 128 cells."""
    n, d = np.repeat(np.geomspace(1e7, 1e9, 5), 80), np.tile(np.geomspace(1e9, 1e11, 5), 80)
    data = LossData.of(n, d, np.full(400, 3.0))
    gathered = Cells.of(data).gathered(data)
    assert len(gathered.x) == 128 and gathered.weights.sum() == pytest.approx(400)
    assert np.isin(gathered.x.round(6), data.x.round(6)).mean() > 0.7
