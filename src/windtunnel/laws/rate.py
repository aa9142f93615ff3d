"""How the best learning rate goes with size, length and batch:

    lr = lr_0 (N / N_0)^n (D / D_0)^d (B / B_0)^b

Straight in logarithms and fitted there. A few best rates on a laptop tell some of the exponents and
not others: what they do not tell is held by what is known of each from elsewhere.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.laws.loss import Array
from windtunnel.laws.straight import fit_straight

# (mean, standard deviation) of what is known of an exponent before anything was measured.
# n: how well theory's holds; of `minicpm` it was off by 0.06 over 8 times the width (docs/LOG.md).
_PARAMS_SPREAD = 0.1
# d: D^-0.32 at one batch, of 50M to 2.7B parameters (arXiv 2409.19913, section 3); D^-0.00 over 8
# times the length at a laptop's scale (docs/LOG.md). In between.
_TOKENS = (-0.15, 0.15)
# b: Adam's rate goes by the root of the batch below the critical one (arXiv 2405.14578); as B^0.14
# over 4 times the batch here.
_BATCH = (0.3, 0.2)
_Z90 = 1.6449  # half of an interval of 90%, in standard deviations


@dataclass(frozen=True, kw_only=True)
class BestRates:
    """Best rates that were measured: arrays of one length."""

    lr: Array
    params: Array
    tokens: Array  # of the run
    batch: Array  # tokens a step
    error: Array  # standard error of the rate's natural logarithm


@dataclass(frozen=True, kw_only=True)
class RateLaw:
    """The best base rate by parameters, tokens and batch, and how surely: `covariance` (4, 4) of
    (log lr, by_params, by_tokens, by_batch). `params`, `tokens` and `batch` are where it is `lr`.
    """

    lr: float
    params: float
    tokens: float
    batch: float
    by_params: float
    by_tokens: float
    by_batch: float
    covariance: NDArray[np.float64]
    largest_batch: float = math.inf  # tokens a step, of those that were measured

    def at(self, params: float, tokens: float, batch: float) -> float:
        """The best rate of a model of so many parameters, trained on so many tokens with a batch
        of so many.
        """
        exponents = np.array([self.by_params, self.by_tokens, self.by_batch])
        return self.lr * math.exp(exponents @ self._away(params, tokens, batch))

    def interval(self, params: float, tokens: float, batch: float) -> tuple[float, float]:
        """90%, of the best rate there."""
        columns = np.array([1.0, *self._away(params, tokens, batch)])
        reach = math.exp(_Z90 * math.sqrt(columns @ self.covariance @ columns))
        best = self.at(params, tokens, batch)
        return best / reach, best * reach

    def interval_of(self, exponent: str) -> tuple[float, float]:
        """90%, of `by_params`, `by_tokens` or `by_batch`."""
        index = 1 + ("by_params", "by_tokens", "by_batch").index(exponent)
        half = _Z90 * math.sqrt(self.covariance[index, index])
        value = getattr(self, exponent)
        return value - half, value + half

    def _away(self, params: float, tokens: float, batch: float) -> Array:
        """(3,): e-folds from where the rate is `lr`."""
        return np.log([params / self.params, tokens / self.tokens, batch / self.batch])


def constant_rate(lr: float) -> RateLaw:
    """One rate for all sizes, lengths and batches."""
    return RateLaw(
        lr=lr,
        params=1.0,
        tokens=1.0,
        batch=1.0,
        by_params=0.0,
        by_tokens=0.0,
        by_batch=0.0,
        covariance=np.zeros((4, 4)),
    )


def fit_rate(best: BestRates, by_params: float = 0.0) -> RateLaw:
    """By Bayes (`fit_straight`): the rate at the points' middle is free, exponents are normal about
    what is known of them. `by_params`: what theory says of that one; 0 where the parametrization is
    to keep the rate where it is. Raises ValueError without a point.
    """
    if not len(best.lr):
        raise ValueError("no best rate was measured")
    where = np.column_stack([best.params, best.tokens, best.batch])
    known = np.array([(by_params, _PARAMS_SPREAD), _TOKENS, _BATCH])
    found = fit_straight(where, best.lr, best.error, known)
    params, tokens, batch = map(float, np.exp(found.middle))
    params_power, by_tokens, by_batch = map(float, found.powers)
    return RateLaw(
        lr=math.exp(found.level),
        params=params,
        tokens=tokens,
        batch=batch,
        by_params=params_power,
        by_tokens=by_tokens,
        by_batch=by_batch,
        covariance=found.covariance,
        largest_batch=float(best.batch.max()),
    )
