"""How the best batch grows: with the loss (the paper's bs = c / L^k, section 3.2), with the
tokens, or with tokens and parameters. All are straight in logarithms and fitted there. Batches and
tokens in tokens, losses in nats/token. What a batch that is not the best one costs:
`batch_cost.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.loss import Array
from windtunnel.laws.named import Named
from windtunnel.laws.straight import fit_straight

LEVEL = 0.9  # of the intervals
_DRAWS = 4000
_Z90 = 1.6449  # half of an interval of 90%, in standard deviations
# (mean, standard deviation) of what is known of ByTokens' power before anything was measured: 0.57
# of runs of 2e9 to 1e11 tokens (arXiv 2503.04715), 0.49 at a laptop's scale (`laptop.BATCH_LAW`).
_POWER = (0.53, 0.15)


@dataclass(frozen=True, kw_only=True)
class Optima:
    """Best batches that were measured: arrays of one length."""

    batch: Array  # tokens
    loss: Array  # nats/token at that batch
    tokens: Array  # with which the loss is reached
    params: Array
    error: Array  # standard error of the batch's natural logarithm

    def __len__(self) -> int:
        return len(self.batch)

    def select(self, kept: NDArray[np.bool_]) -> "Optima":
        """The best batches of a mask."""
        return Optima(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})


@dataclass(frozen=True)
class BatchLaw:
    """log batch = log c + exponents . columns. The first field of a law is c, the others are its
    exponents, one for each column.
    """

    # How the fitted law is written; names in braces are its fields.
    formula: ClassVar[str]
    # Mean regret on StepLaw's 17 cells (arXiv 2503.04715) where the law was not fitted: sizes and
    # lengths left out, larger sizes, longer runs; the rate tuned at each batch. In nats/token, by
    # bench/batch_laws.py. The three-term law, which is fitted to losses and not to best batches,
    # has 0.00095, one batch for all 0.00507.
    regret: ClassVar[float] = math.inf

    c: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        """What the batch goes with, (n,) each."""
        raise NotImplementedError

    @classmethod
    def names(cls) -> list[str]:
        """Its parameters: c, and the exponents."""
        return [field.name for field in fields(cls)]

    @classmethod
    def of_logs(cls, parameters: Array) -> Self:
        """From (log c, exponents ...)."""
        return cls(float(np.exp(parameters[0])), *map(float, parameters[1:]))

    @classmethod
    def fit(cls, optima: Optima) -> Self:
        """Least squares in logarithms, each point by its error. Raises ValueError where the
        points can't tell.
        """
        return cls.of_logs(_estimator(cls, optima) @ np.log(optima.batch))

    def at(self, loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> Array:
        """The best batch in tokens, asked for alike of every law; arrays broadcast."""
        c, *exponents = astuple(self)
        columns = self.columns(loss, tokens, params)
        return c * np.exp(sum(e * column for e, column in zip(exponents, columns, strict=True)))


@dataclass(frozen=True)
class ByLoss(BatchLaw):
    """bs = c / L^k."""

    formula = "bs = {c:.3g} / L^{k:.2f}"
    regret = 6.39e-3

    k: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        """-log L."""
        return [-np.log(loss)]

    def predict(self, loss: float) -> float:
        """The best batch at this loss."""
        return self.c / loss**self.k


@dataclass(frozen=True)
class ByTokens(BatchLaw):
    """bs = c D^p."""

    formula = "bs = {c:.3g} D^{p:.2f}"
    regret = 1.18e-3

    p: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        """log D."""
        return [np.log(tokens)]

    def predict(self, tokens: float) -> float:
        """The best batch of a run of so many tokens."""
        return self.c * tokens**self.p

    def tokens(self, batch: float) -> float:
        """The length of run for which a batch is the best one."""
        return (batch / self.c) ** (1 / self.p)


@dataclass(frozen=True)
class ByTokensParams(BatchLaw):
    """bs = c D^p N^q."""

    formula = "bs = {c:.3g} D^{p:.2f} N^{q:.2f}"
    regret = 0.67e-3

    p: float
    q: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        """log D and log N."""
        return [np.log(tokens), np.log(params)]

    def predict(self, tokens: float, params: float) -> float:
        """The best batch of a run of so many tokens and parameters."""
        return self.c * tokens**self.p * params**self.q


BATCH_LAWS: Named[type[BatchLaw]] = Named(
    "law of the batch", {"loss": ByLoss, "tokens": ByTokens, "tokens_params": ByTokensParams}
)


def by_regret() -> list[str]:
    """The names of the laws, the one that costs least where it was not fitted first."""
    return sorted(BATCH_LAWS, key=lambda name: BATCH_LAWS[name].regret)


L = TypeVar("L", bound=BatchLaw, covariant=True)


@dataclass(frozen=True)
class BatchFit(Generic[L]):
    """A law, and laws as they might as well be."""

    law: L
    draws: Array  # (draws, parameters) of (log c, exponents ...)

    def interval(self, name: str) -> tuple[float, float]:
        """90%, of a parameter."""
        index = self.law.names().index(name)
        values = self.draws[:, index]
        return _inner(np.exp(values) if index == 0 else values)

    @property
    def covariance(self) -> Array:
        """(parameters, parameters) of (log c, exponents ...): all that a batch elsewhere needs to
        be known with its interval.
        """
        return np.atleast_2d(np.cov(self.draws.T))

    def predicted(self, loss: float, tokens: float, params: float) -> tuple[float, float, float]:
        """The best batch there, and its 90% interval: of the law, not of the scatter about it."""
        columns = np.array([1.0, *map(float, self.law.columns(loss, tokens, params))])
        low, high = _inner(np.exp(self.draws @ columns))
        return float(self.law.at(loss, tokens, params)), low, high


def interval_of(
    law: BatchLaw, covariance: Array, loss: float, tokens: float, params: float
) -> tuple[float, float]:
    """90%, of the best batch there, by the covariance of the law's (log c, exponents ...)."""
    columns = np.array([1.0, *map(float, law.columns(loss, tokens, params))])
    reach = np.exp(_Z90 * np.sqrt(columns @ covariance @ columns))
    batch = float(law.at(loss, tokens, params))
    return batch / float(reach), batch * float(reach)


def fit_batch(name: str, optima: Optima, redrawn: Sequence[Optima] = ()) -> BatchFit[BatchLaw]:
    """The law of this name (one of `BATCH_LAWS`) through measured optima, with its uncertainty.

    Without `redrawn` the points are taken as independent, their errors as right up to a factor
    that their scatter tells: Student's t. With `redrawn` (the same optima as they might as well
    be, all of them in a draw, so that errors that they share stay shared, in the losses too) each
    draw is fitted; where the points scatter about the law more than their errors say, the draws are
    widened by the root of chi square over its degrees of freedom (Birge 1932). Raises ValueError
    where the points can't tell the parameters, and for an unknown name.
    """
    kind = BATCH_LAWS[name]
    law, estimator = kind.fit(optima), _estimator(kind, optima)
    logs = estimator @ np.log(optima.batch)
    said = law.at(optima.loss, optima.tokens, optima.params)
    misfit = (np.log(optima.batch) - np.log(said)) / optima.error
    free = len(optima) - len(logs)
    chi = float(misfit @ misfit) / max(1, free)
    if redrawn:
        refitted = [kind.fit(replace(drawn, error=optima.error)) for drawn in redrawn]
        draws = np.array([_logs(other) for other in refitted])
        # About the median, since the draws have a bias of their own.
        centre = np.median(draws, axis=0)
        return BatchFit(law, logs + (draws - centre) * max(1.0, chi**0.5))
    if free < 1:
        raise ValueError(
            f"{len(optima)} independent points fix the {len(logs)} parameters and leave no error "
            "to see"
        )
    # Of the parameters, with errors as large as the scatter says.
    covariance = chi * (estimator * optima.error**2) @ estimator.T
    rng = np.random.default_rng(0)
    normal = rng.multivariate_normal(np.zeros(len(logs)), covariance, _DRAWS)
    # How large the errors are is known from `free` points alone.
    student = normal / np.sqrt(rng.chisquare(free, (_DRAWS, 1)) / free)
    return BatchFit(law, logs + student)


def fit_by_tokens(optima: Optima) -> BatchFit[ByTokens]:
    """`ByTokens` through best batches of few lengths, by Bayes (`fit_straight`): c is free, and the
    power normal about what is known of it. Raises ValueError without a best batch.
    """
    if not len(optima):
        raise ValueError("no best batch was measured")
    known = np.array([_POWER])
    found = fit_straight(optima.tokens[:, None], optima.batch, optima.error, known)
    # from the level at the middle of the lengths to log c, which is that at one token
    from_middle = np.array([[1.0, -found.middle[0]], [0.0, 1.0]])
    logs = from_middle @ np.array([found.level, *found.powers])
    covariance = from_middle @ found.covariance @ from_middle.T
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(logs, covariance, _DRAWS)
    return BatchFit(ByTokens.of_logs(logs), draws)


def best_available(
    optima: Optima, redrawn: Sequence[Optima] = ()
) -> tuple[str, BatchFit[BatchLaw]]:
    """The name and the fit of the law of least regret that these optima can tell: one size alone
    can't tell how the batch goes with N, nor one length how it goes with D. Raises ValueError
    where they tell none.
    """
    refusals = []
    for name in by_regret():
        try:
            return name, fit_batch(name, optima, redrawn)
        except ValueError as error:
            refusals.append(f"{name}: {error}")
    raise ValueError(f"no law of the batch: {'; '.join(refusals)}")


def _logs(law: BatchLaw) -> Array:
    """(log c, exponents ...)."""
    c, *exponents = astuple(law)
    return np.array([np.log(c), *exponents])


def _estimator(kind: type[BatchLaw], optima: Optima) -> Array:
    """The matrix (parameters, n) that takes log batches to (log c, exponents ...)."""
    columns = kind.columns(optima.loss, optima.tokens, optima.params)
    design = np.column_stack([np.ones(len(optima)), *columns])
    # About their means: far from 0 two columns may look like one.
    middle = [0.0, *(column.mean() for column in columns)] if len(optima) else 0.0
    if np.linalg.matrix_rank(design - middle, tol=1e-6) < design.shape[1]:
        raise ValueError(f"{len(optima)} points can't tell {', '.join(kind.names())} apart")
    # Weighted least squares: pinv(W X) W, with W = 1 / error.
    return np.linalg.pinv(design / optima.error[:, None]) / optima.error


def _inner(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
