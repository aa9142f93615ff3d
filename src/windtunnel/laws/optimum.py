"""The best size for a budget: in closed form for the loss law with C = 6ND (paper Eq. 3), by
search for any other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from windtunnel.laws.loss import Array, LossLaw

FLOPS = 6  # a parameter and token, of training: C = 6ND
_GRID = 400  # sizes between the ends of a search
_EXACT = 1e-12  # of log N: where it ends
_STEP = 0.02  # of log N, in the derivative of the search: its error is of the sixth order in it
_FARTHEST = 300.0  # of log K: where a law is all but flat, its best size is no number at all
# The central difference of sixth order.
_CENTRAL = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60  # f' from f at -3 to 3 steps


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best model at a budget: N by the count that the law was fitted with, D in tokens, loss
    in nats/token.
    """

    params: float
    tokens: float
    loss: float
    at_edge: bool = False  # of the range that was searched: then the best may lie outside

    @property
    def ratio(self) -> float:
        """Tokens a parameter."""
        return self.tokens / self.params


def exponents(law: LossLaw) -> tuple[float, float]:
    """K^2 and eta of N_opt / D_opt = K^2 (C/6)^eta (the paper's Eq. 3). The same for
    the coupled law: its outer power moves no optimum. Raises ValueError for a law in which size or
    data is worth nothing.
    """
    log_k, eta = _log_k(law)
    return math.exp(2 * log_k), eta


def closed_form(law: LossLaw, flops: float) -> Optimum:
    """Where L(N, D) is lowest with 6ND = `flops`:

        N = K (C/6)^(beta/(alpha+beta+gamma)),  D = (C/6) / N

    Raises ValueError for a law in which size or data is worth nothing.
    """
    log_k, _ = _log_k(law)
    log_c = math.log(flops / FLOPS)
    log_n = log_k + law.beta / (law.alpha + law.beta + law.gamma) * log_c
    n, d = math.exp(log_n), math.exp(log_c - log_n)
    return Optimum(params=n, tokens=d, loss=float(law.at(n, d)))


def search(
    loss: Callable[[Array, Array], Array],
    tokens: Callable[[Array], Array],
    low: float,
    high: float,
) -> Optimum:
    """Where `loss(N, tokens(N))` is lowest for N between `low` and `high`: a grid in log N, then
    ever finer ones, to where the slope changes its sign: about 1e-9 of N, or what rounding leaves
    of the loss. At an edge,
    and where the slope has no root beside the lowest point of the grid, it is that point: to a
    step of the grid, log(high / low) / 399. Both functions take arrays and must be smooth.
    """

    def at(log_n: Array) -> Array:
        n = np.exp(log_n)
        return np.asarray(loss(n, tokens(n)), float)

    # In logarithms of N: the loss falls by powers of it.
    grid: Array = np.asarray(np.linspace(math.log(low), math.log(high), _GRID), np.float64)
    lowest = int(np.argmin(at(grid)))
    at_edge = lowest in (0, len(grid) - 1)
    best = float(grid[lowest])
    if not at_edge:
        left, right = grid[lowest - 1], grid[lowest + 1]
        # Where rounding hides the slope, the lowest point of the grid has to do.
        if slope(at, left) < 0 < slope(at, right):
            best = _turn(at, left, right)
    n = np.array([math.exp(best)])
    return Optimum(
        params=float(n[0]),
        tokens=float(tokens(n)[0]),
        loss=float(at(np.array([best]))[0]),
        at_edge=at_edge,
    )


def slope(function: Callable[[Array], Array], at: float) -> float:
    """The derivative of a smooth function of log N."""
    return float(_slopes(function, np.array([at]))[0])


def _slopes(function: Callable[[Array], Array], at: Array) -> Array:
    """The same at many places (n,)."""
    around = at[:, None] + _STEP * np.arange(-3, 4)
    return np.asarray(function(around.ravel()).reshape(around.shape) @ _CENTRAL / _STEP)


def _turn(function: Callable[[Array], Array], left: float, right: float) -> float:
    """Where a slope that is below 0 on the left and above on the right changes its sign."""
    while right - left > _EXACT:
        grid = np.linspace(left, right, _GRID)
        rising = int(np.argmax(_slopes(function, grid) > 0))
        left, right = float(grid[rising - 1]), float(grid[rising])
    return (left + right) / 2


def log_ratio(law: LossLaw, flops: float) -> float | None:
    """log(D / N) where L(N, D) is lowest with 6ND = `flops`; None for a law in which size or data
    is worth nothing.
    """
    try:
        log_k, eta = _log_k(law)
    except ValueError:
        return None
    return -2 * log_k - eta * math.log(flops / FLOPS)


def outside(ratio: float, sampled: tuple[float, float]) -> str | None:
    """What to say of a best ratio of tokens to parameters that no run in the fit comes near; None
    inside.
    """
    low, high = sampled
    if low <= ratio <= high:
        return None
    beyond = "above" if ratio > high else "below"
    return (
        f"{ratio:.3g} tokens a parameter lies {beyond} the range of the runs in the fit "
        f"({low:.3g} to {high:.3g}): the law was never measured there"
    )


def _log_k(law: LossLaw) -> tuple[float, float]:
    """log K and eta, with

    K = (alpha A / ((beta + gamma) B))^(1/(alpha + beta + gamma))
    eta = (beta - alpha - gamma)/(alpha + beta + gamma)

    Raises ValueError for a law that does not fall with both size and data, or next to nothing.
    """
    refusal = f"no best size: {law} must fall with both size and data"
    logs = law.log_A, law.log_B
    if law.alpha <= 0 or law.beta <= 0 or not all(map(math.isfinite, logs)):
        raise ValueError(refusal)
    # Of D = C/6N the data's term is B (C/6)^-beta N^(beta + gamma).
    rising = law.beta + law.gamma
    of_size = math.log(law.alpha) + law.log_A
    log_k = (of_size - math.log(rising) - law.log_B) / (law.alpha + rising)
    if abs(log_k) > _FARTHEST:
        raise ValueError(refusal)
    return log_k, (law.beta - law.alpha - law.gamma) / (law.alpha + rising)
