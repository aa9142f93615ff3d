"""The loss that a model of N parameters reaches with D tokens: one family, L = E + (A/N^alpha +
B/D^beta)^c.

c = 1 is the additive law of the paper (section 4.5) and of Chinchilla. E = 0 is the coupled law
(Kaplan et al. 2020, eq. 1.5): the gain from more tokens grows with the size. With both free it
holds the two of them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Form = Literal["additive", "coupled", "coupled+floor"]
FORMS: tuple[Form, ...] = ("additive", "coupled", "coupled+floor")
# What a form leaves free, in the order of a vector of coordinates (see `surface`).
COORDINATES = ("E", "p", "a", "q", "b", "log c")
FREE: Mapping[Form, Array] = {
    "additive": np.array([1, 1, 1, 1, 1, 0], float),
    "coupled": np.array([0, 1, 1, 1, 1, 1], float),
    "coupled+floor": np.ones(6),
}


@dataclass(frozen=True)
class LossLaw:
    """L = E + (A/N^alpha + B/D^beta)^c, in nats/token; N by the count that it was fitted with."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    c: float = 1.0

    def at(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """The loss; arrays broadcast. Through logarithms: with a small c, A and B may be near the
        largest number.
        """
        n, d = np.log(np.asarray(params, float)), np.log(np.asarray(tokens, float))
        with np.errstate(divide="ignore"):  # A or B of zero: that term is not there
            return self.E + np.exp(
                self.c
                * np.logaddexp(np.log(self.A) - self.alpha * n, np.log(self.B) - self.beta * d)
            )

    def gradient(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        """dL/dlog N and dL/dlog D: what one more e-fold of each is worth, both negative."""
        n, d = np.log(np.asarray(params, float)), np.log(np.asarray(tokens, float))
        with np.errstate(divide="ignore"):
            u, v = np.log(self.A) - self.alpha * n, np.log(self.B) - self.beta * d
        total = np.logaddexp(u, v)
        slope = self.c * np.exp(self.c * total)
        return -slope * self.alpha * np.exp(u - total), -slope * self.beta * np.exp(v - total)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Frame:
    """Centred logarithms, in which a fit is well conditioned: x = log N - log N0, y = log D - log
    D0.

    The coordinates (E, p, a, q, b, log c) mean L = E + (e^((p - a x)/c) + e^((q - b y)/c))^c:
    then p and q are log losses, a and b local exponents, and none of them runs away as c goes to
    0, where the sum becomes a maximum.
    """

    n0: float
    d0: float

    @classmethod
    def of(cls, params: Array, tokens: Array) -> "Frame":
        return cls(float(np.log(params).mean()), float(np.log(tokens).mean()))

    def logs(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        return np.log(np.asarray(params, float)) - self.n0, np.log(
            np.asarray(tokens, float)
        ) - self.d0

    def law(self, coordinates: Array) -> LossLaw:
        floor, p, a, q, b, log_c = map(float, coordinates)
        c = float(np.exp(log_c))
        alpha, beta = a / c, b / c
        return LossLaw(
            floor,
            float(np.exp(p / c + alpha * self.n0)),
            alpha,
            float(np.exp(q / c + beta * self.d0)),
            beta,
            c,
        )

    def coordinates(self, law: LossLaw) -> Array:
        p = law.c * (np.log(law.A) - law.alpha * self.n0)
        q = law.c * (np.log(law.B) - law.beta * self.d0)
        return np.array([law.E, p, law.c * law.alpha, q, law.c * law.beta, np.log(law.c)])


def surface(coordinates: Array, x: Array, y: Array) -> Array:
    """Losses (..., n) of coordinates (..., 6) at centred logarithms (n,) or (..., n)."""
    floor, p, a, q, b, log_c = np.moveaxis(coordinates, -1, 0)[..., None]
    c = np.exp(log_c)
    return floor + np.exp(c * np.logaddexp((p - a * x) / c, (q - b * y) / c))


def slopes(coordinates: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Losses (..., n) and their derivatives by the coordinates, (..., n, 6)."""
    floor, p, a, q, b, log_c = np.moveaxis(coordinates, -1, 0)[..., None]
    c = np.exp(log_c)
    u, v = (p - a * x) / c, (q - b * y) / c
    total = np.logaddexp(u, v)
    above = np.exp(c * total)
    share = np.exp(u - total)  # of the size's term
    mixed = share * (total - u) + (1 - share) * (total - v)  # entropy of the two shares
    by_size, by_data = above * share, above * (1 - share)
    derivatives = np.empty((*above.shape, len(COORDINATES)))
    derivatives[..., 0] = 1.0
    derivatives[..., 1] = by_size
    derivatives[..., 2] = -by_size * x
    derivatives[..., 3] = by_data
    derivatives[..., 4] = -by_data * y
    derivatives[..., 5] = above * c * mixed
    return floor + above, derivatives


def log_slopes(coordinates: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Losses (..., n) and the derivatives of their natural logarithms by the coordinates, (...,
    n, 6).
    """
    losses, derivatives = slopes(coordinates, x, y)
    return losses, derivatives / losses[..., None]
