"""The fit that the paper makes, for comparison with those of `fit.py`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import curve_fit

from windtunnel.laws.loss import Array, LossLaw


def fit_as_the_paper(
    params: ArrayLike, tokens: ArrayLike, loss: ArrayLike
) -> tuple[LossLaw, Array]:
    """The additive law by scipy's `curve_fit` from one start, as the paper fits it (section 4.5),
    for comparison; with its own standard errors of (E, A, alpha, B, beta), which take every point
    as independent. N and D are in units of their geometric means on the way. Raises ValueError
    where it does not converge, and where it comes to what is no law.
    """
    n, d = np.asarray(params, float), np.asarray(tokens, float)
    n0, d0 = float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean()))

    def additive(at: Any, E: float, A: float, alpha: float, B: float, beta: float) -> Any:
        return E + A * at[0] ** -alpha + B * at[1] ** -beta

    start = [float(np.min(loss)) / 2, 1.0, 0.3, 1.0, 0.3]
    try:
        found, covariance = curve_fit(
            additive, np.array([n / n0, d / d0]), loss, start, maxfev=20_000
        )
    except RuntimeError:
        raise ValueError("curve_fit did not converge from its one start") from None
    E, A, alpha, B, beta = map(float, found)
    if A < 0 or B < 0:
        raise ValueError(f"curve_fit came to a law with a term below 0 (A = {A:.3g}, B = {B:.3g})")
    # Derivatives of A n0^alpha and B d0^beta, which take the errors to the units of the law.
    units = np.eye(5)
    with np.errstate(over="ignore", invalid="ignore"):
        to_A, to_B = np.exp(alpha * np.log(n0)), np.exp(beta * np.log(d0))
        units[1, 1:3] = to_A, A * to_A * np.log(n0)
        units[3, 3:5] = to_B, B * to_B * np.log(d0)
        errors = np.sqrt(np.diag(units @ covariance @ units.T))
    if not np.isfinite(errors).all():
        raise ValueError("curve_fit came to numbers without finite standard errors")
    return LossLaw.of(E=E, A=A * to_A, alpha=alpha, B=B * to_B, beta=beta), errors
