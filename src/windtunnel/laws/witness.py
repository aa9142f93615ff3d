"""Whether a fit came to the optimum: a second optimiser, L-BFGS from the same starts, must agree,
or the fit is said not to have converged.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize

from windtunnel.laws.fit import HIGHEST, LOWEST, LossData, LossFit, Objective, stages_of, starts_of
from windtunnel.laws.loss import FORMS, Array

AGREE = 1e-8  # in the objective: what two optimisers may differ by
_WITNESSES = 3  # starts of the second optimiser
# No ftol: only a gradient of nothing ends it, since two optimisers must agree to AGREE.
_PATIENT = {"maxiter": 2000, "maxfun": 4000, "ftol": 0, "gtol": 1e-13, "maxcor": 30}
# On the way to it: near enough for the next stage to begin.
_HASTY = {"maxiter": 200, "ftol": 1e-9, "maxcor": 30}


def disagreement(fit: LossFit) -> float:
    """Between the objective of a fit and that of the second optimiser, which takes as long."""
    starts = starts_of(fit.form, fit.data)
    again = _bfgs(starts, fit.data, FORMS[fit.form].free, fit.minimised)
    return abs(float(fit.data.cost(again, fit.minimised)) - fit.objective)


def _bfgs(starts: Array, data: LossData, free: NDArray[np.bool_], objective: Objective) -> Array:
    """The best coordinates (7,) that L-BFGS finds from the first few starts."""
    some = data.thinned
    *before, last = stages_of(objective)
    hasty = [(stage, _HASTY) for stage in before]
    # A restart forgets a curvature that no longer holds.
    patient = [(last, _PATIENT), (last, _PATIENT)]
    found = []
    for start in np.clip(starts[:_WITNESSES], LOWEST, HIGHEST):
        found.append(_descend(start, some, free, [*hasty, *patient]))
    best = min(found, key=lambda at: float(some.cost(at, objective)))
    return best if some is data else _descend(best, data, free, patient)


def _descend(
    start: Array,
    data: LossData,
    free: NDArray[np.bool_],
    stages: Sequence[tuple[Objective, Mapping[str, float]]],
) -> Array:
    """Where L-BFGS comes to from one start, by stage after stage with its options: coordinates
    (7,).
    """
    moved, at = np.flatnonzero(free), start.copy()
    bounds = Bounds(LOWEST[moved], HIGHEST[moved])  # type: ignore[arg-type]

    def cost(part: Array, objective: Objective) -> tuple[float, Array]:
        at[moved] = part
        model, pull = objective.slopes(at, data)
        residuals = objective.residuals(model, data.loss)
        weighted = data.weights * objective.influence(residuals) * residuals
        return float(objective.cost(residuals, data.weights)), (weighted @ pull)[moved]

    for objective, options in stages:
        result = minimize(
            cost,
            at[moved],
            (objective,),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=dict(options),
        )
        at[moved] = result.x
    return at
