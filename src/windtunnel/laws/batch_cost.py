"""What any batch costs in loss, by the three-term law. Batches and tokens in tokens, losses in
nats/token. How the best batch grows: `batch.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, nnls

from windtunnel.laws.loss import Array

_EXPONENTS = (0.05, 0.1, 0.2, 0.4, 0.8)  # where the search for exponents starts
_BOUNDS = (np.log(0.01), np.log(4.0))  # of their logarithms
_POLISHED = 3  # lowest points of the grid from which an optimiser starts
_FEWEST = 8  # points, for seven parameters


@dataclass(frozen=True, kw_only=True)
class ThreeTerm:
    """L = E + A / N^a + B / steps^b + C / bs^c, steps = D / bs (Schaipp 2026): learnt from runs
    of any batch, so few are needed. Its best batch goes as D^(b / (b + c)), whatever N.
    """

    E: float
    A: float
    a: float
    B: float
    b: float
    C: float
    c: float
    rmse: float  # nats/token, of the points it was fitted to

    @classmethod
    def fit(cls, params: ArrayLike, tokens: ArrayLike, batch: ArrayLike, loss: ArrayLike) -> Self:
        """Least squares, by variable projection: the exponents by L-BFGS from the best of a grid,
        the rest by non-negative least squares. Of one size there is no A, and E is that size's.
        Raises ValueError where there are fewer points than parameters, only one batch or one
        length, or no best batch in the losses.
        """
        n, d, bs, losses = (np.asarray(values, float) for values in (params, tokens, batch, loss))
        for name, values in (("params", n), ("tokens", d), ("batch", bs), ("loss", losses)):
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"{name}: expected positive numbers")
        sizes, lengths, batches = (len(np.unique(values)) for values in (n, d, bs))
        if min(lengths, batches) < 2 or len(losses) < _FEWEST:
            raise ValueError(
                f"{len(losses)} points of {lengths} lengths and {batches} batches: expected "
                f"{_FEWEST} or more, of two lengths and two batches at least"
            )
        # Of one size the first term is a constant, which E is already.
        columns = [n, d / bs, bs] if sizes > 1 else [d / bs, bs]
        exponents, (floor, *weights), squares = _project(columns, losses)
        if min(weights[-2:]) <= 0:
            way = "rise" if weights[-1] <= 0 else "fall"
            raise ValueError(f"losses only {way} with the batch: expected them to have a best one")
        if sizes == 1:
            exponents, weights = np.array([0.0, *exponents]), [0.0, *weights]
        a, b, c = map(float, exponents)
        A, B, C = map(float, weights)
        rmse = float(np.sqrt(squares / len(losses)))
        return cls(E=float(floor), A=A, a=a, B=B, b=b, C=C, c=c, rmse=rmse)

    def loss(self, params: ArrayLike, tokens: ArrayLike, batch: ArrayLike) -> Array:
        """In nats/token; arrays broadcast."""
        n, d, bs = (np.asarray(values, float) for values in (params, tokens, batch))
        return self.E + self.A * n**-self.a + self.B * (d / bs) ** -self.b + self.C * bs**-self.c

    @property
    def exponent(self) -> float:
        """Of the tokens, in the best batch."""
        return self.b / (self.b + self.c)

    def predict(self, tokens: ArrayLike) -> Array:
        """The batch of least loss at so many tokens."""
        scale = (self.c * self.C / (self.b * self.B)) ** (1 / (self.b + self.c))
        return scale * np.asarray(tokens, float) ** self.exponent

    def at(self, loss: ArrayLike, tokens: ArrayLike, params: ArrayLike) -> Array:
        """The best batch, asked for as of the laws in `batch.py`."""
        return self.predict(tokens)


def _project(columns: Sequence[Array], loss: Array) -> tuple[Array, Array, float]:
    """Exponents, weights (the first of a constant) and the sum of squares of

    loss = constant + sum of weight / column^exponent
    """
    middles = np.array([np.log(column).mean() for column in columns])
    logs = np.log(np.array(columns)) - middles[:, None]  # (columns, n), centred

    def solve(exponents: Array) -> tuple[Array, Array, float]:
        """The design (n, 1 + columns), the best weights for it, and the sum of squares."""
        design = np.vstack([np.ones_like(loss), np.exp(-exponents[:, None] * logs)]).T
        weights, norm = nnls(design, loss)
        return design, weights, float(norm**2)

    def squares(log_exponents: Array) -> tuple[float, Array]:
        """And the gradient: the weights are at their best already, so that only the exponents
        count.
        """
        exponents = np.exp(log_exponents)
        design, weights, total = solve(exponents)
        residual = design @ weights - loss
        # dL/d exponent = -weight exponent log(column) column^-exponent, by log exponent.
        pull = ((residual * logs) @ design[:, 1:]).diagonal()
        return total, -2 * weights[1:] * exponents * pull

    grid = list(product(_EXPONENTS, repeat=len(columns)))
    grid.sort(key=lambda exponents: solve(np.array(exponents))[2])
    found = [
        minimize(
            squares,
            np.log(start),
            jac=True,
            method="L-BFGS-B",
            bounds=[_BOUNDS] * len(columns),
            options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-12},
        )
        for start in grid[:_POLISHED]
    ]
    exponents = np.exp(min(found, key=lambda result: result.fun).x)
    _, weights, total = solve(exponents)
    return exponents, weights * np.exp([0.0, *(exponents * middles)]), total
