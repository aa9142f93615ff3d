"""How the error of predictions grows with the distance from the points: fitted to the errors that
the same procedure made when it predicted larger and longer runs of the table from the others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from windtunnel.laws.loss import Array
from windtunnel.laws.noise import tamed
from windtunnel.laws.non_negative import non_negative

# What a prediction strays by for an e-fold of size or of tokens, at least.
_LEAST = 0.003
# And what is known beforehand: this much, as if so many more cuts had runs one e-fold beyond them
# that strayed by it. Where held-out runs lie far out, they say the most themselves; where they lie
# within half an e-fold, they can tell next to nothing. By 128 cuts of published tables and 480
# simulated studies (docs/LOG.md, 2026-11-29).
_EXPECTED = 0.008
_CUTS_ALIKE = 0.3


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Standard deviations of log loss, which add up as squares."""

    noise: float
    """Of any new run."""
    params: float
    """For each e-fold of parameters beyond the largest point."""
    tokens: float
    """For each e-fold of tokens beyond the longest."""

    def variance(self, by_size: ArrayLike, by_tokens: ArrayLike) -> Array:
        """Of log loss, so many e-folds beyond the points."""
        size, length = np.asarray(by_size, float), np.asarray(by_tokens, float)
        return self.noise**2 + (self.params * size) ** 2 + (self.tokens * length) ** 2


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Errors of log loss of the runs above one cut, (runs,) each, and how many e-folds each lies
    beyond the largest and the longest below it; 0 within.
    """

    errors: Array
    by_size: Array
    by_tokens: Array


def growth_of(held: list[HeldOut], noise: float) -> Growth:
    """Non-negative least squares of squared errors: a constant, and squares of the distances. All
    cuts count alike, and what is known beforehand as less than one. `noise`: standard deviation of
    a run's log loss about the law, at least.
    """
    if not held:
        return Growth(noise=noise, params=_EXPECTED, tokens=_EXPECTED)
    squares = tamed(np.concatenate([cut.errors for cut in held])) ** 2
    by_size = np.concatenate([cut.by_size for cut in held]) ** 2
    by_tokens = np.concatenate([cut.by_tokens for cut in held]) ** 2
    share = np.concatenate([np.full(len(cut.errors), len(cut.errors) ** -0.5) for cut in held])
    design = np.stack([np.ones_like(squares), by_size, by_tokens], axis=1)
    beforehand = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) * _CUTS_ALIKE**0.5
    weights, _ = non_negative(
        np.concatenate([design * share[:, None], beforehand])[None],
        np.concatenate([squares * share, beforehand.sum(axis=1) * _EXPECTED**2]),
    )
    constant, size, tokens = weights[0]
    return Growth(
        noise=max(noise, float(np.sqrt(constant))),
        params=max(_LEAST, float(np.sqrt(size))),
        tokens=max(_LEAST, float(np.sqrt(tokens))),
    )
