"""What repeated data are worth (Muennighoff et al. 2023, arXiv 2305.16264, eq. 5): D tokens, of
which U are unique, count as

    D' = U + U R* (1 - exp(-R / R*))        with R = D / U - 1 repeats

fresh ones; and parameters beyond those that the unique tokens can feed are discounted likewise.
Lengths in tokens, losses in nats/token. `bench/repetition.py` fits R*.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from windtunnel.laws.loss import Array, LossLaw


@dataclass(frozen=True)
class Repetition:
    """R* of the tokens, in epochs: a repeat loses its worth as exp(-epoch / R*), and all repeats
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
        with np.errstate(divide="ignore"):  # at the limit: log 0
            repeats = -self.tokens * np.log1p(-np.minimum(extra / self.tokens, 1))
        return np.where(worth <= u, worth, u * (1 + repeats))

    def effective_params(self, params: ArrayLike, fed: ArrayLike) -> Array:
        """Parameters that count, where the unique tokens can feed `fed` of them."""
        return _worth(params, fed, self.params)

    def loss(self, law: LossLaw, params: ArrayLike, tokens: ArrayLike, unique: ArrayLike) -> Array:
        """The loss that a law of fresh tokens says, at what repeated ones are worth."""
        # Of more unique tokens than are read only those that are read feed anything.
        u = np.minimum(np.asarray(unique, float), tokens)
        return law.at(self.effective_params(params, fed(law, u)), self.effective(tokens, u))


PUBLISHED = Repetition(15.39, 5.31)  # C4, 182 runs of 7M to 8.7B parameters


def fed(law: LossLaw, tokens: ArrayLike) -> Array:
    """Parameters at which the two terms of the law fall alike: the size that is compute-optimal
    for these tokens.
    """
    d = np.asarray(tokens, float)
    # With C = 6ND held, D falls as N rises: the data's term then rises as N^(beta + gamma).
    rising, power = law.beta + law.gamma, law.alpha + law.gamma
    scale = math.log(law.alpha / rising) + law.log_A - law.log_B
    return np.exp(scale / power) * d ** (law.beta / power)


def _worth(total: ArrayLike, once: ArrayLike, decay: float) -> Array:
    n, u = np.asarray(total, float), np.asarray(once, float)
    if np.isinf(decay):
        return n + 0 * u
    repeats = np.maximum(n / u - 1, 0)
    return np.where(n <= u, n, u * (1 - decay * np.expm1(-repeats / decay)))
