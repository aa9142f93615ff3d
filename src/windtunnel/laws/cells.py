"""Points that lie close together taken as one: a law is all but straight across a small cell, and
fits to some hundred cells cost the same however many points a table has.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from windtunnel.laws.fit import LossData
from windtunnel.laws.loss import Array

_HALVINGS = 7  # 128 cells


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A table's points by cells, whose weights add up."""

    order: NDArray[np.int64]  # (n,): the points, cell after cell
    begin: NDArray[np.int64]  # (cells,): where each begins in that order
    weights: Array  # (n,): of the points

    @classmethod
    def of(cls, data: LossData) -> "Cells":
        """Of one table with more points than cells: halved at the median of its size or of its
        length, whichever spreads farther, again and again.
        """
        at = np.stack([data.x, data.y])
        at /= np.ptp(at, axis=1, keepdims=True).clip(1e-300)
        cells = [np.arange(len(data.x))]
        for _ in range(_HALVINGS):
            halved = []
            for cell in cells:
                halved += _halves(at, cell)
            cells = halved
        ends = np.cumsum([len(cell) for cell in cells])
        return cls(order=np.concatenate(cells), begin=np.append(0, ends[:-1]), weights=data.weights)

    def mean(self, values: Array) -> Array:
        """Weighted means (..., cells) of values (..., n)."""
        return self._sum(values * self.weights) / self._sum(self.weights)

    def gathered(self, data: LossData) -> LossData:
        """The table of these cells; losses are means of the points'."""
        return replace(
            data,
            x=self.mean(data.x),
            y=self.mean(data.y),
            loss=self.mean(data.loss),
            weights=self._sum(self.weights),
        )

    def _sum(self, values: Array) -> Array:
        return np.add.reduceat(values[..., self.order], self.begin, axis=-1)


def _halves(at: Array, cell: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The two halves of a cell's points (k,), k at least 2; `at`: where all points lie (2, n)."""
    within = at[:, cell]
    widest = int(np.ptp(within, axis=1).argmax())
    ordered = cell[np.argsort(within[widest], kind="stable")]
    middle = len(cell) // 2
    return [ordered[:middle], ordered[middle:]]
