"""Contours of equal loss over the batch: how many tokens each batch needs to reach a loss, and
which one needs fewest (paper section 3.2). Intervals come from the measurements drawn anew with
their own noise; what the form of the curve gets wrong is not in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

from windtunnel.laws.batch_cost import Hyperbola
from windtunnel.tunnel.batch.design import LEAST_BATCHES

Array = NDArray[np.float64]
Form = Literal["parabola", "hyperbola"]

LEVEL = 0.9
_LEVELS = 8  # contours of a size
_REACH = 2  # batches on either side of the lowest one, through which a contour's curve is laid
_DRAWS = 400
# of log tokens: how far a curve goes on beyond its ends, for levels there when noise moves them
_BEYOND = 0.1
_TRIAL, _TRIALS = 1e-3, 100  # nats/token, draws: what noise of a known size does to the contours


@dataclass(frozen=True)
class Surface:
    """Losses of one size: loss[i, j] of batches[i] at tokens[j], both growing; nan where a run
    failed.
    """

    batches: Array
    tokens: Array
    loss: Array  # nats/token

    def covers(self, levels: Array) -> NDArray[np.bool_]:
        """(batches, levels): whether the loss lies within what was measured of the batch."""
        measured = np.isfinite(self.loss)
        low = np.where(measured, self.loss, np.inf).min(1)
        high = np.where(measured, self.loss, -np.inf).max(1)
        return (low[:, None] <= levels) & (levels <= high[:, None]) & (measured.sum(1) > 1)[:, None]

    def log_tokens(self, levels: Array, losses: Array | None = None) -> Array:
        """(..., batches, levels): log of the tokens that reach each loss; `losses` (..., batches,
        tokens): others than those measured.
        """
        losses = self.loss if losses is None else losses
        needed = np.full((*losses.shape[:-1], len(levels)), np.nan)
        for i, measured in enumerate(np.isfinite(self.loss)):
            if measured.sum() > 1:
                needed[..., i, :] = _reached(
                    np.log(self.tokens[measured]), losses[..., i, measured], levels
                )
        return needed

    def levels(self) -> Array:
        """Losses that enough batches reach, evenly spaced in the logarithm."""
        losses = self.loss[np.isfinite(self.loss)]
        if not len(losses):
            return losses
        fine = np.geomspace(losses.max(), losses.min(), 500)
        reached = fine[self.covers(fine).sum(0) >= LEAST_BATCHES]
        return np.geomspace(reached[0], reached[-1], _LEVELS) if len(reached) else reached

    def compared(self) -> list[int]:
        """The lengths, as indices, at which enough batches have a loss."""
        return [
            at
            for at in range(len(self.tokens))
            if np.isfinite(self.loss[:, at]).sum() >= LEAST_BATCHES
        ]

    def best(self, at: int) -> float:
        """The lowest loss at tokens[at], on a cubic spline through the batches."""
        x, curve = self._across(at)
        return float(curve(np.linspace(x[0], x[-1], 500)).min())

    def regret(self, at: int, batch: float) -> float:
        """What the loss is above the lowest. Outside of the sampled batches the nearest one is
        taken.
        """
        x, curve = self._across(at)
        return max(0.0, float(curve(np.clip(np.log2(batch), x[0], x[-1]))) - self.best(at))

    def _across(self, at: int) -> tuple[Array, CubicSpline]:
        there = np.isfinite(self.loss[:, at])
        x = np.log2(self.batches[there])
        return x, CubicSpline(x, self.loss[there, at])


@dataclass(frozen=True)
class Valley:
    """The lowest point of one contour: the batch that needs fewest tokens for a loss.

    `where` is `inside` of the sampled batches, or `below` or `above` them: then there is no
    vertex, and `batch` and `interval` are None. `batches`, `tokens_drawn`: draws; a vertex that
    falls outside in a draw stands on the border.
    """

    loss: float
    where: Literal["inside", "below", "above"]
    batch: float | None
    interval: tuple[float, float] | None
    tokens: float
    batches: Array
    tokens_drawn: Array

    @property
    def error(self) -> float:
        """Standard error of the best batch's natural logarithm: half of what the inner two thirds
        of the draws span.
        """
        low, high = np.quantile(np.log(self.batches), [1 / 6, 5 / 6])
        return float(high - low) / 2


def valleys(
    surfaces: Sequence[Surface], form: Form, noise: float, draws: int = _DRAWS
) -> list[list[Valley]]:
    """Of each surface, at each of its levels, highest loss first. `noise`: of every loss, from
    `noise_of`.
    """
    # points less parameters; neighbouring contours share their points, so it is not contours that
    # count
    free = sum(len(s.tokens) * (len(s.batches) - 3) for s in surfaces)
    rng = np.random.default_rng(0)
    scales = noise / np.sqrt(rng.chisquare(max(1, free), draws) / max(1, free))
    return [_valleys(_Contours.of(surface), form, scales, rng) for surface in surfaces]


def better_form(surfaces: Sequence[Surface]) -> tuple[Form, dict[str, float]]:
    """The form that lies nearer to the contours, and the root mean square misfit of each, in log
    tokens, by degree of freedom. Both have three parameters.
    """
    contours = [_Contours.of(surface) for surface in surfaces]
    free = sum(
        max(0, fit.residual.shape[-1] - 3)
        for c in contours
        for fit in c.fits("parabola", c.log_tokens)
    )
    misfit = {
        form: float((_misfit(contours, form) / max(1, free)) ** 0.5)
        for form in ("parabola", "hyperbola")
    }
    return ("parabola" if misfit["parabola"] <= misfit["hyperbola"] else "hyperbola"), misfit


def noise_of(surfaces: Sequence[Surface], form: Form) -> float:
    """Standard deviation of the losses, nats/token, that makes contours scatter about the form as
    these do.

    By comparison with noise of a known size: that counts for the parameters that follow it, for
    the smoothing of the curves between points, and for the slope that turns nats into tokens.
    """
    contours = [_Contours.of(surface) for surface in surfaces]
    rng, trial = np.random.default_rng(1), 0.0
    for c in contours:
        still = c.fits(form, c.log_tokens)
        shaken = c.fits(form, c.redrawn(np.full(_TRIALS, _TRIAL), rng))
        trial += (
            sum(
                float(((b.residual - a.residual) ** 2).sum())
                for a, b in zip(still, shaken, strict=True)
            )
            / _TRIALS
        )
    return _TRIAL * (_misfit(contours, form) / trial) ** 0.5 if trial else 0.0


@dataclass(frozen=True)
class _Contours:
    surface: Surface
    levels: Array
    covered: NDArray[np.bool_]  # (batches, levels)
    log_tokens: Array  # (batches, levels)

    @classmethod
    def of(cls, surface: Surface) -> "_Contours":
        levels = surface.levels()
        return cls(surface, levels, surface.covers(levels), surface.log_tokens(levels))

    def fits(self, form: Form, log_tokens: Array) -> "list[_Lowest]":
        """Of each level; log_tokens (..., batches, levels)."""
        return [_lowest(form, *self._near(i, log_tokens)) for i in range(len(self.levels))]

    def _near(self, level: int, log_tokens: Array) -> tuple[Array, Array]:
        """The batches about the one that needs fewest tokens, and what they need: further ones
        would pull the vertex, as a contour is steeper on one side of it.
        """
        on_it = np.flatnonzero(self.covered[:, level])
        lowest = int(self.log_tokens[on_it, level].argmin())
        near = on_it[max(0, lowest - _REACH) : lowest + _REACH + 1]
        return np.log2(self.surface.batches[near]), log_tokens[..., near, level]

    def redrawn(self, scales: Array, rng: np.random.Generator) -> Array:
        """(draws, batches, levels): log tokens, out of losses with noise added."""
        loss = self.surface.loss
        noisy = loss + scales[:, None, None] * rng.normal(size=(len(scales), *loss.shape))
        return self.surface.log_tokens(self.levels, noisy)


def _reached(x: Array, losses: Array, levels: Array) -> Array:
    """(..., levels): where curves through losses (..., points) at x reach each level: monotone
    cubics in logarithms (PCHIP). Losses that do not fall are sorted first: the nearest curve that
    does.
    """
    curves = PchipInterpolator(x, -np.log(-np.sort(-losses, axis=-1)), axis=-1)
    fine = np.linspace(x[0] - _BEYOND, x[-1] + _BEYOND, 200)
    heights = np.maximum.accumulate(curves(fine), axis=-1).reshape(-1, len(fine))
    found = np.array([np.interp(-np.log(levels), height, fine) for height in heights])
    return found.reshape(*losses.shape[:-1], len(levels))


def _valleys(
    contours: _Contours, form: Form, scales: Array, rng: np.random.Generator
) -> list[Valley]:
    drawn = contours.fits(form, contours.redrawn(scales, rng))
    found = contours.fits(form, contours.log_tokens)
    sampled = [np.log2(contours.surface.batches[on_it]) for on_it in contours.covered.T]
    return [
        _valley(float(loss), float(here.value), x, here, again)
        for loss, x, here, again in zip(contours.levels, sampled, found, drawn, strict=True)
    ]


def _valley(loss: float, log_tokens: float, x: Array, found: "_Lowest", drawn: "_Lowest") -> Valley:
    vertex = float(found.vertex)
    where = "below" if vertex <= x[0] else "above" if vertex >= x[-1] else "inside"
    batches = 2 ** drawn.vertex.clip(x[0], x[-1])
    low, high = np.quantile(batches, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    inside = where == "inside"
    return Valley(
        loss,
        where,
        2**vertex if inside else None,
        (float(low), float(high)) if inside else None,
        float(np.exp(log_tokens)),
        batches,
        np.exp(drawn.value),
    )


def _misfit(contours: Sequence[_Contours], form: Form) -> float:
    """Sum of squares, in log tokens."""
    return sum(
        float((fit.residual**2).sum()) for c in contours for fit in c.fits(form, c.log_tokens)
    )


@dataclass(frozen=True)
class _Lowest:
    """A curve's lowest point: x (minus or plus infinity where the curve only falls to that side),
    its value there (of the lowest point measured where there is none), and what the points lie
    off it, (..., n).
    """

    vertex: Array
    value: Array
    residual: Array


def _lowest(form: Form, x: Array, y: Array) -> _Lowest:
    """x (n,): log2 of batches; y (..., n)."""
    vertex, value, residual = (_parabola if form == "parabola" else _hyperbola)(x - x.mean(), y)
    outward = np.where(y[..., 0] < y[..., -1], -np.inf, np.inf)
    vertex = np.where(np.isnan(vertex), outward, vertex) + x.mean()
    inside = (x[0] < vertex) & (vertex < x[-1])
    return _Lowest(vertex, np.where(inside, value, y.min(-1)), residual)


def _parabola(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The paper's: y is quadratic in x."""
    design = np.vander(x, 3)
    fitted = y @ np.linalg.pinv(design).T
    curvature, slope, height = np.moveaxis(fitted, -1, 0)
    curved = np.where(curvature > 0, curvature, np.nan)
    return -slope / (2 * curved), height - slope**2 / (4 * curved), y - fitted @ design.T


def _hyperbola(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """exp y = a + b 2^x + c 2^-x: `laws.batch_cost.Hyperbola`."""
    batch, tokens = 2**x, np.exp(y)
    found = Hyperbola.fit(batch, tokens)
    with np.errstate(divide="ignore"):
        return np.log2(found.best), np.log(found.fewest), 1 - found.at(batch) / tokens
