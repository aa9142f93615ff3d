"""The batch: how the best one grows with the loss (the paper's bs = c / L^k, section 3.2), with
the tokens, or with tokens and parameters, all three straight in logarithms and fitted there; what
any batch costs in tokens (the hyperbola of the critical batch size) and in loss (the three-term
law). Batches and tokens in tokens, losses in nats/token.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult, minimize, nnls

from windtunnel.laws.named import Named

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
    """log batch = log c + exponents . columns; the first field of a law is c, the others are the
    exponents.
    """

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        raise NotImplementedError

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]  # type: ignore[arg-type]

    @classmethod
    def of_logs(cls, parameters: Array) -> Self:
        """From (log c, exponents ...)."""
        return cls(
            **dict(
                zip(
                    cls.names(),
                    [float(np.exp(parameters[0])), *map(float, parameters[1:])],
                    strict=True,
                )
            )
        )

    @classmethod
    def fit(cls, optima: Optima) -> Self:
        """Least squares in logarithms, each point by its error. Raises ValueError where the
        points can't tell.
        """
        return cls.of_logs(_estimator(cls, optima) @ np.log(optima.batch))

    def at(self, loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> Array:
        """The best batch in tokens, for a law of any kind."""
        c, *exponents = astuple(self)  # type: ignore[arg-type]
        columns = self.columns(loss, tokens, params)
        return c * np.exp(sum(e * column for e, column in zip(exponents, columns, strict=True)))


@dataclass(frozen=True)
class ByLoss(_Straight):
    """bs = c / L^k."""

    c: float
    k: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [-np.log(loss)]

    def predict(self, loss: float) -> float:
        return self.c / loss**self.k


@dataclass(frozen=True)
class ByTokens(_Straight):
    """bs = c D^p."""

    c: float
    p: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [np.log(tokens)]

    def predict(self, tokens: float) -> float:
        return self.c * tokens**self.p

    def tokens(self, batch: float) -> float:
        """With which a batch is the best one."""
        return (batch / self.c) ** (1 / self.p)


@dataclass(frozen=True)
class ByTokensParams(_Straight):
    """bs = c D^p N^q."""

    c: float
    p: float
    q: float

    @staticmethod
    def columns(loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> list[Array]:
        return [np.log(tokens), np.log(params)]

    def predict(self, tokens: float, params: float) -> float:
        return self.c * tokens**self.p * params**self.q


BatchLaw = ByLoss | ByTokens | ByTokensParams
BATCH_LAWS: Named[type[BatchLaw]] = Named(
    "law of the batch", {"loss": ByLoss, "tokens": ByTokens, "tokens_params": ByTokensParams}
)

# By mean regret on StepLaw's 17 cells where not fitted (sizes and lengths left out, larger sizes,
# longer runs; the rate tuned at each batch), in 1e-3 nats/token: tokens_params 0.67, tokens 1.18,
# loss 6.33; the three-term law, which is fitted to losses and not to best batches, 0.95; one
# batch for all 5.07 (bench/batch_laws.py). R2: 0.94, 0.87, 0.32.
ORDER = ("tokens_params", "tokens", "loss")
DEFAULT = ORDER[0]


@dataclass(frozen=True)
class BatchFit:
    """A law, and laws as they might as well be: draws of (log c, exponents ...), (draws,
    parameters).
    """

    law: BatchLaw
    draws: Array

    def interval(self, name: str) -> tuple[float, float]:
        """90%, of a parameter."""
        index = self.law.names().index(name)
        return _inner(np.exp(self.draws[:, index]) if index == 0 else self.draws[:, index])

    def predicted(self, loss: float, tokens: float, params: float) -> tuple[float, float, float]:
        """The best batch there, and its 90% interval: of the law, not of the scatter about it."""
        columns = np.array([1.0, *map(float, self.law.columns(loss, tokens, params))])
        return float(self.law.at(loss, tokens, params)), *_inner(np.exp(self.draws @ columns))


def fit_batch(name: str, optima: Optima, redrawn: Sequence[Optima] = ()) -> BatchFit:
    """The law through measured optima, with its uncertainty.

    Without `redrawn` the points are taken as independent, their errors as right up to a factor
    that their scatter tells: Student's t. With `redrawn` (the same optima out of measurements
    drawn anew, so that whatever errors they share stay shared, in the tokens too) each draw is
    fitted; where the points scatter about the law more than their errors say, the draws are
    widened by the root of chi square over its degrees of freedom (Birge). Raises ValueError where
    the points can't tell the parameters, and for an unknown name.
    """
    kind = BATCH_LAWS[name]
    law, estimator = kind.fit(optima), _estimator(kind, optima)
    logs = estimator @ np.log(optima.batch)
    misfit = (
        np.log(optima.batch) - np.log(law.at(optima.loss, optima.tokens, optima.params))
    ) / optima.error
    free = len(optima) - len(logs)
    chi = float(misfit @ misfit) / max(1, free)
    if redrawn:
        weights = optima.error
        draws = np.array([_logs(kind.fit(replace(drawn, error=weights))) for drawn in redrawn])
        centre = np.median(draws, axis=0)
        return BatchFit(law, logs + (draws - centre) * max(1.0, chi**0.5))
    if free < 1:
        raise ValueError(
            f"{len(optima)} independent points fix the {len(logs)} parameters and leave no error to see"
        )
    covariance = chi * (estimator * optima.error**2) @ estimator.T
    rng = np.random.default_rng(0)
    spread = rng.multivariate_normal(np.zeros(len(logs)), covariance, _DRAWS)
    return BatchFit(law, logs + spread / np.sqrt(rng.chisquare(free, (_DRAWS, 1)) / free))


def best_available(optima: Optima, redrawn: Sequence[Optima] = ()) -> tuple[str, BatchFit]:
    """The key and the fit of the first law of ORDER that these optima can tell: one size alone
    can't tell how the batch goes with N, nor one length how it goes with D. Raises ValueError
    where they tell none.
    """
    refusals = []
    for name in ORDER:
        try:
            return name, fit_batch(name, optima, redrawn)
        except ValueError as error:
            refusals.append(f"{name}: {error}")
    raise ValueError(f"no law of the batch: {'; '.join(refusals)}")


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


@dataclass(frozen=True)
class Hyperbola:
    """Tokens that each batch needs for one loss: floor + rising bs + falling / bs.

    A large batch wastes tokens in proportion to itself: E = Emin (1 + bs / Bcrit), and as many
    steps as S = Smin (1 + Bcrit / bs) (McCandlish et al. 2018), with Emin the floor and Smin
    `rising`. A small one, at a rate too high for it, wastes them in proportion to its noise, 1 /
    bs. Each parameter a number, or (...,) of many.
    """

    floor: Array
    rising: Array
    falling: Array

    @classmethod
    def fit(cls, batch: ArrayLike, tokens: ArrayLike, falls: bool = True) -> Self:
        """By relative least squares; batch (n,), tokens (..., n). `falls` False: McCandlish's two
        terms alone, for runs whose rate was tuned at each batch.
        """
        b, t = np.asarray(batch, float), np.asarray(tokens, float)
        if len(b) < 2 + falls or not ((b > 0).all() and (t > 0).all()):
            raise ValueError(
                f"{len(b)} batches: expected {2 + falls} or more, and tokens that are positive numbers"
            )
        middle, scale = np.exp(np.log(b).mean()), np.exp(np.log(t).mean(-1, keepdims=True))
        columns = np.column_stack([np.ones_like(b), b / middle, middle / b][: 2 + falls])
        design = columns / (t / scale)[..., None]
        fitted = np.moveaxis(
            np.linalg.pinv(design).sum(-1) * scale, -1, 0
        )  # the right side is all ones
        return cls(
            fitted[0], fitted[1] / middle, fitted[2] * middle if falls else np.zeros_like(fitted[0])
        )

    def at(self, batch: ArrayLike) -> Array:
        """Tokens, (..., n) of batches (n,)."""
        b = np.asarray(batch, float)
        floor, rising, falling = (
            np.asarray(values)[..., None] for values in (self.floor, self.rising, self.falling)
        )
        return floor + rising * b + falling / b

    @property
    def critical(self) -> Array:
        """Bcrit: the batch that needs twice the tokens that the smallest would, at a rate tuned
        for each.
        """
        return self.floor / self.rising

    @property
    def best(self) -> Array:
        """The batch that needs fewest tokens: 0 or infinite where tokens only rise or only fall
        with the batch, nan where they do neither.
        """
        rising, falling = np.asarray(self.rising), np.asarray(self.falling)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.sqrt(falling / rising)
        return np.select(
            [(rising > 0) & (falling > 0), rising > 0, falling > 0],
            [inside, np.zeros_like(rising), np.inf],
            np.nan,
        )

    @property
    def fewest(self) -> Array:
        """Tokens at the best batch, nan where there is none."""
        with np.errstate(invalid="ignore"):
            return self.floor + 2 * np.sqrt(self.rising * self.falling)


@dataclass(frozen=True)
class ThreeTerm:
    """L = E + A / N^a + B / steps^b + C / bs^c, steps = D / bs (Schaipp 2026): learnt from runs
    of any batch, so few are needed. Its best batch goes as D^(b / (b + c)), whatever N.
    """

    E: float
    A: float
    a: float
    B: float
    b: float
    C: float
    c: float
    rmse: float  # nats/token, of the points it was fitted to

    @classmethod
    def fit(cls, params: ArrayLike, tokens: ArrayLike, batch: ArrayLike, loss: ArrayLike) -> Self:
        """Least squares, by variable projection: the exponents by L-BFGS from the best of a grid,
        the rest by non-negative least squares. Of one size there is no A, and E is that size's.
        Raises ValueError where there are fewer points than parameters, only one batch or one
        length, or no best batch in the losses.
        """
        n, d, bs, losses = (np.asarray(values, float) for values in (params, tokens, batch, loss))
        for name, values in (("params", n), ("tokens", d), ("batch", bs), ("loss", losses)):
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"{name}: expected positive numbers")
        sizes, lengths, batches = (len(np.unique(values)) for values in (n, d, bs))
        if min(lengths, batches) < 2 or len(losses) < 8:
            raise ValueError(
                f"{len(losses)} points of {lengths} lengths and {batches} batches: expected 8 or more, of "
                "two lengths and two batches at least"
            )
        columns = [n, d / bs, bs] if sizes > 1 else [d / bs, bs]
        exponents, (floor, *weights), squares = _project(columns, losses)
        if min(weights[-2:]) <= 0:
            way = "rise" if weights[-1] <= 0 else "fall"
            raise ValueError(f"losses only {way} with the batch: expected them to have a best one")
        if sizes == 1:
            exponents, weights = np.array([0.0, *exponents]), [0.0, *weights]
        (a, b, c), (A, B, C) = map(float, exponents), map(float, weights)
        return cls(float(floor), A, a, B, b, C, c, float(np.sqrt(squares / len(losses))))

    def loss(self, params: ArrayLike, tokens: ArrayLike, batch: ArrayLike) -> Array:
        n, d, bs = (np.asarray(values, float) for values in (params, tokens, batch))
        return self.E + self.A * n**-self.a + self.B * (d / bs) ** -self.b + self.C * bs**-self.c

    @property
    def exponent(self) -> float:
        """Of the tokens, in the best batch."""
        return self.b / (self.b + self.c)

    def predict(self, tokens: ArrayLike) -> Array:
        """The batch of least loss at so many tokens."""
        scale = (self.c * self.C / (self.b * self.B)) ** (1 / (self.b + self.c))
        return scale * np.asarray(tokens, float) ** self.exponent

    def at(self, loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> Array:
        """The best batch, asked for as of the other laws."""
        return self.predict(tokens)


_EXPONENTS = (0.05, 0.1, 0.2, 0.4, 0.8)  # where the search for exponents starts
_BOUNDS = (np.log(0.01), np.log(4.0))


def _project(columns: Sequence[Array], loss: Array) -> tuple[Array, Array, float]:
    """Exponents, weights (the first of a constant) and the sum of squares of loss = constant +
    sum of weight / column^exponent.
    """
    middles = np.array([np.log(column).mean() for column in columns])
    logs = np.log(np.array(columns)) - middles[:, None]

    def solve(exponents: Array) -> tuple[Array, Array, float]:
        design = np.vstack([np.ones_like(loss), np.exp(-exponents[:, None] * logs)]).T
        weights, norm = nnls(design, loss)
        return design, weights, float(norm**2)

    def squares(log_exponents: Array) -> tuple[float, Array]:
        """And the gradient: the weights are at their best already, so that only the exponents
        count.
        """
        exponents = np.exp(log_exponents)
        design, weights, total = solve(exponents)
        residual = design @ weights - loss
        return total, -2 * weights[1:] * exponents * ((residual * logs) @ design[:, 1:]).diagonal()

    grid = sorted(
        product(_EXPONENTS, repeat=len(columns)),
        key=lambda exponents: solve(np.array(exponents))[2],
    )
    found: list[OptimizeResult] = [
        minimize(
            squares,
            np.log(start),
            jac=True,
            method="L-BFGS-B",
            bounds=[_BOUNDS] * len(columns),
            options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-12},
        )
        for start in grid[:3]
    ]
    exponents = np.exp(min(found, key=lambda result: result.fun).x)
    _, weights, total = solve(exponents)
    return exponents, weights * np.exp([0.0, *(exponents * middles)]), total
