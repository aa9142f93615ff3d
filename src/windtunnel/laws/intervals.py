"""What a fitted law does not know: laws as they might as well be, and which of its numbers the
data pin down.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtri

from windtunnel.laws.fit import LossData, Objective, refine
from windtunnel.laws.loss import FREE, Array, Form, log_slopes, surface
from windtunnel.laws.noise import NoisePosterior

LEVEL = 0.9
_STEPS = 25
_LOOSE = 0.25  # of a value: an interval that is wider on one side does not pin it down
_GRID = 21


@dataclass(frozen=True)
class Draws:
    """Laws that were fitted to losses drawn anew about the best law: coordinates (draws, 6), and
    of each draw the standard deviation of a single run's log loss.
    """

    coordinates: Array
    noise_sd: Array

    def log_loss(self, x: ArrayLike, y: ArrayLike) -> Array:
        """(draws, targets): of the law, without a new run's own noise."""
        return np.log(surface(self.coordinates, np.atleast_1d(x), np.atleast_1d(y)))


def redraw(
    form: Form,
    coordinates: Array,
    data: LossData,
    stem: NDArray[np.int64],
    noise: NoisePosterior,
    objective: Objective,
    count: int,
    seed: int = 0,
) -> Draws:
    """A bootstrap clustered by stem: losses drawn anew about the law, with a stem's shared noise
    and each point's own, and the same fit to each. Whole stems are not resampled: without its
    largest size a table of five is another table.
    """
    rng = np.random.default_rng(seed)
    shared, own = noise.draw(count, rng)
    _, index = np.unique(stem, return_inverse=True)
    scatter = shared[:, None] * rng.standard_normal((count, index.max() + 1))[:, index]
    scatter += own[:, None] * rng.standard_normal((count, len(index)))
    drawn = replace(data, loss=surface(coordinates, data.x, data.y) * np.exp(scatter))
    starts = np.broadcast_to(coordinates, (count, 6))
    return Draws(refine(starts, drawn, FREE[form], objective, _STEPS), np.hypot(shared, own))


def linear_sd(
    form: Form,
    coordinates: Array,
    data: LossData,
    stem: NDArray[np.int64],
    noise: NoisePosterior,
    x: Array,
    y: Array,
) -> Array:
    """Standard deviation (targets,) of a new run's log loss about the law, to first order: far
    quicker than `redraw`, and good enough to weigh errors by.
    """
    free = FREE[form] > 0
    jacobian, ahead = (
        log_slopes(coordinates, *at)[1][:, free] for at in ((data.x, data.y), (x, y))
    )
    scale = np.linalg.norm(jacobian, axis=0).clip(1e-12)
    estimator = np.linalg.pinv(jacobian / scale, rcond=1e-8) / scale[:, None]
    spread = ahead @ estimator
    return np.sqrt(np.einsum("ti,ij,tj->t", spread, noise.covariance(stem), spread) + noise.sd**2)


@dataclass(frozen=True)
class Profile:
    """A number of a law, and the 90% interval of its profile likelihood; an open end is None."""

    name: Literal["E", "c alpha", "c beta"]
    value: float
    low: float | None
    high: float | None

    @property
    def identified(self) -> bool:
        """False: the data fit about as well with quite another value, and it must not be quoted
        alone.
        """
        if self.low is None or self.high is None:
            return False
        return max(self.value - self.low, self.high - self.value) <= _LOOSE * abs(self.value)


def profiles(
    form: Form,
    coordinates: Array,
    data: LossData,
    stem: NDArray[np.int64],
    noise: NoisePosterior,
    objective: Objective,
) -> list[Profile]:
    """Of the floor E, and of the exponents with which the loss falls in N and in D alone: c alpha
    and c beta (for the additive law alpha and beta). Every other coordinate is fitted anew at
    each value (Venzon and Moolgavkar 1988); a stem's shared noise counts through the design
    effect.
    """
    names: dict[int, Literal["E", "c alpha", "c beta"]] = {0: "E", 2: "c alpha", 4: "c beta"}
    effect = _design_effect(stem, noise)
    return [
        _profile(names[at], at, form, coordinates, data, objective, effect)
        for at in names
        if FREE[form][at]
    ]


def _profile(
    name: Literal["E", "c alpha", "c beta"],
    at: int,
    form: Form,
    coordinates: Array,
    data: LossData,
    objective: Objective,
    effect: float,
) -> Profile:
    free = FREE[form].copy()
    freedom = len(data.loss) - int(free.sum())
    free[at] = 0
    best = float(data.cost(coordinates, objective))
    allowed = best * (1 + effect * float(fdtri(1, max(1, freedom), LEVEL)) / max(1, freedom))
    value = float(coordinates[at])
    ceiling = 0.999 * float(data.loss.min()) if name == "E" else 4.0
    ends: list[float | None] = []
    for end in (0.0, ceiling):
        tried = value + (end - value) * np.linspace(0, 1, _GRID) ** 2
        starts = np.broadcast_to(coordinates, (_GRID, 6)).copy()
        starts[:, at] = tried
        costs = data.cost(refine(starts, data, free, objective, 80), objective)
        beyond = np.flatnonzero(costs > allowed)
        ends.append(_crossing(tried, costs, allowed, int(beyond[0])) if len(beyond) else None)
    return Profile(name, value, *ends)


def _crossing(tried: Array, costs: Array, allowed: float, at: int) -> float:
    if at == 0:
        return float(tried[0])
    share = (allowed - costs[at - 1]) / (costs[at] - costs[at - 1])
    return float(tried[at - 1] + share * (tried[at] - tried[at - 1]))


def _design_effect(stem: NDArray[np.int64], noise: NoisePosterior) -> float:
    """How many times fewer independent points there are than points (Kish)."""
    sizes = np.unique(stem, return_counts=True)[1]
    share = float(noise.weights @ (noise.shared * noise.variance)) / float(
        noise.weights @ noise.variance
    )
    return 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * share
