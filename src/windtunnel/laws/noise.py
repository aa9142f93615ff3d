"""How far measured losses scatter about a law: a part that all points of a stem share, a part that
all points of a length and a seed share (they read the same text, up to the same token), and a part
of each point's own.

Estimated by restricted likelihood about the fitted law (Patterson and Thompson 1971), which
counts what the fit itself has absorbed; how much is shared is not settled by a few stems and
lengths, so draws follow its posterior instead of one estimate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.loss import Array

_SHARES = np.linspace(0, 0.98, 15)  # of the variance: a flat prior
# Of more lengths than these, what each shares is one of many errors: as good as its points' own.
_MOST_LENGTHS = 64
_DIGITS = 6  # of log tokens
_ROUNDING = 1e-9  # of log loss: no table has it to more digits


OUTLIER = 2.5  # standard deviations beyond which no error counts
_MAD = 1.4826  # standard deviations of a normal law, for a median of magnitudes of 1


def robust_sd(errors: Array) -> float:
    """Standard deviation of errors about 0, by the median of their magnitudes."""
    return _MAD * float(np.median(np.abs(errors)))


def tamed(errors: Array) -> Array:
    """Magnitudes, none beyond a few standard deviations of what they scatter by: an outlier says
    nothing of a law.
    """
    return np.minimum(np.abs(errors), OUTLIER * robust_sd(errors))


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The stem of each point, and the text that it read: (n,) numbers from 0. Runs of one seed read
    the same text up to the same length.
    """

    stem: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def of(cls, stem: ArrayLike, tokens: ArrayLike, seed: ArrayLike = 0) -> "Groups":
        """Of points with these stems, tokens and seeds; tokens that differ by rounding are one
        length.
        """
        stems = np.unique(np.asarray(stem), return_inverse=True)[1]
        log_tokens = np.log(np.asarray(tokens, float)).round(_DIGITS)
        seeds = np.broadcast_to(np.asarray(seed), log_tokens.shape)
        texts = np.stack([log_tokens, seeds])
        lengths = np.unique(texts, axis=1, return_inverse=True)[1].ravel()
        return cls(stem=stems.astype(np.int64), length=lengths.astype(np.int64))

    @property
    def stems_share(self) -> bool:
        """Whether any stem has two points: else nothing tells what it would share."""
        return bool(self.stem.max() + 1 < len(self.stem))

    @property
    def lengths_share(self) -> bool:
        """Whether any length has two points, and each counts."""
        return bool(self.length.max() + 1 < min(len(self.length), _MOST_LENGTHS + 1))

    def summed(self, columns: Array) -> tuple[Array, Array]:
        """Sums of columns (n, k) over the points of each stem, (stems, k), and of each length."""
        return _summed(self.stem, columns), _summed(self.length, columns)


@dataclass(frozen=True, kw_only=True)
class NoiseDraws:
    """Standard deviations of log loss, (draws,) each."""

    stem: Array
    length: Array
    own: Array

    @property
    def sd(self) -> Array:
        """Of a single point."""
        return np.sqrt(self.stem**2 + self.length**2 + self.own**2)


@dataclass(frozen=True, kw_only=True)
class NoisePosterior:
    """What the scatter about a law says of the noise of the natural logarithm of the loss."""

    # (candidates, 2): shares of the variance that a stem's points, and a length's, have in common
    shares: Array
    weights: Array  # their posterior probabilities
    variance: Array  # of one point, for each candidate: scale of an inverse chi square
    freedom: int
    # standard deviation of a single run that was measured between seeds; 0: not measured
    least: float

    @classmethod
    def about(
        cls, residuals: Array, jacobian: Array, groups: Groups, least: float = 0.0
    ) -> "NoisePosterior":
        """From residuals (n,) of a fit and its derivatives (n, parameters)."""
        stem = _SHARES if groups.stems_share else np.zeros(1)
        length = _SHARES if groups.lengths_share else np.zeros(1)
        grid = np.stack(np.meshgrid(stem, length, indexing="ij"), axis=-1).reshape(-1, 2)
        # Something is left to each point alone.
        shares = grid[grid.sum(1) <= _SHARES[-1] + 1e-9]
        likelihood, variance = _restricted(shares, residuals, _basis(jacobian), groups)
        # Bayes with the flat prior; the largest is taken off so that nothing overflows.
        weights = np.exp(likelihood - likelihood.max())
        return cls(
            shares=shares,
            weights=weights / weights.sum(),
            variance=variance,
            freedom=max(1, len(residuals) - jacobian.shape[1]),
            least=least,
        )

    @property
    def sd(self) -> float:
        """Standard deviation of a single point, with what it shares."""
        return max(float(np.sqrt(self.weights @ self.variance)), self.least)

    @property
    def parts(self) -> tuple[float, float, float]:
        """Variances at the mean of the posterior: of stems, of lengths, of each point's own."""
        stem, length = (self.weights * self.variance) @ self.shares
        own = float(self.weights @ (self.variance * (1 - self.shares.sum(1))))
        return float(stem), float(length), own

    def draw(self, count: int, rng: np.random.Generator) -> NoiseDraws:
        """As it might as well be."""
        chosen = rng.choice(len(self.weights), count, p=self.weights)
        variance = self.variance[chosen] * self.freedom / rng.chisquare(self.freedom, count)
        variance = np.maximum(variance, self.least**2)
        stem, length = self.shares[chosen].T
        return NoiseDraws(
            stem=np.sqrt(stem * variance),
            length=np.sqrt(length * variance),
            own=np.sqrt(np.maximum(0.0, 1 - stem - length) * variance),
        )

    def root_of(self, weights: Array, groups: Groups) -> Array:
        """A root (at most k, k) of the covariance of sums of the points' log losses with weights
        (n, k), at the mean of the posterior: the covariance is its transpose times itself.
        """
        stem, length, own = np.sqrt(self.parts)
        by_stem, by_length = groups.summed(weights)
        independent = np.concatenate([stem * by_stem, length * by_length, own * weights])
        return np.asarray(np.linalg.qr(independent, mode="r"), np.float64)


def _basis(jacobian: Array) -> Array:
    """An orthonormal basis of what the fit can absorb: (n, at most its parameters)."""
    # Columns of one length, so that a small parameter counts like a large one.
    scaled = jacobian / np.linalg.norm(jacobian, axis=0).clip(1e-300)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    return left[:, values > 1e-9 * values[0]]


def _restricted(
    shares: Array, residuals: Array, basis: Array, groups: Groups
) -> tuple[Array, Array]:
    """(log restricted likelihood, variance at it), (candidates,) each, of these shares.

    With U = [basis, residuals] and R = [Z, W] the indicators of stems and lengths, V = own I +
    R S S R' with S the roots of the shares. By Woodbury's identity everything that is asked of V
    follows from sums over the groups: with K = own I + S R'R S,

        U' V^-1 U = (U'U - (S R'U)' K^-1 (S R'U)) / own,  det V = own^(n - k) det K,

    and since a point has one stem, K's block of stems is diagonal: only the lengths are left to
    solve for, by its Schur complement. Stems of as many points are alike in that block, so sums
    over stems are taken once for each number of points, not for each candidate.
    """
    told = np.column_stack([basis, residuals])
    by_stem, by_length = groups.summed(told)
    stems, lengths = len(by_stem), len(by_length)
    points_of_stem, kind, count = np.unique(
        np.bincount(groups.stem), return_inverse=True, return_counts=True
    )
    alike = [kind == at for at in range(len(count))]
    points_of_length = np.bincount(groups.length).astype(float)
    stem, length = shares.T
    own = 1 - stem - length
    # 1. the block of stems, (candidates, numbers of points)
    diagonal = own[:, None] + stem[:, None] * points_of_stem
    taken = stem[:, None] / diagonal
    absorbed = np.tensordot(taken, np.stack([by_stem[s].T @ by_stem[s] for s in alike]), 1)
    log_det = np.log(diagonal) @ count + (len(residuals) - stems) * np.log(own)
    # 2. what the lengths add to it
    if groups.lengths_share:
        met = np.zeros((stems, lengths))  # Z'W: points of each stem and length
        np.add.at(met, (groups.stem, groups.length), 1.0)
        own_block = own[:, None] + length[:, None] * points_of_length
        through = np.tensordot(taken, np.stack([met[s].T @ met[s] for s in alike]), 1)
        schur = own_block[:, :, None] * np.eye(lengths) - length[:, None, None] * through
        crossed = np.tensordot(taken, np.stack([met[s].T @ by_stem[s] for s in alike]), 1)
        right = np.sqrt(length)[:, None, None] * (by_length - crossed)
        absorbed += right.transpose(0, 2, 1) @ np.linalg.solve(schur, right)
        log_det += np.linalg.slogdet(schur)[1] - lengths * np.log(own)
    solved = (told.T @ told - absorbed) / own[:, None, None]
    normal, moment = solved[:, :-1, :-1], solved[:, :-1, -1]
    explained = (moment * np.linalg.solve(normal, moment[..., None])[..., 0]).sum(1)
    freedom = len(residuals) - basis.shape[1]
    # What the fit has not absorbed; of losses without noise nothing but rounding is left.
    squares = np.maximum(solved[:, -1, -1] - explained, _ROUNDING**2 * max(1, freedom))
    # -2 l = log det V + log det X'V^-1 X + (n - p) log r'P r, up to a constant.
    likelihood = -0.5 * (log_det + np.linalg.slogdet(normal)[1] + freedom * np.log(squares))
    return likelihood, squares / max(1, freedom)


def _summed(group: NDArray[np.int64], columns: Array) -> Array:
    sums = np.zeros((int(group.max()) + 1, columns.shape[1]))
    np.add.at(sums, group, columns)
    return sums
