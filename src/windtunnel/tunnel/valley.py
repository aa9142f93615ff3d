"""The valley of the loss over the batch: which batch is best at each length, and how surely (paper
section 3.2).

The paper looks for the lowest point of a contour of equal loss: the batch that reaches the loss
with the fewest tokens. Where the loss of a length is lowest, the contour of that loss has its
lowest point, so that the valley can be read off at the lengths that were measured: without a curve
between them, and without what all batches share at a length, since they read the same text.

No bowl is a parabola. Skew and flatness are fitted too, as of the rate's bowls
(`tunnel/transfer/bowl.py`), but once for all bowls of an arm, each about its own lowest point and
by its own curvature: together the points can tell them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from windtunnel.laws.batch import Optima
from windtunnel.results.batch import BestBatch
from windtunnel.tunnel.design import LEAST_BATCHES
from windtunnel.tunnel.lowest import lowest

Array = NDArray[np.float64]

LEVEL = 0.9
# Batches on either side of the lowest one that a bowl is fitted to. Further ones are of other
# powers than the four.
_REACH = 2
_DRAWS = 400
_ROUNDS = 3  # of the fit, each about the lowest points of the one before
_FLATTEST = 0.25  # of the median curvature: the least that skew and flatness go with
_LEAST_ERROR = 1e-3  # of a log batch: points without noise would weigh without end
_LEAST_CURVATURE = 1e-6  # nats/token by squared octave
# Standard deviations of the third and the fourth power's coefficient over the second's, x in
# octaves. Of 158 bowls over the batch of Step Law's runs (arXiv 2503.04715) the first is 0.17 about
# zero, beside what noise adds (`bench/bowls.py`), and some have much more.
_SKEW, _FLATNESS = 0.25, 0.06
# (median, standard deviation of the logarithm) of the noise of a run, nats/token: the prior of the
# search's surface
_NOISE = (0.005, 1.0)
_NOISES = np.exp(np.linspace(-3, 3, 31))  # over the median
# Of the noise's variance, what the branches of a stem share: a flat prior, since a few stems hardly
# tell.
_SHARES = np.linspace(0, 0.96, 13)
_BEYOND = 1.0  # octaves outside of the batches of a bowl, where noise may move its lowest point
_STEPS = 240  # into which the range is divided to look for a lowest point
_FINE = 500  # points at which a spline is looked at for its lowest one


@dataclass(frozen=True)
class LossGrid:
    """Losses of one size: loss[i, j] of batches[i] at tokens[j], both growing; nan where a run
    diverged.
    """

    batches: Array  # (batches,) tokens a step
    tokens: Array  # (tokens,)
    loss: Array  # (batches, tokens) nats/token

    def compared(self) -> list[int]:
        """The lengths, as indices, at which enough batches have a loss."""
        many = np.isfinite(self.loss).sum(0)
        return np.flatnonzero(many >= LEAST_BATCHES).tolist()

    def best(self, at: int) -> float:
        """The lowest loss at tokens[at], on a cubic spline through the batches."""
        x, curve = self._across(at)
        return float(curve(np.linspace(x[0], x[-1], _FINE)).min())

    def regret(self, at: int, batch: float) -> float:
        """What the loss of a batch is above the lowest, at tokens[at]. Outside of the sampled
        batches the nearest one is taken.
        """
        x, curve = self._across(at)
        loss = float(curve(np.clip(np.log2(batch), x[0], x[-1])))
        return max(0.0, loss - self.best(at))

    def _across(self, at: int) -> tuple[Array, CubicSpline]:
        there = np.isfinite(self.loss[:, at])
        x = np.log2(self.batches[there])
        return x, CubicSpline(x, self.loss[there, at])


@dataclass(frozen=True, kw_only=True)
class Valley:
    """The best batch at one length, which is the one that needs fewest tokens for its loss.

    `where` is `inside` of the sampled batches, or `below` or `above` them: then `batch` and
    `interval` are None. `batches` and `losses` are draws, (draws,); a lowest point that falls
    more than an octave outside of the batches of its bowl stands there.
    """

    tokens: float
    loss: float  # nats/token at the best batch
    where: Literal["inside", "below", "above"]
    batch: float | None  # tokens a step
    interval: tuple[float, float] | None  # 90%
    batches: Array
    losses: Array

    @property
    def error(self) -> float:
        """Standard error of the best batch's natural logarithm: half of what the inner two thirds
        of the draws span.
        """
        low, high = np.quantile(np.log(self.batches), [1 / 6, 5 / 6])
        return float(high - low) / 2

    def told(self) -> BestBatch:
        """As a result tells it."""
        return BestBatch(
            loss=self.loss,
            where=self.where,
            batch=self.batch,
            interval=self.interval,
            tokens=self.tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Valleys:
    """Those of all sizes, and what their bowls have in common."""

    by_grid: list[list[Valley]]  # of each grid, at each of its lengths, the shortest first
    noise: float  # standard deviation of one loss, nats/token
    skew: float  # the third power's coefficient over the second's, octaves
    flatness: float  # the fourth power's


def valleys(grids: Sequence[LossGrid], draws: int = _DRAWS) -> Valleys:
    """Of each grid, at each length with enough batches. Draws are of one posterior: what bowls
    share (skew, flatness, the noise of a stem) they share in a draw.
    """
    bowls: list[_Bowl] = []
    for size, grid in enumerate(grids):
        bowls += [_Bowl.of(size, grid, at) for at in grid.compared()]
    by_grid: list[list[Valley]] = [[] for _ in grids]
    if not bowls:
        return Valleys(by_grid=by_grid, noise=0.0, skew=0.0, flatness=0.0)
    fit = _fitted(bowls)
    drawn = fit.drawn(draws)
    for index, bowl in enumerate(bowls):
        found = fit.lowest(index, fit.mean[None])
        by_grid[bowl.size].append(_valley(bowl, found, fit.lowest(index, drawn)))
    skew, flatness = map(float, fit.mean[-2:])
    return Valleys(by_grid=by_grid, noise=fit.noise, skew=skew, flatness=flatness)


def optima_of(inside: Sequence[Valley], params: Sequence[int]) -> Optima:
    """The best batches of valleys whose lowest point lies inside of those sampled. `params`: of
    each one's model.
    """
    return Optima(
        batch=np.array([valley.batch for valley in inside], float),
        loss=np.array([valley.loss for valley in inside]),
        tokens=np.array([valley.tokens for valley in inside]),
        params=np.array(params, float),
        error=np.array([max(valley.error, _LEAST_ERROR) for valley in inside]),
    )


@dataclass(frozen=True, kw_only=True)
class _Bowl:
    """The losses of one size at one length, by batch."""

    size: int  # index of the grid
    tokens: float
    x: Array  # (n,) log2 of the batches near the lowest one, rising
    loss: Array  # (n,)
    batch: NDArray[np.int64]  # (n,) indices of the batches
    sampled: tuple[float, float]  # log2 of the smallest batch that has a loss, and of the largest

    @classmethod
    def of(cls, size: int, grid: LossGrid, at: int) -> "_Bowl":
        losses = grid.loss[:, at]
        there = np.flatnonzero(np.isfinite(losses))
        lowest = int(losses[there].argmin())
        near = there[max(0, lowest - _REACH) : lowest + _REACH + 1]
        first, last = np.log2(grid.batches[there[[0, -1]]])
        return cls(
            size=size,
            tokens=float(grid.tokens[at]),
            x=np.log2(grid.batches[near]),
            loss=losses[near],
            batch=near,
            sampled=(float(first), float(last)),
        )

    @property
    def parabola(self) -> tuple[float, float]:
        """Where the parabola through the points is lowest within their range, and its curvature."""
        middle = float(self.x.mean())
        curvature, slope, _ = np.polyfit(self.x - middle, self.loss, 2)
        if curvature <= 0:
            return float(self.x[self.loss.argmin()]), float(curvature)
        vertex = middle - slope / (2 * curvature)
        return float(np.clip(vertex, self.x[0], self.x[-1])), float(curvature)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """What all points say of the bowls, for each candidate of the noise.

    loss = height + slope u + curvature u^2 + scale (skew u^3 + flatness u^4), u = x - centre. The
    coefficients are three of each bowl, one after the other, and last skew and flatness.
    """

    bowls: Sequence[_Bowl]
    centres: Array  # (bowls,)
    scales: Array  # (bowls,) nats/token by squared octave
    weights: Array  # (candidates,): posterior probabilities
    noises: Array  # (candidates,): standard deviation of one loss
    means: Array  # (candidates, coefficients)
    precisions: Array  # (candidates, coefficients, coefficients)

    @classmethod
    def of(cls, bowls: Sequence[_Bowl], centres: Array, scales: Array) -> "_Fit":
        """By Bayes: heights, slopes and curvatures free, skew and flatness normal about zero."""
        design, losses, stems = _linear(bowls, centres, scales)
        prior = np.zeros(design.shape[1])
        prior[-2:] = 1 / np.array([_SKEW, _FLATNESS]) ** 2
        median, spread = _NOISE
        variances = (median * _NOISES) ** 2
        logs, means, precisions = [], [], []
        for share in _SHARES:
            normal, moment, square, log_volume = _whitened(design, losses, stems, share)
            precision = normal / variances[:, None, None] + np.diag(prior)
            scaled = moment / variances[:, None]
            mean = np.linalg.solve(precision, scaled[..., None])[..., 0]
            # log of the posterior, the coefficients integrated out, up to a constant
            log = -0.5 * (square / variances - (mean * scaled).sum(1))
            log -= 0.5 * (log_volume + np.linalg.slogdet(precision)[1])
            log -= 0.5 * len(losses) * np.log(variances) + 0.5 * (np.log(_NOISES) / spread) ** 2
            logs.append(log)
            means.append(mean)
            precisions.append(precision)
        weights = np.exp(np.concatenate(logs) - np.max(logs))
        return cls(
            bowls=bowls,
            centres=centres,
            scales=scales,
            weights=weights / weights.sum(),
            noises=np.tile(np.sqrt(variances), len(_SHARES)),
            means=np.concatenate(means),
            precisions=np.concatenate(precisions),
        )

    @property
    def mean(self) -> Array:
        """(coefficients,), over all candidates of the noise."""
        return self.weights @ self.means

    @property
    def noise(self) -> float:
        """The posterior's mean, nats/token."""
        return float(self.weights @ self.noises)

    def drawn(self, draws: int) -> Array:
        """(draws, coefficients): as they might as well be."""
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(self.weights), draws, p=self.weights)
        normal = rng.standard_normal((draws, self.means.shape[1]))
        found = np.empty_like(normal)
        for candidate in np.unique(chosen):
            of_it = chosen == candidate
            root = np.linalg.cholesky(self.precisions[candidate])
            # of covariance (root root')^-1
            off = np.linalg.solve(root.T, normal[of_it].T).T
            found[of_it] = self.means[candidate] + off
        return found

    def lowest(self, index: int, coefficients: Array) -> tuple[Array, Array]:
        """Where a bowl is lowest, in log2 of the batch, and its loss there, (n,) each; of
        coefficients (n, coefficients).
        """
        bowl, centre = self.bowls[index], self.centres[index]
        height, slope, curvature = coefficients[:, 3 * index : 3 * index + 3].T
        skew, flatness = self.scales[index] * coefficients[:, -2:].T
        curves = np.column_stack([slope, curvature, skew, flatness])
        around = np.linspace(bowl.x[0] - _BEYOND, bowl.x[-1] + _BEYOND, _STEPS + 1) - centre
        u = lowest(curves, around)
        powers = np.stack([u, u**2, u**3, u**4], axis=1)
        return centre + u, height + (curves * powers).sum(1)


def _fitted(bowls: Sequence[_Bowl]) -> _Fit:
    """With every bowl about its own lowest point, and skew and flatness by its own curvature."""
    centres, curvatures = np.array([bowl.parabola for bowl in bowls]).T
    fit = _Fit.of(bowls, centres, _positive(curvatures))
    for _ in range(_ROUNDS - 1):
        mean = fit.mean
        centres = np.array([fit.lowest(i, mean[None])[0][0] for i in range(len(bowls))])
        fit = _Fit.of(bowls, centres, _positive(mean[2:-2:3]))
    return fit


def _positive(curvatures: Array) -> Array:
    """Curvatures that skew and flatness can go with."""
    usual = max(float(np.median(curvatures)), _LEAST_CURVATURE)
    return np.maximum(curvatures, _FLATTEST * usual)


def _linear(
    bowls: Sequence[_Bowl], centres: Array, scales: Array
) -> tuple[Array, Array, NDArray[np.int64]]:
    """The design (points, coefficients), the losses, and the stem of each point, numbers from 0."""
    rows, losses, stems = [], [], []
    for index, bowl in enumerate(bowls):
        u = bowl.x - centres[index]
        row = np.zeros((len(u), 3 * len(bowls) + 2))
        row[:, 3 * index : 3 * index + 3] = np.stack([np.ones_like(u), u, u**2], axis=1)
        row[:, -2:] = scales[index] * np.stack([u**3, u**4], axis=1)
        rows.append(row)
        losses.append(bowl.loss)
        stems += [(bowl.size, int(batch)) for batch in bowl.batch]
    numbers = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    return (
        np.concatenate(rows),
        np.concatenate(losses),
        np.array([numbers[stem] for stem in stems]),
    )


def _whitened(
    design: Array, losses: Array, stems: NDArray[np.int64], share: float
) -> tuple[Array, Array, float, float]:
    """X'X, X'y and y'y with the noise's correlations taken off, where a stem's points share so much
    of the variance, and the log determinant of the correlations.

    A stem of m points has the correlations (1 - share) I + share 1 1', whose inverse is
    (I - share / (1 - share + m share) 1 1') / (1 - share).
    """
    columns = np.column_stack([design, losses])
    many = np.bincount(stems)
    sums = np.zeros((len(many), columns.shape[1]))
    np.add.at(sums, stems, columns)
    weights = share / (1 - share + many * share)
    products = (columns.T @ columns - (sums.T * weights) @ sums) / (1 - share)
    log_volume = ((many - 1) * np.log(1 - share) + np.log(1 - share + many * share)).sum()
    return products[:-1, :-1], products[:-1, -1], float(products[-1, -1]), float(log_volume)


def _valley(bowl: _Bowl, found: tuple[Array, Array], drawn: tuple[Array, Array]) -> Valley:
    """From where a bowl is lowest and its loss there, (1,) each, and draws of these."""
    vertex, loss = float(found[0][0]), float(found[1][0])
    first, last = bowl.sampled
    where = "below" if vertex <= first else "above" if vertex >= last else "inside"
    batches = 2 ** drawn[0]
    low, high = np.quantile(batches, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    inside = where == "inside"
    return Valley(
        tokens=bowl.tokens,
        loss=loss,
        where=where,
        batch=2**vertex if inside else None,
        interval=(float(low), float(high)) if inside else None,
        batches=batches,
        losses=drawn[1],
    )
