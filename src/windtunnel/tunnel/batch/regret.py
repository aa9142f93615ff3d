"""What a law of the batch costs where it was not fitted: the loss above the lowest, at the batch
that it says.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from windtunnel.laws.batch import BATCH_LAWS, BatchLaw, ByTokens, Optima
from windtunnel.laws.batch_cost import ThreeTerm
from windtunnel.tunnel.batch.contours import Surface

Size = tuple[int, int]  # width, depth
# Which optima, and which surfaces, are fitted; where the law is tried: all lengths of a size, or
# the one of an index.
Fold = tuple[NDArray[np.bool_], dict[Size, Surface], Sequence[tuple[Size, int | None]]]


def held_out(
    optima: Optima, folds: Sequence[Fold], surfaces: dict[Size, Surface], params: dict[Size, int]
) -> dict[str, float | None]:
    """Mean regret of each law in nats/token where it was not fitted, of the three-term law, and
    of one batch for all (the fitted ones' mean); None where the other points can't tell the
    law.
    """
    found: dict[str, float | None] = {}
    for name in (*BATCH_LAWS, "three_term", "constant"):
        regrets = []
        for kept, others, tried in folds:
            law = (
                three_term(others, params)
                if name == "three_term"
                else _by_optima(name, optima.select(kept))
            )
            regrets.append(regret_of(law, tried, surfaces, params))
        told = [regret for regret in regrets if regret is not None]
        found[name] = float(np.mean(told)) if told and len(told) == len(regrets) else None
    return found


def three_term(surfaces: dict[Size, Surface], params: dict[Size, int]) -> ThreeTerm | None:
    """Through every loss of the surfaces; None where they can't tell it."""
    points = [
        (params[size], tokens, batch, loss)
        for size, here in surfaces.items()
        for batch, losses in zip(here.batches, here.loss, strict=True)
        for tokens, loss in zip(here.tokens, losses, strict=True)
        if np.isfinite(loss)
    ]
    try:
        return ThreeTerm.fit(*np.array(points, float).reshape(-1, 4).T)
    except ValueError:
        return None


def _by_optima(name: str, optima: Optima) -> BatchLaw | None:
    """A law through the best batches, or (`constant`) their mean, which is D^0."""
    if not len(optima):
        return None
    try:
        return (
            BATCH_LAWS[name].fit(optima)
            if name in BATCH_LAWS
            else ByTokens(float(np.exp(np.log(optima.batch).mean())), 0.0)
        )
    except ValueError:
        return None


def regret_of(
    law: BatchLaw | ThreeTerm | None,
    tried: Sequence[tuple[Size, int | None]],
    surfaces: dict[Size, Surface],
    params: dict[Size, int],
) -> float | None:
    """Mean over where it is tried: at all lengths of a size, or at one."""
    if law is None:
        return None
    regrets = [
        here.regret(at, float(law.at(here.best(at), here.tokens[at], params[size])))
        for size, only in tried
        for here in [surfaces[size]]
        for at in (here.compared() if only is None else [only] if only in here.compared() else [])
    ]
    return float(np.mean(regrets)) if regrets else None
