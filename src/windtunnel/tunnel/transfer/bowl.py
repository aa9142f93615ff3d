"""A loss against the logarithm of one setting: a parabola near its minimum, where that is, and
how surely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS = 4000
LEVEL = 0.9


@dataclass(frozen=True)
class Bowl:
    """loss = c_group + curvature (x - vertex)^2. `vertices`: draws of the vertex, for whatever is
    computed from it.
    """

    vertex: float
    interval: tuple[float, float]  # 90%
    curvature: float  # nats/token per squared unit of x
    noise: float  # residual standard deviation, nats/token
    vertices: NDArray[np.float64]

    @property
    def spread(self) -> float:
        """Standard error of the vertex, from the draws' inner two thirds."""
        low, high = np.quantile(self.vertices, [1 / 6, 5 / 6])
        return float(high - low) / 2

    def regret(self, x: float) -> float:
        """What the loss is above its minimum at `x`."""
        return self.curvature * (x - self.vertex) ** 2


def bowl(x: Sequence[float], loss: Sequence[float], group: Sequence[int]) -> Bowl | None:
    """Least squares with one constant a group (a seed), so that what all points of a seed share
    is no noise.

    None where the points do not curve upwards: then there is no minimum to speak of. Draws of the
    vertex that fall outside of the sampled range are set to its border: nothing is known beyond.
    """
    xs, ys, groups = (
        np.asarray(x, float),
        np.asarray(loss, float),
        np.unique(np.asarray(group), return_inverse=True)[1],
    )
    centre = xs.mean()
    design = np.column_stack([np.eye(groups.max() + 1)[groups], xs - centre, (xs - centre) ** 2])
    free = len(xs) - design.shape[1]
    if free < 1:
        raise ValueError(
            f"{len(xs)} points can't tell a parabola of {design.shape[1]} parameters from noise"
        )
    fitted, *_ = np.linalg.lstsq(design, ys, rcond=None)
    if fitted[-1] <= 0:
        return None
    variance = float(((ys - design @ fitted) ** 2).sum() / free)
    covariance = variance * np.linalg.inv(design.T @ design)[-2:, -2:]
    rng = np.random.default_rng(0)  # draws of Student's t: a normal over the root of a mean square
    scale = np.sqrt(rng.chisquare(free, (_DRAWS, 1)) / free)
    noise = rng.multivariate_normal([0.0, 0.0], covariance, _DRAWS) / scale
    slope, curvature = (fitted[-2:] + noise).T
    low, high = xs.min(), xs.max()
    outward = np.where(slope > 0, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.where(curvature > 0, centre - slope / (2 * curvature), outward).clip(low, high)
    vertex = float(np.clip(centre - fitted[-2] / (2 * fitted[-1]), low, high))
    ends = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Bowl(vertex, (float(ends[0]), float(ends[1])), float(fitted[-1]), variance**0.5, draws)


@dataclass(frozen=True)
class Drift:
    """Slope of the vertices against x, with its 90% interval."""

    slope: float
    interval: tuple[float, float]


def drift(x: Sequence[float], bowls: Sequence[Bowl]) -> Drift:
    """Weighted slope of the bowls' vertices against `x` (octaves of width: octaves of lr an
    octave).

    The interval holds the vertices' own errors; where they scatter about the line more than those
    say, it is widened by the root of chi square over its degrees of freedom (Birge).
    """
    xs, ys = np.asarray(x, float), np.array([b.vertex for b in bowls])
    errors = np.array([max(b.spread, 1e-3) for b in bowls])
    weights = 1 / errors**2
    mean = (weights * xs).sum() / weights.sum()
    lever = weights * (xs - mean) / (weights * (xs - mean) ** 2).sum()
    slope = float(lever @ ys)
    offset = ys - slope * xs
    chi = float((weights * (offset - (weights * offset).sum() / weights.sum()) ** 2).sum()) / max(
        1, len(xs) - 2
    )
    deviations = np.stack([b.vertices - np.median(b.vertices) for b in bowls])
    shuffled = np.stack(
        [np.random.default_rng(i).permutation(row) for i, row in enumerate(deviations)]
    )
    draws = lever @ shuffled * max(1.0, chi**0.5)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Drift(slope, (slope + float(low), slope + float(high)))
