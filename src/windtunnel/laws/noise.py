"""How far measured losses scatter about a law: a part that all points of a stem share, and a part
of each point's own.

Estimated by restricted likelihood about the fitted law (Patterson and Thompson 1971), which
counts what the fit itself has absorbed; how much is shared is not settled by a few stems, so
draws follow its posterior instead of one estimate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.laws.loss import Array

_SHARED = np.linspace(0, 0.98, 25)  # shares of the variance: a flat prior


@dataclass(frozen=True, kw_only=True)
class NoisePosterior:
    """What the scatter about a law says of the noise of the natural logarithm of the loss."""

    shared: Array  # candidates for the share of the variance that a stem's points have in common
    weights: Array  # their posterior probabilities
    variance: Array  # of one point, for each candidate: scale of an inverse chi square
    freedom: int
    # standard deviation of a single run that was measured between seeds; 0: not measured
    least: float

    @classmethod
    def about(
        cls, residuals: Array, jacobian: Array, stem: NDArray[np.int64], least: float = 0.0
    ) -> "NoisePosterior":
        """From residuals (n,) of a fit, its derivatives (n, parameters) and the stem of each
        point.
        """
        freedom = len(residuals) - jacobian.shape[1]
        basis = _basis(jacobian)
        # Of stems with one point each nothing tells what they would share.
        stems_share = len(np.unique(stem)) < len(stem)
        candidates = _SHARED if stems_share else np.zeros(1)
        found = [_restricted(share, residuals, basis, stem) for share in candidates]
        likelihood, variance = np.array(found).T
        # Bayes with the flat prior; the largest is taken off so that nothing overflows.
        weights = np.exp(likelihood - likelihood.max())
        return cls(
            shared=candidates,
            weights=weights / weights.sum(),
            variance=variance,
            freedom=max(1, freedom),
            least=least,
        )

    @property
    def sd(self) -> float:
        """Standard deviation of a single point, with what its stem shares."""
        return max(float(np.sqrt(self.weights @ self.variance)), self.least)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Standard deviations (shared, own), each (count,)."""
        chosen = rng.choice(len(self.shared), count, p=self.weights)
        variance = self.variance[chosen] * self.freedom / rng.chisquare(self.freedom, count)
        variance = np.maximum(variance, self.least**2)
        share = self.shared[chosen]
        return np.sqrt(share * variance), np.sqrt((1 - share) * variance)

    def covariance(self, stem: NDArray[np.int64]) -> Array:
        """(n, n) of points of these stems, at the mean of the posterior."""
        shared = float(self.weights @ (self.shared * self.variance))
        own = float(self.weights @ ((1 - self.shared) * self.variance))
        return shared * (stem[:, None] == stem) + own * np.eye(len(stem))


def _basis(jacobian: Array) -> Array:
    """An orthonormal basis of what the fit can absorb: (n, at most its parameters)."""
    # Columns of one length, so that a small parameter counts like a large one.
    scaled = jacobian / np.linalg.norm(jacobian, axis=0).clip(1e-300)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    return left[:, values > 1e-9 * values[0]]


def _restricted(
    share: float, residuals: Array, basis: Array, stem: NDArray[np.int64]
) -> tuple[float, float]:
    """(log restricted likelihood, variance at it) where this share of the variance is the
    stem's.
    """
    _, index, sizes = np.unique(stem, return_inverse=True, return_counts=True)
    own = 1 - share

    def solve(values: Array) -> Array:
        """V^-1 values, by Woodbury's identity: V = own I + share Z Z', Z the stems' indicators."""
        sums = np.zeros((len(sizes), values.shape[1]))
        np.add.at(sums, index, values)
        return (values - (share * sums / (own + share * sizes)[:, None])[index]) / own

    solved = solve(np.column_stack([basis, residuals]))
    normal, moment = basis.T @ solved[:, :-1], basis.T @ solved[:, -1]
    freedom = len(residuals) - basis.shape[1]
    absorbed = moment @ np.linalg.solve(normal, moment)
    squares = max(float(residuals @ solved[:, -1] - absorbed), 1e-300)
    # log det V, by the eigenvalues of each stem's block: own + share n once, and own n - 1 times.
    log_det = float((np.log(own + share * sizes) + (sizes - 1) * np.log(own)).sum())
    # -2 l = log det V + log det X'V^-1 X + (n - p) log r'P r, up to a constant.
    likelihood = -0.5 * (log_det + np.linalg.slogdet(normal)[1] + freedom * np.log(squares))
    return likelihood, squares / max(1, freedom)
