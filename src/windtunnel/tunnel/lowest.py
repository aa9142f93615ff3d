"""Where a curve of four powers is lowest: a bowl of the loss over the logarithm of a setting."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lowest(curves: Array, around: Array) -> Array:
    """Where curves (n, 4), of the coefficients of u, u^2, u^3 and u^4, are lowest among the evenly
    spaced points `around`; within, at the vertex of the parabola through that point and its
    neighbours.
    """
    heights = curves @ np.stack([around**power for power in (1, 2, 3, 4)])
    at = heights.argmin(1)
    inside = at.clip(1, len(around) - 2)
    rows = np.arange(len(curves))
    before, here, after = (heights[rows, inside + step] for step in (-1, 0, 1))
    step = around[1] - around[0]
    bend = np.maximum(before - 2 * here + after, np.finfo(float).tiny)
    vertex = around[inside] + (step * 0.5 * (before - after) / bend).clip(-step, step)
    return np.where(at == inside, vertex, around[at])
