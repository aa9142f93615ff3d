"""What the arms of an ablation differ by, with intervals."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from windtunnel.results.ablate import Difference

LEVEL = 0.9


def differences(losses: NDArray[np.float64]) -> tuple[list[list[Difference]], list[float | None]]:
    """losses: (seeds, arms, sources), the base arm first. Returns the differences of the other
    arms to it, (arms - 1, sources), and for each source the standard deviation over seeds of a
    difference, pooled over the arms.

    Arms share the base arm's noise, so pooled intervals of different arms are not independent of
    each other.
    """
    # what a seed does to all arms falls out of the differences to the base arm of that seed
    paired = losses[:, 1:] - losses[:, :1]
    means = paired.mean(0)
    seeds, arms, sources = paired.shape
    if seeds < 2:
        return _without_intervals(means), [None] * sources
    variances = paired.var(0, ddof=1)
    pooled = np.sqrt(variances.mean(0))
    # half of each interval, by Student's t: an arm's own seeds, and those of all arms
    own = _quantile(seeds - 1) * np.sqrt(variances / seeds)
    shared = _quantile(arms * (seeds - 1)) * pooled / math.sqrt(seeds)
    found = []
    for arm, mean in enumerate(means):
        found.append(
            [
                Difference(
                    mean=float(mean[source]),
                    interval=_about(mean[source], shared[source]),
                    alone=_about(mean[source], own[arm, source]),
                )
                for source in range(sources)
            ]
        )
    return found, [float(noise) for noise in pooled]


def _without_intervals(means: NDArray[np.float64]) -> list[list[Difference]]:
    found = []
    for arm in means:
        found.append([Difference(mean=float(mean), interval=None, alone=None) for mean in arm])
    return found


def _quantile(freedom: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, freedom))


def _about(mean: float, reach: float) -> tuple[float, float]:
    return float(mean - reach), float(mean + reach)
