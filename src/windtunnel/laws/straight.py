"""A law that is straight in logarithms, through a few points, where something is known of its
powers beforehand.
"""

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.laws.loss import Array

_LEAST_ERROR = 0.02  # of a logarithm: a point that is known better would weigh without end


@dataclass(frozen=True, kw_only=True)
class Straight:
    """log y = level + powers . (log x - middle), and how surely."""

    level: float  # log y at the middle
    powers: Array  # (k,)
    middle: Array  # (k,) means of log x
    covariance: Array  # (1 + k, 1 + k) of level and powers


def fit_straight(x: Array, y: Array, error: Array, known: Array) -> Straight:
    """By Bayes: the level is free, the powers are normal about what is known of them.

    `x` (n, k) and `y` (n,) are positive, `error` (n,) is the standard error of log y, and `known`
    (k, 2) holds a mean and a standard deviation for each power. Where the points scatter about the
    law more than their errors say, all is less sure by the root of chi square over its degrees of
    freedom (Birge 1932).
    """
    columns = np.log(x)
    middle = columns.mean(0)
    design = np.column_stack([np.ones(len(columns)), columns - middle])
    means = np.array([0.0, *known[:, 0]])
    precision = np.diag([0.0, *(1 / known[:, 1] ** 2)])

    def posterior(error: Array) -> tuple[Array, Array]:
        weighted = design / error[:, None] ** 2
        covariance: Array = np.asarray(np.linalg.inv(design.T @ weighted + precision), np.float64)
        return covariance @ (weighted.T @ np.log(y) + precision @ means), covariance

    error = np.maximum(error, _LEAST_ERROR)
    found, covariance = posterior(error)
    misfit = (np.log(y) - design @ found) / error
    # of the points, less what the fit took up of them
    taken = float(np.trace(covariance @ (design / error[:, None] ** 2).T @ design))
    chi = float(misfit @ misfit) / max(1.0, len(misfit) - taken)
    if chi > 1:
        found, covariance = posterior(error * math.sqrt(chi))
    return Straight(level=float(found[0]), powers=found[1:], middle=middle, covariance=covariance)
