"""Contours of equal loss over the batch: how many tokens each batch needs to reach a loss, and
which one needs fewest (paper section 3.2). Intervals come from the measurements drawn anew with
their own noise; what the form of the curve gets wrong is not in them.
"""

from collections.abc import Callable, Sequence
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
# Batches on either side of the lowest one, through which a contour's curve is laid. Further ones
# would pull the vertex, as a contour is steeper on one side of it.
_REACH = 2
_PARAMETERS = 3  # of a contour's curve, in either form
_DRAWS = 400
# of log tokens: how far a curve goes on beyond its ends, for levels there when noise moves them
_BEYOND = 0.1
# noise of a known size, to see what it does to the contours: nats/token, and draws of it
_TRIAL = 1e-3
_TRIALS = 100
_FINE = 500  # points at which a curve is looked at for its lowest one


@dataclass(frozen=True)
class LossGrid:
    """Losses of one size: loss[i, j] of batches[i] at tokens[j], both growing; nan where a run
    diverged.
    """

    batches: Array  # (batches,) tokens a step
    tokens: Array  # (tokens,)
    loss: Array  # (batches, tokens) nats/token

    def covers(self, levels: Array) -> NDArray[np.bool_]:
        """(batches, levels): whether the loss lies within what was measured of the batch."""
        measured = np.isfinite(self.loss)
        low = np.where(measured, self.loss, np.inf).min(1)[:, None]
        high = np.where(measured, self.loss, -np.inf).max(1)[:, None]
        a_curve = (measured.sum(1) > 1)[:, None]
        return (low <= levels) & (levels <= high) & a_curve

    def log_tokens(self, levels: Array, losses: Array) -> Array:
        """(..., batches, levels): log of the tokens that reach each level, where the losses are
        these, (..., batches, tokens); nan for a batch that has no curve.
        """
        needed = np.full((*losses.shape[:-1], len(levels)), np.nan)
        for i, measured in enumerate(np.isfinite(self.loss)):
            if measured.sum() > 1:
                x = np.log(self.tokens[measured])
                needed[..., i, :] = _reached(x, losses[..., i, measured], levels)
        return needed

    def levels(self) -> Array:
        """Losses that enough batches reach, evenly spaced in the logarithm, highest first."""
        losses = self.loss[np.isfinite(self.loss)]
        if not len(losses):
            return losses
        fine = np.geomspace(losses.max(), losses.min(), _FINE)
        reached = fine[self.covers(fine).sum(0) >= LEAST_BATCHES]
        return np.geomspace(reached[0], reached[-1], _LEVELS) if len(reached) else reached

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
    """The lowest point of one contour: the batch that needs fewest tokens for a loss.

    `where` is `inside` of the sampled batches, or `below` or `above` them: then there is no
    vertex, and `batch` and `interval` are None. `batches` and `tokens_drawn` are draws, (draws,);
    a vertex that falls outside in a draw stands on the border.
    """

    loss: float  # nats/token
    where: Literal["inside", "below", "above"]
    batch: float | None  # tokens a step
    interval: tuple[float, float] | None  # 90%
    tokens: float  # with which the best batch reaches the loss
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
    grids: Sequence[LossGrid], form: Form, noise: float, draws: int = _DRAWS
) -> list[list[Valley]]:
    """Of each grid, at each of its levels, highest loss first. `noise`: of every loss, from
    `noise_of`.
    """
    # Points less parameters. Neighbouring contours share their points, so it is not contours that
    # count.
    free = sum(len(grid.tokens) * (len(grid.batches) - _PARAMETERS) for grid in grids)
    rng = np.random.default_rng(0)
    # the noise is itself known from so many points: noise / sqrt(chi^2 / free), (draws,)
    scales = noise / np.sqrt(rng.chisquare(max(1, free), draws) / max(1, free))
    return [_valleys(_Contours.of(grid), form, scales, rng) for grid in grids]


def better_form(grids: Sequence[LossGrid]) -> tuple[Form, dict[str, float]]:
    """The form that lies nearer to the contours, and the root mean square misfit of each, in log
    tokens, by degree of freedom. Both have three parameters.
    """
    contours = [_Contours.of(grid) for grid in grids]
    free = 0
    for each in contours:
        for curve in each.curves("parabola", each.log_tokens):
            free += max(0, curve.residual.shape[-1] - _PARAMETERS)
    misfit: dict[str, float] = {}
    for form in _FORMS:
        misfit[form] = float((_misfit(contours, form) / max(1, free)) ** 0.5)
    return ("parabola" if misfit["parabola"] <= misfit["hyperbola"] else "hyperbola"), misfit


def noise_of(grids: Sequence[LossGrid], form: Form) -> float:
    """Standard deviation of the losses, nats/token, that makes contours scatter about the form as
    these do.

    By comparison with noise of a known size: that counts for the parameters that follow it, for
    the smoothing of the curves between points, and for the slope that turns nats into tokens.
    """
    contours = [_Contours.of(grid) for grid in grids]
    rng = np.random.default_rng(1)
    trial = 0.0  # sum of squares that the known noise makes, as _misfit has it
    for each in contours:
        still = each.curves(form, each.log_tokens)
        shaken = each.curves(form, each.redrawn(np.full(_TRIALS, _TRIAL), rng))
        squares = 0.0
        for a, b in zip(still, shaken, strict=True):
            squares += float(((b.residual - a.residual) ** 2).sum())
        trial += squares / _TRIALS
    return _TRIAL * (_misfit(contours, form) / trial) ** 0.5 if trial else 0.0


@dataclass(frozen=True)
class _Contours:
    """The contours of one size."""

    grid: LossGrid
    levels: Array
    covered: NDArray[np.bool_]  # (batches, levels)
    log_tokens: Array  # (batches, levels)

    @classmethod
    def of(cls, grid: LossGrid) -> "_Contours":
        levels = grid.levels()
        return cls(grid, levels, grid.covers(levels), grid.log_tokens(levels, grid.loss))

    def curves(self, form: Form, log_tokens: Array) -> "list[_Curve]":
        """Through each contour, of log tokens (..., batches, levels)."""
        curves = []
        for level in range(len(self.levels)):
            on_it = np.flatnonzero(self.covered[:, level])
            lowest = int(self.log_tokens[on_it, level].argmin())
            near = on_it[max(0, lowest - _REACH) : lowest + _REACH + 1]
            x = np.log2(self.grid.batches[near])
            curves.append(_curve(form, x, log_tokens[..., near, level]))
        return curves

    def redrawn(self, scales: Array, rng: np.random.Generator) -> Array:
        """(draws, batches, levels): log tokens, out of losses with noise added."""
        loss = self.grid.loss
        noisy = loss + scales[:, None, None] * rng.normal(size=(len(scales), *loss.shape))
        return self.grid.log_tokens(self.levels, noisy)


def _reached(x: Array, losses: Array, levels: Array) -> Array:
    """(..., levels): where curves through losses (..., points) at x (points,) reach each level:
    monotone cubics in logarithms (PCHIP). Losses that do not fall are sorted first: the nearest
    curve that does.
    """
    falling = -np.sort(-losses, axis=-1)
    curves = PchipInterpolator(x, -np.log(falling), axis=-1)
    fine = np.linspace(x[0] - _BEYOND, x[-1] + _BEYOND, 200)
    # beyond its ends a cubic may turn round
    heights = np.maximum.accumulate(curves(fine), axis=-1).reshape(-1, len(fine))
    found = np.array([np.interp(-np.log(levels), height, fine) for height in heights])
    return found.reshape(*losses.shape[:-1], len(levels))


def _valleys(
    contours: _Contours, form: Form, scales: Array, rng: np.random.Generator
) -> list[Valley]:
    drawn = contours.curves(form, contours.redrawn(scales, rng))
    measured = contours.curves(form, contours.log_tokens)
    found = []
    for i, loss in enumerate(contours.levels):
        sampled = np.log2(contours.grid.batches[contours.covered[:, i]])
        found.append(_valley(float(loss), sampled, measured[i], drawn[i]))
    return found


def _valley(loss: float, x: Array, found: "_Curve", drawn: "_Curve") -> Valley:
    """Where a curve is lowest, x (n,) being log2 of the batches that were sampled."""
    vertex = float(found.vertex)
    where = "below" if vertex <= x[0] else "above" if vertex >= x[-1] else "inside"
    batches = 2 ** drawn.vertex.clip(x[0], x[-1])
    low, high = np.quantile(batches, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    inside = where == "inside"
    return Valley(
        loss=loss,
        where=where,
        batch=2**vertex if inside else None,
        interval=(float(low), float(high)) if inside else None,
        tokens=float(np.exp(float(found.value))),
        batches=batches,
        tokens_drawn=np.exp(drawn.value),
    )


def _misfit(contours: Sequence[_Contours], form: Form) -> float:
    """Sum of squares, in log tokens."""
    squares = 0.0
    for each in contours:
        for curve in each.curves(form, each.log_tokens):
            squares += float((curve.residual**2).sum())
    return squares


@dataclass(frozen=True)
class _Curve:
    """A curve through a contour: its lowest point's x (minus or plus infinity where it only falls
    to that side), its value there (of the lowest point measured where there is none), and how far
    the points lie off it, (..., n).
    """

    vertex: Array
    value: Array
    residual: Array


def _curve(form: Form, x: Array, y: Array) -> _Curve:
    """x (n,): log2 of batches; y (..., n): log of tokens."""
    vertex, value, residual = _FORMS[form](x - x.mean(), y)
    outward = np.where(y[..., 0] < y[..., -1], -np.inf, np.inf)
    vertex = np.where(np.isnan(vertex), outward, vertex) + x.mean()
    inside = (x[0] < vertex) & (vertex < x[-1])
    return _Curve(vertex, np.where(inside, value, y.min(-1)), residual)


def _parabola(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The paper's: y is quadratic in x."""
    design = np.vander(x, _PARAMETERS)
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


# from (x, y) to where the curve is lowest, its value there, and what the points lie off it
_FORMS: dict[Form, Callable[[Array, Array], tuple[Array, Array, Array]]] = {
    "parabola": _parabola,
    "hyperbola": _hyperbola,
}
