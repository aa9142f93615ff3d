"""Least squares whose weights are not below 0, for many problems of a few columns at once."""

from itertools import combinations

import numpy as np

from windtunnel.laws.loss import Array


def non_negative(design: Array, wanted: Array) -> tuple[Array, Array]:
    """Non-negative least squares for many designs (m, n, k) of a few columns and one right-hand
    side (n,): solutions (m, k) and root sums of squares (m,). Some subset of the columns solves
    it, and all are tried: three columns have seven.
    """
    length = np.linalg.norm(design, axis=1, keepdims=True)
    unit = design / np.maximum(length, 1e-300)
    normal = np.swapaxes(unit, 1, 2) @ unit
    pull = np.swapaxes(unit, 1, 2) @ wanted
    k = design.shape[-1]
    best = np.zeros((len(design), k))
    misfits: Array = np.full(len(design), float(np.linalg.norm(wanted)))
    for size in range(1, k + 1):
        for subset in combinations(range(k), size):
            of = list(subset)
            inverse = np.linalg.pinv(normal[:, of][:, :, of], hermitian=True)
            tried = np.zeros_like(best)
            tried[:, of] = (inverse @ pull[:, of, None])[..., 0]
            misfit = np.linalg.norm(wanted - (unit @ tried[..., None])[..., 0], axis=1)
            better = (tried >= 0).all(axis=1) & (misfit < misfits)
            best[better], misfits[better] = tried[better], misfit[better]
    return best / np.maximum(length[:, 0], 1e-300), misfits
