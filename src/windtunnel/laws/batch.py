"""How the best batch grows: with the loss (the paper's bs = c / L^k, section 3.2), with the tokens, or with both tokens
and parameters. All three are straight in logarithms, and fitted there."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.9
_DRAWS = 4000

Array = NDArray[np.float64]


@dataclass(frozen=True)
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
        return Optima(*(values[kept] for values in astuple(self)))


class _Straight:
    """log batch = log c + exponents . columns; the first field of a law is c, the others are the exponents."""

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        raise NotImplementedError

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]  # type: ignore[arg-type]

    @classmethod
    def of_logs(cls, parameters: Array) -> Self:
        """From (log c, exponents ...)."""
        return cls(**dict(zip(cls.names(), [float(np.exp(parameters[0])), *map(float, parameters[1:])], strict=True)))

    @classmethod
    def fit(cls, optima: Optima) -> Self:
        """Least squares in logarithms, each point by its error. Raises ValueError where the points can't tell."""
        return cls.of_logs(_estimator(cls, optima) @ np.log(optima.batch))

    def at(self, loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> Array:
        """The best batch in tokens, for a law of any kind."""
        c, *exponents = astuple(self)  # type: ignore[arg-type]
        columns = self.columns(loss, tokens, params)
        return c * np.exp(sum(e * column for e, column in zip(exponents, columns, strict=True)))


@dataclass(frozen=True)
class LossLaw(_Straight):
    """bs = c / L^k."""

    c: float
    k: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [-np.log(loss)]

    def predict(self, loss: float) -> float:
        return self.c / loss**self.k


@dataclass(frozen=True)
class TokensLaw(_Straight):
    """bs = c D^p."""

    c: float
    p: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [np.log(tokens)]

    def predict(self, tokens: float) -> float:
        return self.c * tokens**self.p


@dataclass(frozen=True)
class TokensParamsLaw(_Straight):
    """bs = c D^p N^q."""

    c: float
    p: float
    q: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [np.log(tokens), np.log(params)]

    def predict(self, tokens: float, params: float) -> float:
        return self.c * tokens**self.p * params**self.q


Law = LossLaw | TokensLaw | TokensParamsLaw
LAWS: dict[str, type[Law]] = {"loss": LossLaw, "tokens": TokensLaw, "tokens_params": TokensParamsLaw}


@dataclass(frozen=True)
class Fit:
    """A law, and laws as they might as well be: draws of (log c, exponents ...), (draws, parameters)."""

    law: Law
    draws: Array

    def interval(self, name: str) -> tuple[float, float]:
        """90%, of a parameter."""
        index = self.law.names().index(name)
        return _inner(np.exp(self.draws[:, index]) if index == 0 else self.draws[:, index])

    def predicted(self, loss: float, tokens: float, params: float) -> tuple[float, float, float]:
        """The best batch there, and its 90% interval: of the law, not of the scatter about it."""
        columns = np.array([1.0, *map(float, self.law.columns(loss, tokens, params))])
        return float(self.law.at(loss, tokens, params)), *_inner(np.exp(self.draws @ columns))


def fit(kind: type[Law], optima: Optima, redrawn: Sequence[Optima] = ()) -> Fit:
    """The law through measured optima, with its uncertainty.

    Without `redrawn` the points are taken as independent, their errors as right up to a factor that their scatter
    tells: Student's t. With `redrawn` (the same optima out of measurements drawn anew, so that whatever errors they
    share stay shared, in the tokens too) each draw is fitted; where the points scatter about the law more than their
    errors say, the draws are widened by the root of chi square over its degrees of freedom (Birge).
    Raises ValueError where the points can't tell the parameters.
    """
    law, estimator = kind.fit(optima), _estimator(kind, optima)
    logs = estimator @ np.log(optima.batch)
    misfit = (np.log(optima.batch) - np.log(law.at(optima.loss, optima.tokens, optima.params))) / optima.error
    free = len(optima) - len(logs)
    chi = float(misfit @ misfit) / max(1, free)
    if redrawn:
        weights = optima.error
        draws = np.array([_logs(kind.fit(replace(drawn, error=weights))) for drawn in redrawn])
        centre = np.median(draws, axis=0)
        return Fit(law, logs + (draws - centre) * max(1.0, chi**0.5))
    if free < 1:
        raise ValueError(f"{len(optima)} independent points fix the {len(logs)} parameters and leave no error to see")
    covariance = chi * (estimator * optima.error**2) @ estimator.T
    rng = np.random.default_rng(0)
    spread = rng.multivariate_normal(np.zeros(len(logs)), covariance, _DRAWS)
    return Fit(law, logs + spread / np.sqrt(rng.chisquare(free, (_DRAWS, 1)) / free))


def _logs(law: Any) -> Array:
    c, *exponents = astuple(law)
    return np.array([np.log(c), *exponents])


def _estimator(kind: type[Any], optima: Optima) -> Array:
    """The matrix that takes log batches to (log c, exponents ...)."""
    columns = kind.columns(optima.loss, optima.tokens, optima.params)
    design = np.column_stack([np.ones(len(optima)), *columns])
    middle = [0.0, *(column.mean() for column in columns)] if len(optima) else 0.0
    if np.linalg.matrix_rank(design - middle, tol=1e-6) < design.shape[1]:
        raise ValueError(f"{len(optima)} points can't tell {', '.join(kind.names())} apart")
    return np.linalg.pinv(design / optima.error[:, None]) / optima.error


def _inner(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
