"""What a fitted law does not know: laws as they might as well be, and which of its numbers the
data pin down.
"""

from dataclasses import dataclass, replace

import numpy as np

from windtunnel.laws.cells import Cells
from windtunnel.laws.fit import LossData, Objective, refine
from windtunnel.laws.loss import FORMS, Array, log_slopes, surface
from windtunnel.laws.noise import Groups, NoisePosterior
from windtunnel.laws.student import quantile

LEVEL = 0.9
_MANY = 300  # points: of a table that has more, laws are drawn by cells
_STEPS = 25  # of the fit to each draw, at most
_GAIN = 1e-6  # what ends it: a draw is noise to many more digits
_LOOSE = 0.25  # of a value: an interval that is wider on one side does not pin it down
_GRID = 21  # values at which a profile is computed, on each side
_PROFILE_STEPS, _PROFILE_GAIN = 80, 1e-9
# What is profiled: coordinate and name. For the additive law c alpha and c beta are alpha and beta.
_PROFILED = {0: "E", 2: "c alpha", 4: "c beta"}
_STEEPEST = 4.0  # the largest exponent of a profile


def redraw(
    form: str,
    coordinates: Array,
    data: LossData,
    groups: Groups,
    noise: NoisePosterior,
    objective: Objective,
    count: int,
    seed: int = 0,
) -> Array:
    """Laws as they might as well be, coordinates (count, 7): a bootstrap clustered by stem and by
    length. Losses are drawn anew about the law, with what a stem and a length share and each
    point's own noise, and the same fit is made to each: in a large table to the means of cells,
    which leaves the laws' spread as it is where the form fits. Whole stems are not resampled:
    without its largest size a table of five is another table.
    """
    rng = np.random.default_rng(seed)
    drawn_noise = noise.draw(count, rng)
    # One draw a stem and one a length, the same for all their points; then one a point.
    scatter = drawn_noise.own[:, None] * rng.standard_normal((count, len(data.loss)))
    for sd, group in ((drawn_noise.stem, groups.stem), (drawn_noise.length, groups.length)):
        scatter += sd[:, None] * rng.standard_normal((count, group.max() + 1))[:, group]
    if len(data.loss) > _MANY:
        cells = Cells.of(data)
        data, scatter = cells.gathered(data), cells.mean(scatter)
    drawn = replace(data, loss=surface(coordinates, data.x, data.y) * np.exp(scatter))
    starts = np.broadcast_to(coordinates, (count, 7))
    return refine(starts, drawn, FORMS[form].free, objective, _STEPS, _GAIN)


def linear_sd(
    form: str,
    coordinates: Array,
    data: LossData,
    groups: Groups,
    noise: NoisePosterior,
    x: Array,
    y: Array,
) -> Array:
    """Standard deviation (targets,) of a new run's log loss about the law, to first order: far
    quicker than `redraw`, and good enough to weigh errors by.
    """
    free = FORMS[form].free
    root = np.sqrt(data.weights)
    jacobian = root[:, None] * log_slopes(coordinates, data.x, data.y)[1][:, free]  # (n, free)
    ahead = log_slopes(coordinates, x, y)[1][:, free]  # (targets, free)
    scale = np.linalg.norm(jacobian, axis=0).clip(1e-12)
    # (free, n): how an error of a point moves the parameters
    estimator = np.linalg.pinv(jacobian / scale, rcond=1e-8) / scale[:, None] * root
    of_law = ahead @ noise.root_of(estimator.T, groups).T
    return np.sqrt((of_law**2).sum(1) + noise.sd**2)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A number of a law, and the 90% interval of its profile likelihood; an open end is None."""

    name: str  # E, c alpha or c beta
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
    form: str,
    coordinates: Array,
    data: LossData,
    groups: Groups,
    noise: NoisePosterior,
    objective: Objective,
) -> list[Profile]:
    """Of the floor E, and of the exponents with which the loss falls in N and in D alone: c alpha
    and c beta. Every other coordinate is fitted anew at each value (Venzon and Moolgavkar 1988);
    noise that points share counts through the design effect.
    """
    effect = _design_effect(groups, noise)
    return [
        _profile(at, form, coordinates, data, objective, effect)
        for at in _PROFILED
        if FORMS[form].free[at]
    ]


def _profile(
    at: int,
    form: str,
    coordinates: Array,
    data: LossData,
    objective: Objective,
    effect: float,
) -> Profile:
    free = FORMS[form].free.copy()
    # The degrees of freedom that the law leaves, with this number free.
    freedom = max(1, len(data.loss) - int(free.sum()))
    free[at] = False
    best = float(data.cost(coordinates, objective))
    # Above this the t test refuses a value.
    allowed = best * (1 + effect * quantile(LEVEL, freedom) ** 2 / freedom)
    value = float(coordinates[at])
    # A floor above the lowest loss is no law at all.
    highest = 0.999 * float(data.loss.min()) if _PROFILED[at] == "E" else _STEEPEST
    ends: list[float | None] = []
    for end in (0.0, highest):
        # Finer near the optimum, where an interval that is narrow would end.
        tried = value + (end - value) * np.linspace(0, 1, _GRID) ** 2
        starts = np.broadcast_to(coordinates, (_GRID, 7)).copy()
        starts[:, at] = tried
        fitted = refine(starts, data, free, objective, _PROFILE_STEPS, _PROFILE_GAIN)
        costs = data.cost(fitted, objective)
        beyond = np.flatnonzero(costs > allowed)
        ends.append(_crossing(tried, costs, allowed, int(beyond[0])) if len(beyond) else None)
    return Profile(name=_PROFILED[at], value=value, low=ends[0], high=ends[1])


def _crossing(tried: Array, costs: Array, allowed: float, at: int) -> float:
    """Where the costs pass what is allowed, straight between the values before and at `at`."""
    if at == 0:
        return float(tried[0])
    share = (allowed - costs[at - 1]) / (costs[at] - costs[at - 1])
    return float(tried[at - 1] + share * (tried[at] - tried[at - 1]))


def _design_effect(groups: Groups, noise: NoisePosterior) -> float:
    """How many times fewer independent points there are than points (Kish)."""
    stem, length, own = noise.parts
    more = 0.0
    for part, group in ((stem, groups.stem), (length, groups.length)):
        sizes = np.bincount(group)
        more += (float((sizes**2).sum() / sizes.sum()) - 1) * part
    return 1 + more / (stem + length + own)
