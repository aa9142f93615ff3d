"""The loss that a model of N parameters reaches with D tokens: one family,

    L = E + (A / N^alpha + B N^gamma / D^beta)^c

gamma = 0 and c = 1 is the additive law of the paper (MiniCPM, arXiv 2404.06395, section 4.5) and of
Chinchilla (arXiv 2203.15556, eq. 2). E = 0 is the coupled law (Kaplan et al. 2020, arXiv
2001.08361, eq. 1.5): the gain from more tokens grows with the size. gamma > 0: a larger model is
farther from its limit after the same tokens.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.named import Named

Array = NDArray[np.float64]

# What a form leaves free, in the order of a vector of coordinates (see `Frame`).
COORDINATES = ("E", "p", "a", "q", "b", "g", "log c")
_HELD = 700.0  # of logarithms, either way: floats end at 709, and lose digits below -708


@dataclass(frozen=True)
class LossForm:
    """A form of the family: which of the seven coordinates a fit may move. A floor E, a g or a
    log c that is held is 0 (c = 1).
    """

    formula: str
    free: NDArray[np.bool_]  # (7,)


def _form(formula: str, *held: str) -> LossForm:
    return LossForm(formula, np.array([name not in held for name in COORDINATES]))


FORMS = Named(
    "form of the loss law",
    {
        "additive": _form("E + A/N^alpha + B/D^beta", "g", "log c"),
        "coupled": _form("(A/N^alpha + B/D^beta)^c", "E", "g"),
        "coupled+floor": _form("E + (A/N^alpha + B/D^beta)^c", "g"),
        "interacting": _form("E + A/N^alpha + B N^gamma/D^beta", "log c"),
        "coupled+interacting": _form("E + (A/N^alpha + B N^gamma/D^beta)^c"),
    },
)


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """L = E + (A/N^alpha + B N^gamma/D^beta)^c, in nats/token; N by the count that it was fitted
    with. A and B by their natural logarithms: with a small c they are larger, or smaller, than any
    float. A logarithm is minus infinity where its term is not there.
    """

    E: float
    log_A: float
    alpha: float
    log_B: float
    beta: float
    c: float = 1.0
    gamma: float = 0.0

    @classmethod
    def of(
        cls,
        *,
        E: float,
        A: float,
        alpha: float,
        B: float,
        beta: float,
        c: float = 1.0,
        gamma: float = 0.0,
    ) -> Self:
        """With A and B as they are published. Raises ValueError where one is below 0."""
        log_A, log_B = _log_of("A", A), _log_of("B", B)
        return cls(E=E, log_A=log_A, alpha=alpha, log_B=log_B, beta=beta, c=c, gamma=gamma)

    @property
    def A(self) -> float | None:
        """None where no float holds it."""
        return _number_of(self.log_A)

    @property
    def B(self) -> float | None:
        """None where no float holds it."""
        return _number_of(self.log_B)

    def at(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """The loss; arrays broadcast."""
        u, v = self._log_terms(params, tokens)
        return self.E + np.exp(self.c * np.logaddexp(u, v))

    def gradient(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        """dL/dlog N and dL/dlog D: what one more e-fold of each is worth; the second is
        negative.
        """
        u, v = self._log_terms(params, tokens)
        total = np.logaddexp(u, v)
        slope = self.c * np.exp(self.c * total)
        size, data = np.exp(u - total), np.exp(v - total)
        return slope * (self.gamma * data - self.alpha * size), -slope * self.beta * data

    def as_dict(self) -> dict[str, Any]:
        """Its parameters by name, A and B with their logarithms."""
        return asdict(self) | {"A": self.A, "B": self.B}

    def _log_terms(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        """log(A/N^alpha) and log(B N^gamma/D^beta)."""
        n, d = np.log(np.asarray(params, float)), np.log(np.asarray(tokens, float))
        return self.log_A - self.alpha * n, self.log_B + self.gamma * n - self.beta * d


@dataclass(frozen=True)
class Frame:
    """Centred logarithms, in which a fit is well conditioned: x = log N - log N0, y = log D - log
    D0.

    The coordinates (E, p, a, q, b, g, log c) mean

        L = E + (e^((p - a x)/c) + e^((q - b y + g x)/c))^c:

    then p and q are log losses, a, b and g local exponents, and none of them runs away as c goes
    to 0, where the sum becomes a maximum.
    """

    n0: float  # log N0
    d0: float  # log D0

    @classmethod
    def of(cls, params: Array, tokens: Array) -> "Frame":
        """Centred at the geometric means of the points."""
        return cls(float(np.log(params).mean()), float(np.log(tokens).mean()))

    def logs(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        """x and y of sizes and lengths, of their shapes."""
        x = np.log(np.asarray(params, float)) - self.n0
        y = np.log(np.asarray(tokens, float)) - self.d0
        return x, y

    def law(self, coordinates: Array) -> LossLaw:
        """The law that coordinates (7,) mean."""
        floor, p, a, q, b, g, log_c = map(float, coordinates)
        c = math.exp(log_c)
        alpha, beta, gamma = a / c, b / c, g / c
        return LossLaw(
            E=floor,
            log_A=p / c + alpha * self.n0,
            alpha=alpha,
            log_B=q / c + beta * self.d0 - gamma * self.n0,
            beta=beta,
            c=c,
            gamma=gamma,
        )

    def coordinates(self, law: LossLaw) -> Array:
        """The coordinates (7,) of a law."""
        p = law.log_A - law.alpha * self.n0
        q = law.log_B - law.beta * self.d0 + law.gamma * self.n0
        powers = [p, law.alpha, q, law.beta, law.gamma]
        return np.array([law.E, *(law.c * power for power in powers), np.log(law.c)])


def surface(coordinates: Array, x: Array, y: Array) -> Array:
    """Losses (..., n) of coordinates (..., 7) at centred logarithms (n,) or (..., n)."""
    floor, c, u, v = _terms(coordinates, x, y)
    return floor + np.exp(c * _log_of_sum(u, v))


def slopes(coordinates: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Losses (..., n) and their derivatives by the coordinates, (..., n, 7)."""
    floor, c, u, v = _terms(coordinates, x, y)
    total = _log_of_sum(u, v)
    above = np.exp(c * total)  # L - E
    share = np.exp(u - total)  # of the size's term in the sum
    rest = 1 - share
    # Entropy of the two shares: the derivative of c log(e^(p'/c) + e^(q'/c)) by c.
    entropy = share * (total - u) + rest * (total - v)
    by_size, by_data = above * share, above * rest
    # A coordinate's derivatives lie side by side, which is quicker to fill.
    rows = np.empty((*above.shape[:-1], len(COORDINATES), above.shape[-1]))
    rows[..., 0, :] = 1.0
    rows[..., 1, :] = by_size
    rows[..., 2, :] = -by_size * x
    rows[..., 3, :] = by_data
    rows[..., 4, :] = -by_data * y
    rows[..., 5, :] = by_data * x
    rows[..., 6, :] = above * c * entropy
    return floor + above, np.swapaxes(rows, -1, -2)


def log_slopes(coordinates: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Losses (..., n) and the derivatives of their natural logarithms by the coordinates,
    (..., n, 7).
    """
    losses, derivatives = slopes(coordinates, x, y)
    derivatives /= losses[..., None]
    return losses, derivatives


def _terms(coordinates: Array, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """E (..., 1), c (..., 1), and the logarithms of the size's and of the data's term (..., n)."""
    floor, p, a, q, b, g, log_c = (coordinates[..., i, None] for i in range(len(COORDINATES)))
    c = np.exp(log_c)
    return floor, c, (p - a * x) / c, (q - b * y + g * x) / c


def _log_of_sum(u: Array, v: Array) -> Array:
    """log(e^u + e^v) of finite logarithms: `np.logaddexp` in a third of its time."""
    return np.maximum(u, v) + np.log1p(np.exp(-np.abs(u - v)))


def _log_of(name: str, value: float) -> float:
    """The logarithm of a coefficient."""
    if value < 0:
        raise ValueError(f"{name} = {value:g}: expected 0 or more")
    return math.log(value) if value else -math.inf


def _number_of(log: float) -> float | None:
    """The number of a logarithm; None where no float holds it."""
    if log == -math.inf:
        return 0.0
    return math.exp(log) if abs(log) <= _HELD else None
