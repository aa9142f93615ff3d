"""The loss as a smooth function of a few settings, known from noisy runs: a Gaussian process that
knows its noise.

A run's loss is f(point) + an effect that all runs of its seed share + an effect of this point
with this seed. f has a Matern-5/2 kernel with a length in octaves for each setting (Rasmussen and
Williams, Gaussian Processes, eq. 4.17).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from windtunnel.tunnel.search.space import Octaves, Space

Vector = NDArray[np.float64]

_SCALE = 0.25  # nats above the best where losses begin to count less
_JITTER = 1e-7  # of the prior variance, on the diagonal: else rounding can make it indefinite
_SLICES = 32  # values of a setting over which the others' means are taken
# (median, standard deviation of the logarithm) of the log-normal priors
_LENGTH = (3.0, 0.7)  # octaves
_HEIGHT = (0.3, 1.0)  # nats
_SEED = (0.012, 0.7)  # nats; what all runs of a seed share
_RUN = (0.005, 1.0)  # nats; what point and seed do together
_LEAST_NOISE = 1e-4  # nats; without any the surface would go through every point
Z90 = 1.6449  # half of a 90% interval, in standard deviations


@dataclass(frozen=True)
class TrialNoise:
    """Standard deviations in nats/token."""

    seed: float  # what all runs of a seed share
    run: float  # what is left between runs of one point when that is taken away


@dataclass(frozen=True)
class Surface:
    """The posterior of f. Heights are losses up to `_SCALE` or so above the best measured one,
    and compressed beyond that by a logarithm: how bad the bad points are must not bend the
    surface about the good ones.
    """

    points: Octaves
    heights: Vector
    lengths: Vector  # octaves
    height: float  # prior standard deviation of f
    noise: TrialNoise
    floor: float  # the best measured loss
    _seeds: NDArray[np.int64]
    _level: float = field(init=False)
    _factor: tuple[Vector, bool] = field(init=False)
    _weights: Vector = field(init=False)

    def __post_init__(self) -> None:
        # The level is the prior mean, by generalised least squares: 1 K^-1 y / 1 K^-1 1. What
        # every question needs, K = L L^T and K^-1 (y - level), is computed once.
        covariance = self._kernel(self.points, self.points) + _between_runs(self._seeds, self.noise)
        factor = cho_factor(covariance, lower=True)
        ones = np.ones(len(self.points))
        level = float(ones @ cho_solve(factor, self.heights) / (ones @ cho_solve(factor, ones)))
        object.__setattr__(self, "_level", level)
        object.__setattr__(self, "_factor", factor)
        object.__setattr__(self, "_weights", cho_solve(factor, self.heights - level))

    def mean(self, at: Octaves) -> Vector:
        """Posterior mean of the height at (n, settings)."""
        return self._level + self._kernel(at, self.points) @ self._weights

    def covariance(self, at: Octaves) -> Vector:
        """Posterior covariance (n, n) of f."""
        across = self._kernel(at, self.points)
        return self._kernel(at, at) - across @ cho_solve(self._factor, across.T)

    def draws(self, at: Octaves, count: int, rng: np.random.Generator) -> Vector:
        """Joint draws of f, (count, n)."""
        covariance = self.covariance(at) + self.height**2 * _JITTER * np.eye(len(at))
        root = cholesky(covariance, lower=True)
        return self.mean(at) + rng.standard_normal((count, len(at))) @ root.T

    def above(self, at: Vector, reference: Vector) -> tuple[float, float, float]:
        """f(at) - f(reference), in nats/token, and its 90% interval; points of shape
        (settings,).
        """
        both = np.stack([at, reference])
        here, there = self.mean(both)
        (own, shared), (_, other) = self.covariance(both)
        # the variance of a difference; a hair below zero where the two points are the same
        error = Z90 * math.sqrt(max(0.0, own + other - 2 * shared))
        base = self.loss(there)
        low, high = self.loss(here - error), self.loss(here + error)
        return self.loss(here) - base, low - base, high - base

    def loss(self, height: float) -> float:
        """Nats/token at a height."""
        above = height - self.floor
        return self.floor + (_SCALE * math.expm1(above / _SCALE) if above > 0 else above)

    def _kernel(self, a: Octaves, b: Octaves) -> Vector:
        return self.height**2 * _matern(a, b, self.lengths)


def fit_surface(
    points: Octaves, losses: Sequence[float], seeds: Sequence[int], noise: TrialNoise | None = None
) -> Surface:
    """The surface through runs: points (n, settings) in octaves, their losses, the seed of each.

    A run that diverged comes with the loss of the worst that did not (censored: it is no better
    than that). The noise is what has been measured, or else what is most likely together with the
    lengths (maximum a posteriori).
    """
    measured = np.asarray(losses, float)
    codes = np.unique(np.asarray(seeds), return_inverse=True)[1]
    floor = float(measured.min())
    heights = floor + _SCALE * np.log1p((measured - floor) / _SCALE)

    def surface(logs: Vector) -> Surface:
        *lengths, height, seed, run = np.exp(logs)
        known = noise or TrialNoise(float(seed), float(run))
        return Surface(points, heights, np.array(lengths), float(height), known, floor, codes)

    priors = [*[_LENGTH] * points.shape[1], _HEIGHT, _SEED, _RUN]
    centre = np.log([median for median, _ in priors])
    spread = np.array([deviation for _, deviation in priors])

    def unlikely(logs: Vector) -> tuple[float, Vector]:
        value, gradient = minus_log_likelihood(surface(logs))
        if noise:
            gradient[-2:] = 0.0  # measured: only the prior has a say, which leaves them alone
        away = (logs - centre) / spread
        return value + 0.5 * float(away @ away), gradient + away / spread

    bounds = list(zip(centre - 4 * spread, centre + 4 * spread, strict=True))
    starts = [centre + shift * spread for shift in (0.0, -1.0, 1.0)]
    found = []
    for start in starts:
        found.append(minimize(unlikely, start, jac=True, method="L-BFGS-B", bounds=bounds))
    return surface(min(found, key=lambda one: one.fun).x)


def noise_of(losses: Sequence[Sequence[float]]) -> TrialNoise | None:
    """The noise in tables of losses, (points, seeds), every point with the same seeds: two-way
    analysis of variance.

    None where nothing can be told: it takes two points and two seeds.
    """
    table = np.asarray(losses, float)
    if table.ndim != 2 or min(table.shape) < 2:
        return None
    rows, columns = table.shape
    # loss = point + seed + rest; the mean squares of the last two, by their degrees of freedom
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    run = float((rest**2).sum() / ((rows - 1) * (columns - 1)))
    seed = max(0.0, float(table.mean(0).var(ddof=1)) - run / rows)
    return TrialNoise(max(math.sqrt(seed), _LEAST_NOISE), max(math.sqrt(run), _LEAST_NOISE))


def minus_log_likelihood(surface: Surface) -> tuple[float, Vector]:
    """Of the measured heights, up to a constant, and its gradient by the logarithms of the
    lengths, the height, the seeds' noise and the runs' (Rasmussen and Williams, eq. 5.8 and
    5.9).
    """
    factor, weights = surface._factor, surface._weights
    residual = surface.heights - surface._level
    value = 0.5 * float(residual @ weights) + float(np.log(np.diag(factor[0])).sum())
    # d/dt of the value is tr(inner dK/dt) / 2, with inner = K^-1 - (K^-1 y)(K^-1 y)^T
    inner = cho_solve(factor, np.eye(len(residual))) - np.outer(weights, weights)
    squares = ((surface.points[:, None] - surface.points[None]) / surface.lengths) ** 2
    distance = np.sqrt(5 * squares.sum(axis=-1))
    slope = surface.height**2 * 5 / 3 * (1 + distance) * np.exp(-distance)
    by_length = np.einsum("ij,ij,ijk->k", inner, slope, squares)
    by_height = 2 * (inner * surface._kernel(surface.points, surface.points)).sum()
    by_seed = 2 * surface.noise.seed**2 * (inner * _same(surface._seeds)).sum()
    by_run = 2 * surface.noise.run**2 * np.trace(inner)
    return value, 0.5 * np.array([*by_length, by_height, by_seed, by_run])


def _matern(a: Octaves, b: Octaves, lengths: Vector) -> Vector:
    """(1 + r + r^2/3) exp(-r), r = sqrt(5) |a - b| in lengths (eq. 4.17), (a, b)."""
    distance = math.sqrt(5) * cdist(a / lengths, b / lengths)
    return (1 + distance + distance**2 / 3) * np.exp(-distance)


def _between_runs(seeds: NDArray[np.int64], noise: TrialNoise) -> Vector:
    return noise.seed**2 * _same(seeds) + noise.run**2 * np.eye(len(seeds))


def _same(seeds: NDArray[np.int64]) -> Vector:
    return (seeds[:, None] == seeds[None, :]).astype(float)


# What is read off a surface


@dataclass(frozen=True)
class Profile:
    """A bowl: nats/token above the chosen point as one setting moves and the others are at their
    best for it.
    """

    octaves: Vector
    above: list[tuple[float, float, float]]  # mean, and 90% interval of the difference
    best: tuple[float, float]  # where the best value of the setting lies with 90%, octaves


def profiles(
    surface: Surface, where: Space, chosen: Vector, values: int = 13, seed: int = 0
) -> list[Profile]:
    """One a setting, in the space's order; `chosen` (settings,) in octaves, `values` points a
    setting.
    """
    low, high = where.bounds
    dense = _dense(where, chosen, seed)
    # each draw of the whole surface has its best point: where these lie is where the best may lie
    drawn = surface.draws(dense, 1000, np.random.default_rng(seed))
    best = dense[drawn.argmin(axis=1)]
    result = []
    for i in range(len(low)):
        octaves = np.linspace(low[i], high[i], values)
        ends = np.quantile(best[:, i], [0.05, 0.95])
        above = [surface.above(_best_with(surface, dense, i, x), chosen) for x in octaves]
        result.append(Profile(octaves, above, (float(ends[0]), float(ends[1]))))
    return result


def importances(surface: Surface, where: Space, seed: int = 0) -> list[float]:
    """The share of the surface's variance over the space that each setting explains alone
    (first-order Sobol index of the posterior mean). What is missing to 1 the settings explain
    only together.
    """
    low, high = where.bounds
    others = where.spread(512, seed)
    whole = float(surface.mean(others).var())
    shares = []
    for i in range(len(low)):
        means = []
        for x in low[i] + (np.arange(_SLICES) + 0.5) * (high[i] - low[i]) / _SLICES:
            moved = others.copy()
            moved[:, i] = x
            means.append(surface.mean(moved).mean())
        shares.append(min(1.0, float(np.var(means)) / whole) if whole > 0 else 0.0)
    return shares


def expected_gain(
    surface: Surface, where: Space, chosen: Vector, counts: Sequence[int], seed: int = 0
) -> list[float]:
    """Nats/token that the best of so many further points would be below the chosen one, on
    average over the posterior.

    The points are those that together promise most (greedy batch expected improvement, over joint
    draws); half of the draws choose them, the other half say what they gain. Their losses are
    taken as known afterwards, so this is an upper bound of what more trials give.
    """
    draws = 1000  # to choose by, and as many to judge by: else the luckiest choice gains too much
    at = np.vstack([chosen[None], _dense(where, chosen, seed)])
    drawn = surface.draws(at, 2 * draws, np.random.default_rng(seed))
    gains = np.maximum(0.0, drawn[:, :1] - drawn[:, 1:])
    choosing, judging = gains[:draws], gains[draws:]
    so_far = np.zeros(draws)
    judged = np.zeros(draws)
    curve = [0.0]
    for _ in range(max(counts)):
        pick = int(np.maximum(so_far[:, None], choosing).mean(axis=0).argmax())
        so_far = np.maximum(so_far, choosing[:, pick])
        judged = np.maximum(judged, judging[:, pick])
        curve.append(float(judged.mean()))
    return [curve[count] for count in counts]


def _dense(where: Space, chosen: Vector, seed: int) -> Octaves:
    """Points over the whole space, and as many about the chosen one within an octave and within a
    quarter.
    """
    rng = np.random.default_rng(seed)
    about = [chosen + size * rng.standard_normal((200, len(chosen))) for size in (1.0, 0.25)]
    return np.vstack([where.spread(400, seed), where.clip(np.vstack(about))])


def _best_with(surface: Surface, dense: Octaves, setting: int, x: float) -> Vector:
    """The point of least posterior mean with one setting held at `x`."""
    moved = dense.copy()
    moved[:, setting] = x
    return moved[surface.mean(moved).argmin()]
