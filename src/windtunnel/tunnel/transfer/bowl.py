"""A loss against the logarithm of one setting: nearly a parabola near its minimum, where that is,
and how surely.

No bowl is a parabola: rates that are too high cost more than rates that are too low. A parabola
through a skewed bowl has its vertex on the gentler side, and repeats only make that surer. So the
skew and the flatness are fitted too, held near zero by what bowls are known to have: where the
points can tell them, they follow the points; where the noise hides them, they widen the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.results.transfer import DriftFound
from windtunnel.tunnel.lowest import lowest

Array = NDArray[np.float64]

LEVEL = 0.9
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # quantiles
_DRAWS = 4000
_LEAST_ERROR = 1e-3  # octaves; a bowl without noise would weigh without end
# Standard deviations of the third and the fourth power's coefficient over the second's, x in
# octaves. Of 138 bowls of Step Law's runs (arXiv 2503.04715) the first is 0.35 about zero, beside
# what noise adds (`bench/bowls.py`). A bowl exp(s x) - s x - 1 with s = 1.2 has s / 3 and s^2 / 12.
_SKEW, _FLATNESS = 0.4, 0.12
# (median, standard deviation of the logarithm) of the noise of a run beside its seed's, nats/token:
# the prior of the search's surface. One seed alone would fit any noise away.
_NOISE = (0.005, 1.0)
_NOISES = np.exp(np.linspace(-4, 4, 65))  # over the median
_FINE = 201  # points at which a curve is looked at for its lowest one


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """loss = c_group + curvature (x - vertex)^2, near the vertex. `vertices`: draws of the vertex,
    for whatever is computed from it.
    """

    vertex: float
    interval: tuple[float, float]  # 90%
    loss: float  # nats/token at the vertex, the mean over the groups
    curvature: float  # nats/token per squared unit of x
    noise: float  # standard deviation of a run, nats/token
    vertices: Array

    @property
    def spread(self) -> float:
        """Standard error of the vertex, from the draws' inner two thirds."""
        low, high = np.quantile(self.vertices, [1 / 6, 5 / 6])
        return float(high - low) / 2

    def regret(self, x: float) -> float:
        """What the loss is above its minimum at `x`."""
        return self.curvature * (x - self.vertex) ** 2


def bowl(x: Sequence[float], loss: Sequence[float], group: Sequence[int]) -> Bowl | None:
    """Fitted with one constant a group (a seed), so that what all points of a seed share is no
    noise. Sequences of one length, a point each; `x` in octaves.

    None where the points do not curve upwards: then there is no minimum to speak of. A vertex is
    where the curve is lowest within the sampled range: nothing is known beyond. Raises ValueError
    for too few points to tell noise from a parabola.
    """
    xs, ys = np.asarray(x, float), np.asarray(loss, float)
    groups = np.unique(np.asarray(group), return_inverse=True)[1]
    # loss = c_group + slope u + curvature u^2 + ..., u = x - centre
    centre = float(xs.mean())
    constants = np.eye(groups.max() + 1)[groups]
    powers = np.stack([(xs - centre) ** power for power in (1, 2, 3, 4)], axis=1)
    parabola = np.column_stack([constants, powers[:, :2]])
    if len(xs) <= parabola.shape[1]:
        raise ValueError(
            f"{len(xs)} points can't tell a parabola of {parabola.shape[1]} parameters from noise"
        )
    curvature = float(np.linalg.lstsq(parabola, ys, rcond=None)[0][-1])
    if curvature <= 0:
        return None
    curves = _Curves.of(np.column_stack([constants, powers]), ys - ys.mean(), curvature)
    around = np.linspace(xs.min(), xs.max(), _FINE) - centre
    vertices = centre + lowest(curves.drawn(), around)
    low, high = np.quantile(vertices, _ENDS)
    vertex = float(lowest(curves.mean[None], around)[0])
    _, second, third, fourth = curves.mean
    # as far as the points lie above the curve that leaves out the constants
    rest = ys - powers @ curves.mean
    above = float((rest @ constants / constants.sum(0)).mean())
    return Bowl(
        vertex=centre + vertex,
        interval=(float(low), float(high)),
        loss=above + float(vertex ** np.arange(1, 5) @ curves.mean),
        # half of the second derivative there
        curvature=float(second + 3 * third * vertex + 6 * fourth * vertex**2),
        noise=curves.noise,
        vertices=vertices,
    )


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """What the points say of the coefficients of u, u^2, u^3 and u^4, for each candidate of the
    noise.
    """

    weights: Array  # (noises,): posterior probabilities
    noises: Array  # (noises,): standard deviations, nats/token
    means: Array  # (noises, 4)
    covariances: Array  # (noises, 4, 4)

    @classmethod
    def of(cls, design: Array, losses: Array, curvature: float) -> "_Curves":
        """By Bayes: constants, slope and curvature are free, skew and flatness normal about zero.
        `design` (points, constants and 4 powers).
        """
        precision = np.zeros(design.shape[1])
        precision[-2:] = 1 / (np.array([_SKEW, _FLATNESS]) * curvature) ** 2
        median, spread = _NOISE
        noises = median * _NOISES
        normal = design.T @ design / noises[:, None, None] ** 2 + np.diag(precision)
        moment = design.T @ losses / noises[:, None] ** 2
        means = np.linalg.solve(normal, moment[..., None])[..., 0]
        squares = ((losses - means @ design.T) ** 2).sum(1) / noises**2
        # log of the posterior of the noise, the coefficients integrated out, up to a constant
        logs = -0.5 * (squares + (precision * means**2).sum(1) + np.linalg.slogdet(normal)[1])
        logs -= len(losses) * np.log(noises) + 0.5 * (np.log(_NOISES) / spread) ** 2
        weights = np.exp(logs - logs.max())
        covariances = np.linalg.inv(normal)[:, -4:, -4:]
        return cls(
            weights=weights / weights.sum(),
            noises=noises,
            means=np.asarray(means[:, -4:], float),
            covariances=np.asarray(covariances, float),
        )

    @property
    def mean(self) -> Array:
        """(4,), over all candidates of the noise."""
        return self.weights @ self.means

    @property
    def noise(self) -> float:
        """The posterior's mean, nats/token."""
        return float(self.weights @ self.noises)

    def drawn(self) -> Array:
        """(draws, 4): curves as they might as well be."""
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(self.weights), _DRAWS, p=self.weights)
        normal = rng.standard_normal((_DRAWS, 4, 1))
        roots = np.linalg.cholesky(self.covariances)[chosen]
        return self.means[chosen] + (roots @ normal)[..., 0]


def drift(x: Sequence[float], bowls: Sequence[Bowl]) -> DriftFound:
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
    return DriftFound(slope=slope, interval=(slope + float(low), slope + float(high)))
