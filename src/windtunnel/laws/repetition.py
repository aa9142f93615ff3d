"""What repeated data are worth: D tokens out of U unique ones count as D' = U + U R* (1 - exp(-R
/ R*)) fresh ones, R = D / U - 1 (Muennighoff et al. 2023, arXiv 2305.16264, eq. 5); and
parameters beyond those that the unique tokens can feed likewise. Lengths in tokens, losses in
nats/token.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from windtunnel.laws.loss import LossLaw

LEVEL = 0.9
LONGEST = (
    15.0  # epochs up to which the law of the tokens holds for sizes of every kind (see `fit_pairs`)
)
_DELTA = 1e-3  # of Huber's loss on log loss, as published
_LOG_BOUNDS = (
    float(np.log(0.1)),
    float(np.log(1e4)),
)  # R*; at the upper one no limit of the worth was seen
_GRID = 17  # of the search, in each logarithm
_POLISHED = 3  # lowest points of the grid from which an optimiser starts
_OPTIONS = {
    "Nelder-Mead": {"xatol": 1e-7, "fatol": 1e-14, "maxiter": 2000},
    "Powell": {"xtol": 1e-9, "ftol": 1e-14},
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Repetition:
    """R* of the tokens, in epochs: a repeat loses its worth as exp(-epoch / R*), and all of them
    together are worth R* times the unique tokens. `params`: the same for parameters; infinite
    where those are not discounted.
    """

    tokens: float
    params: float = np.inf

    def effective(self, tokens: ArrayLike, unique: ArrayLike) -> Array:
        """Fresh tokens that are worth as much: `tokens` themselves up to one epoch."""
        return _worth(tokens, unique, self.tokens)

    def limit(self, unique: ArrayLike) -> Array:
        """Fresh tokens that infinitely many epochs are worth."""
        return np.asarray(unique, float) * (1 + self.tokens)

    def needed(self, effective: ArrayLike, unique: ArrayLike) -> Array:
        """Tokens that are worth so many fresh ones; infinite from the limit on."""
        worth, u = np.asarray(effective, float), np.asarray(unique, float)
        extra = np.maximum(worth / u - 1, 0)
        with np.errstate(divide="ignore"):
            repeats = -self.tokens * np.log1p(-np.minimum(extra / self.tokens, 1))
        return np.where(worth <= u, worth, u * (1 + repeats))

    def effective_params(self, params: ArrayLike, fed: ArrayLike) -> Array:
        """Parameters that count, where the unique tokens can feed `fed`."""
        return _worth(params, fed, self.params)

    def loss(self, law: LossLaw, params: ArrayLike, tokens: ArrayLike, unique: ArrayLike) -> Array:
        """Of a law of fresh tokens, at what repeated ones are worth."""
        u = np.minimum(np.asarray(unique, float), tokens)
        return law.at(self.effective_params(params, fed(law, u)), self.effective(tokens, u))


PUBLISHED = Repetition(15.39, 5.31)  # C4, 182 runs of 7M to 8.7B parameters


def fed(law: LossLaw, tokens: ArrayLike) -> Array:
    """Parameters at which the two terms of the law fall alike: the size that is compute-optimal
    for these tokens.
    """
    d = np.asarray(tokens, float)
    return (law.alpha * law.A / (law.beta * law.B)) ** (1 / law.alpha) * d ** (law.beta / law.alpha)


def _worth(total: ArrayLike, once: ArrayLike, decay: float) -> Array:
    n, u = np.asarray(total, float), np.asarray(once, float)
    if np.isinf(decay):
        return n + 0 * u
    repeats = np.maximum(n / u - 1, 0)
    return np.where(n <= u, n, u * (1 - decay * np.expm1(-repeats / decay)))


@dataclass(frozen=True)
class Runs:
    """Measured runs: arrays of one length. Raises ValueError where they are not."""

    params: Array
    tokens: Array
    unique: Array
    loss: Array

    def __post_init__(self) -> None:
        if len({len(values) for values in astuple(self)}) > 1:
            raise ValueError("params, tokens, unique and loss: expected one length")
        for name, values in vars(self).items():
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"{name}: expected positive numbers")

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def epochs(self) -> Array:
        return self.tokens / self.unique

    def select(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> "Runs":
        return Runs(self.params[kept], self.tokens[kept], self.unique[kept], self.loss[kept])


@dataclass(frozen=True)
class Fit:
    """R* with the proof of its optimum, and as they might as well be: draws (draws, 2) of
    (tokens, params).
    """

    repetition: Repetition
    objective: float  # sum of Huber's loss of log residuals
    disagreement: float  # between the objectives of two optimisers
    draws: Array

    def interval(self, name: str) -> tuple[float, float]:
        """90%, of `tokens` or `params`; its upper end infinite where the runs show no limit."""
        low, high = np.quantile(
            self.draws[:, ("tokens", "params").index(name)],
            [(1 - LEVEL) / 2, (1 + LEVEL) / 2],
            method="closest_observation",
        )
        return float(low), float(high)


def fit(runs: Runs, law: LossLaw, draws: int = 200) -> Fit:
    """R* of tokens and parameters together, given the law of fresh tokens, by Huber's loss of the
    log residuals: the published way. The draws are a bootstrap over the numbers of unique tokens,
    which share their subset of the corpus.

    What `law` gets wrong of any run, R* takes upon itself: `fit_pairs` does without. Raises
    ValueError without repeats.
    """
    _check((runs.epochs > 1).sum(), "runs with repeated tokens")

    def residuals(of: Runs) -> Callable[[Array], Array]:
        return lambda r: np.log(
            Repetition(*map(float, r)).loss(law, of.params, of.tokens, of.unique) / of.loss
        )

    return _fit(runs, residuals, 2, draws)


def fit_pairs(runs: Runs, law: LossLaw, epochs: float = LONGEST, draws: int = 200) -> Fit:
    """R* of the tokens alone, from what repeated tokens cost against fresh ones in runs of the
    same size and length, so that only the slope of `law` in the tokens counts. Runs of more
    epochs are left out: large models overfit there, which a worth of tokens that never falls
    can't say. Raises ValueError without such pairs.
    """
    pairs = [
        (run, float(fresh.mean()))
        for run in np.flatnonzero((runs.epochs > 1) & (runs.epochs <= epochs))
        for fresh in [
            runs.loss[
                (runs.params == runs.params[run])
                & (runs.tokens == runs.tokens[run])
                & (runs.unique >= runs.tokens)
            ]
        ]
        if len(fresh)
    ]
    _check(
        len(pairs),
        "runs with repeated tokens beside one of the same size and length with fresh ones",
    )
    repeated = runs.select(np.array([run for run, _ in pairs]))
    beside = {
        (n, d): loss
        for n, d, loss in zip(repeated.params, repeated.tokens, [f for _, f in pairs], strict=True)
    }

    def residuals(of: Runs) -> Callable[[Array], Array]:
        fresh = np.array([beside[key] for key in zip(of.params, of.tokens, strict=True)])
        once = law.at(of.params, of.tokens)
        return lambda r: np.log(
            (
                fresh
                + law.at(of.params, Repetition(float(r[0])).effective(of.tokens, of.unique))
                - once
            )
            / of.loss
        )

    return _fit(repeated, residuals, 1, draws)


def _check(found: int, what: str) -> None:
    if found < 2:
        raise ValueError(f"{found} {what}: expected 2 or more")


def _fit(
    runs: Runs, residuals: Callable[[Runs], Callable[[Array], Array]], free: int, draws: int
) -> Fit:
    best, objective = _lowest(residuals(runs), free, "Nelder-Mead")
    other, again = _lowest(residuals(runs), free, "Powell")
    rng, subsets = np.random.default_rng(0), np.unique(runs.unique)
    drawn = []
    for _ in range(draws):
        chosen = rng.choice(subsets, len(subsets))
        rows = np.concatenate([np.flatnonzero(runs.unique == unique) for unique in chosen])
        drawn.append(_open(_lowest(residuals(runs.select(rows)), free, "Nelder-Mead")[0]))
    found = _open(best if objective <= again else other)
    return Fit(
        Repetition(*map(float, found)),
        min(objective, again),
        abs(objective - again),
        np.array(drawn).reshape(draws, 2),
    )


def _open(found: Array) -> Array:
    """(tokens, params): infinite at the upper bound, and params where they are not fitted."""
    r = np.array([*found, np.inf][:2])
    return np.where(r >= np.exp(_LOG_BOUNDS[1]) * (1 - 1e-6), np.inf, r)


def _lowest(
    residual: Callable[[Array], Array], free: int, method: Literal["Nelder-Mead", "Powell"]
) -> tuple[Array, float]:
    """R* (free,) and the objective there. It has several valleys: hence the grid."""

    def objective(logs: Array) -> float:
        size = np.abs(residual(np.exp(np.clip(logs, *_LOG_BOUNDS))))
        return float(np.where(size < _DELTA, size**2 / 2, _DELTA * (size - _DELTA / 2)).sum())

    axes = np.meshgrid(*[np.linspace(*_LOG_BOUNDS, _GRID)] * free)
    grid = np.stack([axis.ravel() for axis in axes], axis=-1)
    starts = grid[np.argsort([objective(at) for at in grid])[:_POLISHED]]
    found = [
        minimize(
            objective, at, method=method, bounds=[_LOG_BOUNDS] * free, options=_OPTIONS[method]
        )
        for at in starts
    ]
    best = min(found, key=lambda result: result.fun)
    return np.exp(np.clip(best.x, *_LOG_BOUNDS)), float(best.fun)
