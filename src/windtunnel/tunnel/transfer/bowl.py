"""A loss against the logarithm of one setting: a parabola near its minimum, where that is, and
how surely.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRAWS = 4000
LEVEL = 0.9
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # quantiles
_LEAST_ERROR = 1e-3  # octaves; a bowl without noise would weigh without end


@dataclass(frozen=True, kw_only=True)
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
    is no noise. Sequences of one length, a point each.

    None where the points do not curve upwards: then there is no minimum to speak of. Draws of the
    vertex that fall outside of the sampled range are set to its border: nothing is known beyond.
    Raises ValueError for too few points to tell noise from a parabola.
    """
    xs, ys = np.asarray(x, float), np.asarray(loss, float)
    groups = np.unique(np.asarray(group), return_inverse=True)[1]
    # loss = c_group + slope (x - centre) + curvature (x - centre)^2
    centre = xs.mean()
    constants = np.eye(groups.max() + 1)[groups]
    design = np.column_stack([constants, xs - centre, (xs - centre) ** 2])
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
    drawn = fitted[-2:] + _student(covariance, free)
    vertices = _vertices(drawn, centre, float(xs.min()), float(xs.max()))
    low, high = np.quantile(vertices, _ENDS)
    vertex = np.clip(centre - fitted[-2] / (2 * fitted[-1]), xs.min(), xs.max())
    return Bowl(
        vertex=float(vertex),
        interval=(float(low), float(high)),
        curvature=float(fitted[-1]),
        noise=variance**0.5,
        vertices=vertices,
    )


def _student(covariance: NDArray[np.floating[Any]], free: int) -> NDArray[np.float64]:
    """Draws of Student's t, (draws, n): a normal over the root of a mean square, since the
    variance is itself known from so many degrees of freedom.
    """
    rng = np.random.default_rng(0)
    scale = np.sqrt(rng.chisquare(free, (_DRAWS, 1)) / free)
    return rng.multivariate_normal(np.zeros(len(covariance)), covariance, _DRAWS) / scale


def _vertices(
    drawn: NDArray[np.float64], centre: float, low: float, high: float
) -> NDArray[np.float64]:
    """Where parabolas of (draws, 2), slope at the centre and curvature, have their minimum within
    the range; one that does not curve upwards has it at the end to which it falls.
    """
    slope, curvature = drawn.T
    outward = np.where(slope > 0, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = centre - slope / (2 * curvature)
    return np.where(curvature > 0, inner, outward).clip(low, high)


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
    errors = np.array([max(b.spread, _LEAST_ERROR) for b in bowls])
    weights = 1 / errors**2
    mean = (weights * xs).sum() / weights.sum()
    # the slope is lever . ys: linear in the vertices, so that draws of them give draws of it
    lever = weights * (xs - mean) / (weights * (xs - mean) ** 2).sum()
    slope = float(lever @ ys)
    offset = ys - slope * xs
    residual = offset - (weights * offset).sum() / weights.sum()
    chi = float((weights * residual**2).sum()) / max(1, len(xs) - 2)
    # every bowl's draws are of the same random numbers; shuffled they are independent
    shuffled = []
    for i, each in enumerate(bowls):
        deviations = each.vertices - np.median(each.vertices)
        shuffled.append(np.random.default_rng(i).permutation(deviations))
    draws = lever @ np.stack(shuffled) * max(1.0, chi**0.5)
    low, high = np.quantile(draws, _ENDS)
    return Drift(slope, (slope + float(low), slope + float(high)))
