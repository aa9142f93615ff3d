"""The loss under any schedule of the learning rate, from a few runs whose schedule is known: a
decay gets a price before it is run. Each law is a power of the area under the rate, less what
annealing gives, summed over the changes of the rate:

    Tissue et al. (arXiv 2408.11029)    L = L0 + A S^-alpha - C S2
                                        S2 a sum of the drops with a fading memory
    multi-power (arXiv 2503.12811)      L = L0 + A S^-alpha - B sum_k drop_k G(eta_k^-gamma S_k)
                                        drop_k = eta_{k-1} - eta_k,  G(x) = 1 - (1 + C x)^-beta

S is the area under the rate from the very start, S_k that from change k on. The rises of the
warm-up are in the sum: they count against the run. Positions are in steps or in tokens, whatever
the schedule has; the rate in any unit.

With `power` below 1 (it is 1 in both papers) S is the area under rate^power: a low rate then gets
further than in proportion. Nine published schedules of one size, fitted together, ask for 0.9
(25M parameters) and 0.6 (100M).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares, minimize

from windtunnel.laws.loss import Array
from windtunnel.laws.named import Named
from windtunnel.laws.schedule import Curve, Schedule, Terms, terms_of

DELTA = 1e-3  # of the Huber loss on the logarithm of the loss, as the multi-power law was published
POWERS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
_STARTS = 4  # best points of the grid from which an optimiser starts
_AGREE = 1e-6  # relative, of the objectives of two optimisers
_NOTHING = 1e-15  # an objective that is zero but for rounding
# nats/token: of a law on the way to its optimum, whose logarithm must exist.
_LEAST_LOSS = 1e-3
_LEAST_GAIN = 1e-3  # of a start, where least squares find none
_ON_BOUND = 1e-6
# A rate of 0 to the power of -gamma has no number.
_NO_RATE = 1e-60  # below it a rate is as good as zero; then no area comes either
_ALPHAS = (0.25, 0.5, 1.0)  # of the starts
# Bounds of (L0, log A, log alpha, log gain), in units of the curves.
_LOWEST, _HIGHEST = np.array([-np.inf, -30, -4, -30]), np.array([np.inf, 30, 2, 30])


@dataclass(frozen=True, kw_only=True)
class AnnealingLaw:
    """L0 + A S^-alpha - gain sum(drop * share): the share of a drop's gain that has come.

    How that share grows is the law's shape, of one or more parameters. A fit takes lengths in
    units of `area / rate`, areas in units of `area` and rates in units of `rate`.
    """

    starts: ClassVar[Array]  # (starts, shape): where a fit begins
    lowest: ClassVar[Array]  # (shape,)
    highest: ClassVar[Array]  # (shape,)

    L0: float
    A: float
    alpha: float
    power: float = 1.0

    @classmethod
    def of_shape(cls, shape: Array, gain: float, area: float, rate: float, **level: float) -> Self:
        """From the parameters of its shape (shape,) in these units; `level`: L0, A, alpha and
        power, in units of 1 like `gain`.
        """
        raise NotImplementedError

    def shape_in(self, area: float, rate: float) -> Array:
        """The parameters of its shape (shape,) in these units."""
        raise NotImplementedError

    @property
    def gain(self) -> float:
        """What a drop gives in the end, in nats per unit of rate."""
        raise NotImplementedError

    def share(self, rate: Array, distance: Array, delay: Array) -> tuple[Array, list[Array]]:
        """From 0 to 1, (n, m), for m drops to `rate` (m,) since which the run has covered the area
        `distance` (n, m) and the length `delay` (n, m); and its slopes in the parameters of the
        shape, (n, m) each.
        """
        raise NotImplementedError

    def at(self, schedule: Schedule, position: ArrayLike) -> Array:
        """The loss of a run with this schedule at positions (n,). Raises ValueError for one
        outside of the schedule.
        """
        position = np.atleast_1d(np.asarray(position, float))
        terms = terms_of(schedule, position, self.power)
        share, _ = self.share(terms.rate, terms.distance, terms.delay)
        with np.errstate(divide="ignore"):  # no area yet: an infinite loss
            return self.L0 + self.A * terms.progress**-self.alpha - self.gain * (share @ terms.drop)

    def error(self, curve: Curve) -> float:
        """Mean absolute error over a curve's points, nats/token."""
        return float(np.abs(self.at(curve.schedule, curve.position) - curve.loss).mean())


@dataclass(frozen=True, kw_only=True)
class Tissue(AnnealingLaw):
    """A drop's gain fades in with time: S2 = sum_k drop_k memory (1 - exp(-(t - k)/memory)).

    `memory` is in positions: where those are steps, the published lambda is exp(-1/memory). The
    shape is (log memory,).
    """

    starts = np.log([[0.01], [0.03], [0.1], [0.3]])
    lowest = np.array([-8.0])
    highest = np.array([4.0])

    C: float
    memory: float

    @classmethod
    def of_shape(cls, shape: Array, gain: float, area: float, rate: float, **level: float) -> Self:
        """From (log memory,)."""
        memory = float(np.exp(shape[0]) * area / rate)
        return cls(C=gain / memory, memory=memory, **level)

    def shape_in(self, area: float, rate: float) -> Array:
        """(log memory,)."""
        return np.log([self.memory * rate / area])

    @property
    def gain(self) -> float:
        """C times the memory."""
        return self.C * self.memory

    def share(self, rate: Array, distance: Array, delay: Array) -> tuple[Array, list[Array]]:
        """1 - exp(-delay / memory)."""
        left = np.exp(-delay / self.memory)
        return 1 - left, [-delay / self.memory * left]


@dataclass(frozen=True, kw_only=True)
class MultiPower(AnnealingLaw):
    """A drop's gain comes as a power of the area since, and later for a drop to a lower rate:
    there area is slow. The shape is (log C, log beta, gamma).
    """

    starts = np.array(list(product((2.0, 4.5, 7.0, 9.5), np.log([0.3, 0.6, 1.2]), (0.6,))))
    lowest = np.array([-8.0, -4.0, -0.5])
    # With gamma above 1 a gain would come the sooner, in steps, the lower the rate: a fall to
    # almost nothing would pay.
    highest = np.array([18.0, 4.0, 1.0])

    B: float
    C: float
    beta: float
    gamma: float

    @classmethod
    def of_shape(cls, shape: Array, gain: float, area: float, rate: float, **level: float) -> Self:
        """From (log C, log beta, gamma)."""
        log_C, log_beta, gamma = map(float, shape)
        C = float(np.exp(log_C + gamma * np.log(rate)) / area)
        return cls(B=gain, C=C, beta=float(np.exp(log_beta)), gamma=gamma, **level)

    def shape_in(self, area: float, rate: float) -> Array:
        """(log C, log beta, gamma)."""
        log_C = np.log(self.C * area) - self.gamma * np.log(rate)
        return np.array([log_C, np.log(self.beta), self.gamma])

    @property
    def gain(self) -> float:
        """B."""
        return self.B

    def share(self, rate: Array, distance: Array, delay: Array) -> tuple[Array, list[Array]]:
        """G(rate^-gamma distance)."""
        rate = np.maximum(rate, _NO_RATE)
        scaled = self.C * rate**-self.gamma * distance
        logs = np.log1p(scaled)
        left = np.exp(-self.beta * logs)
        # dG / dlog C; dG / dgamma is that times -log rate, since both change only what is scaled.
        rise = self.beta * left * scaled / (1 + scaled)
        return 1 - left, [rise, self.beta * logs * left, -np.log(rate) * rise]


ANNEALING_LAWS: Named[type[AnnealingLaw]] = Named(
    "law of annealing", {"multi-power": MultiPower, "tissue": Tissue}
)


@dataclass(frozen=True)
class AnnealingFit:
    """A law, the summed Huber loss of log loss that it leaves, and whether two optimisers agree
    on that to 1e-6.
    """

    law: AnnealingLaw
    objective: float
    converged: bool


def fit_annealing(
    name: str, curves: Sequence[Curve], power: float = 1.0, like: AnnealingLaw | None = None
) -> AnnealingFit:
    """The law of this name (one of `ANNEALING_LAWS`) through measured curves, every point alike:
    Huber on log loss, trust region from several starts.

    At least one curve needs a rate that falls, and losses after it; a constant, a cosine, and a
    rate that drops and stays low tell all parameters. With `like`, a law of the same kind from
    runs of another size with the same units, its shape and power are taken over, and only L0, A,
    alpha and the gain fitted. Raises ValueError where the curves can't tell, for a `like` of
    another kind, and for an unknown name.
    """
    # Two ways to one optimum: from the best starts, and from half-way between.
    problem = _Problem(ANNEALING_LAWS[name], curves, power if like is None else like.power, like)
    starts = sorted(problem.starts(), key=problem.objective)[:_STARTS]
    found = min((problem.trust_region(start) for start in starts), key=problem.objective)
    again = problem.quasi_newton((found + starts[0]) / 2, found)
    best, other = sorted([found, again], key=problem.objective)
    lowest = problem.objective(best)
    agree = problem.objective(other) - lowest <= _AGREE * lowest + _NOTHING
    return AnnealingFit(problem.law(best), lowest, bool(agree))


def fit_power(name: str, curves: Sequence[Curve], among: Sequence[float] = POWERS) -> AnnealingFit:
    """The law with the power that fits the curves best. It takes many schedules of several
    lengths to tell. Raises ValueError as `fit_annealing` does.
    """
    fits = [fit_annealing(name, curves, power) for power in among]
    return min(fits, key=lambda fitted: fitted.objective)


class _Problem:
    """Parameters x = (L0, log A, log alpha, log gain, shape ...), in units of the data's areas
    and rates.
    """

    def __init__(
        self,
        kind: type[AnnealingLaw],
        curves: Sequence[Curve],
        power: float,
        like: AnnealingLaw | None,
    ) -> None:
        self.kind, self.power = kind, power
        terms = [terms_of(curve.schedule, curve.position, power) for curve in curves]
        self.loss = np.concatenate([[], *(curve.loss for curve in curves)])
        shape = kind.lowest.size if like is None else 0  # parameters of it that are fitted
        free = len(_LOWEST) + shape
        _check(terms, len(self.loss), free)
        areas = [curve.schedule.area(curve.position) for curve in curves]
        progress = np.concatenate([term.progress for term in terms])
        self.area_unit = _geometric_mean(np.concatenate(areas))
        self.progress_unit = _geometric_mean(progress)
        self.rate_unit = max(float(curve.schedule.rates.max()) for curve in curves)
        self.log_progress = np.log(progress / self.progress_unit)
        self.terms = [self._scaled(term) for term in terms]
        self.shape = None if like is None else self._shape_of(like)
        self.low = np.concatenate([_LOWEST, kind.lowest])[:free]
        self.high = np.concatenate([_HIGHEST, kind.highest])[:free]

    def _scaled(self, terms: Terms) -> Terms:
        area, rate = self.area_unit, self.rate_unit
        return Terms(
            progress=terms.progress / self.progress_unit,
            drop=terms.drop / rate,
            rate=terms.rate / rate,
            distance=terms.distance / area,
            delay=terms.delay * rate / area,
        )

    def _shape_of(self, like: AnnealingLaw) -> Array:
        """In the units of the problem."""
        if not isinstance(like, self.kind):
            raise ValueError(
                f"like: a law of kind {type(like).__name__}, expected {self.kind.__name__}"
            )
        return like.shape_in(self.area_unit, self.rate_unit)

    def starts(self) -> list[Array]:
        """For exponents and shapes on a grid, what is linear by least squares: a small A or gain
        where it has none.
        """
        found = []
        for shape in self.kind.starts if self.shape is None else self.shape[None]:
            annealed, _ = self._annealed(shape)
            for alpha in _ALPHAS:
                falling = np.exp(-alpha * self.log_progress)
                columns = np.column_stack([np.ones_like(falling), falling, -annealed])
                L0, A, gain = np.linalg.lstsq(columns, self.loss, rcond=None)[0]
                logs = np.log([max(A, _LEAST_GAIN), alpha, max(gain, _LEAST_GAIN)])
                found.append(np.concatenate([[L0], logs, shape])[: len(self.low)])
        return found

    def law(self, x: Array) -> AnnealingLaw:
        """In the units of the curves."""
        L0, log_A, log_alpha, log_gain = map(float, x[:4])
        alpha = float(np.exp(log_alpha))
        return self.kind.of_shape(
            self._whole(x)[4:],
            gain=float(np.exp(log_gain) / self.rate_unit),
            area=self.area_unit,
            rate=self.rate_unit,
            L0=L0,
            A=float(np.exp(log_A + alpha * np.log(self.progress_unit))),
            alpha=alpha,
            power=self.power,
        )

    def _whole(self, x: Array) -> Array:
        return x if self.shape is None else np.concatenate([x, self.shape])

    def _annealed(self, shape: Array) -> tuple[Array, Array]:
        """sum(drop * share) at all points (n,), and its slopes in the shape (n, shape)."""
        # only its share is asked for
        law = self.kind.of_shape(shape, gain=1.0, area=1.0, rate=1.0, L0=0.0, A=0.0, alpha=0.0)
        sums, slopes = [], []
        for terms in self.terms:
            share, by_shape = law.share(terms.rate, terms.distance, terms.delay)
            sums.append(share @ terms.drop)
            slopes.append(np.column_stack([slope @ terms.drop for slope in by_shape]))
        return np.concatenate(sums), np.concatenate(slopes)

    def residuals(self, x: Array) -> tuple[Array, Array]:
        """Log of the predicted loss over the measured one (n,), and its Jacobian (n,
        parameters).
        """
        L0, (A, alpha, gain) = x[0], np.exp(x[1:4])
        falling = A * np.exp(-alpha * self.log_progress)
        annealed, slopes = self._annealed(self._whole(x)[4:])
        # The columns are dL / d parameter; divided by L below they are of its logarithm.
        predicted = np.maximum(L0 + falling - gain * annealed, _LEAST_LOSS)
        by_level = np.ones_like(falling)
        by_alpha = -alpha * self.log_progress * falling
        columns = [by_level, falling, by_alpha, -gain * annealed, -gain * slopes]
        jacobian = np.column_stack(columns)[:, : len(x)]
        return np.log(predicted / self.loss), jacobian / predicted[:, None]

    def objective(self, x: Array) -> float:
        """Huber's loss of the log residuals, summed."""
        return _huber(self.residuals(x)[0])[0]

    def trust_region(self, start: Array) -> Array:
        """The lowest point that scipy's trust region finds within the bounds."""
        return least_squares(
            lambda x: self.residuals(x)[0],
            np.clip(start, self.low, self.high),
            lambda x: self.residuals(x)[1],  # type: ignore[arg-type]  # scipy takes a function
            bounds=(self.low, self.high),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
            ftol=1e-12,
            xtol=1e-12,
            max_nfev=300,
        ).x

    def quasi_newton(self, start: Array, known: Array) -> Array:
        """The lowest point that BFGS finds. Where an optimum that is known lies on a bound, that
        parameter stays there.
        """
        free = (known > self.low + _ON_BOUND) & (known < self.high - _ON_BOUND)

        def whole(x: Array) -> Array:
            filled = known.copy()
            filled[free] = x
            return np.clip(filled, self.low, self.high)

        def value(x: Array) -> tuple[float, Array]:
            residuals, jacobian = self.residuals(whole(x))
            total, slope = _huber(residuals)
            # Huber's loss is of the order of DELTA^2: in units of it the tolerance of BFGS means
            # something.
            return total / DELTA**2, (jacobian.T @ slope)[free] / DELTA**2

        options = {"maxiter": 1000, "gtol": 1e-5}
        return whole(minimize(value, start[free], jac=True, method="BFGS", options=options).x)


def _check(terms: Sequence[Terms], count: int, parameters: int) -> None:
    if count <= parameters:
        raise ValueError(
            f"{count} measured losses: expected more than the {parameters} parameters that are "
            "fitted"
        )
    if not all((term.progress > 0).all() for term in terms):
        raise ValueError(
            "a loss was measured where the rate had been 0 until then: expected losses after a step"
        )
    if not any((term.delay[:, term.drop > 0] > 0).any() for term in terms):
        raise ValueError(
            "no loss was measured after a fall of the rate: expected a curve with a decay"
        )


def _huber(residuals: Array) -> tuple[float, Array]:
    """Summed, and its slope in each residual."""
    inner = np.clip(residuals, -DELTA, DELTA)
    return float(inner @ (residuals - inner / 2)), inner


def _geometric_mean(values: Array) -> float:
    return float(np.exp(np.log(values).mean()))
