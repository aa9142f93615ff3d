"""Scores out of what was found for each item, with their standard errors."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from windtunnel.results.evaluation import Measure

BITS = "bits_per_byte"


def ratio(values: np.ndarray, weights: np.ndarray) -> float:
    """Of sums over items: a mean where all weights are 1."""
    return float(values.sum() / weights.sum())


def standard_error(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Of a ratio of sums over independent items (Cochran 1977, section 6.3; of a mean it is the
    usual one). None of a single item.
    """
    count = len(values)
    if count < 2:
        return None
    off = values - ratio(values, weights) * weights
    return float(math.sqrt((off**2).sum() * count / (count - 1)) / weights.sum())


def of_items(
    metric: str,
    values: Sequence[float],
    *,
    filter: str = "none",
    weights: Sequence[float] | None = None,
    higher_is_better: bool = True,
) -> Measure:
    """The score of items with these values."""
    found = np.asarray(values, float)
    by = np.ones_like(found) if weights is None else np.asarray(weights, float)
    return Measure(
        metric=metric,
        filter=filter,
        value=ratio(found, by),
        stderr=standard_error(found, by),
        higher_is_better=higher_is_better,
        values=found.tolist(),
        weights=None if weights is None else by.tolist(),
    )


def item_id(content: str) -> str:
    """The beginning of a sha256, long enough that no two of a set are alike."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
