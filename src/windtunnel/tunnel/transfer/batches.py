"""The best batch at each length, each batch at its best rate, and how it grows: a study that finds
the rate for several batches has measured it already.
"""

from collections.abc import Sequence

import numpy as np

from windtunnel.laws.batch import BatchFit, ByTokens, fit_by_tokens
from windtunnel.tunnel.valley import LossGrid, Valley, optima_of, valleys

_FEWEST = 2  # lengths: one alone would have the power that is known beforehand
# By which factor a law may miss the sampled batches where the best one lies outside of them: half a
# doubling, which is what best batches are known to.
_MISSED = 2**0.5


def best_batches(
    batches: Sequence[int], lengths: Sequence[int], losses: Sequence[Sequence[float]]
) -> list[Valley]:
    """Of the lengths at which enough batches have a lowest loss. `losses`: the lowest
    over the rate, nats/token, of each batch at each length; nan where all diverged.
    """
    order = np.argsort(batches)
    grid = LossGrid(
        np.array(batches, float)[order], np.array(lengths, float), np.array(losses)[order]
    )
    (found,) = valleys([grid]).by_grid
    return found


def batch_law(
    found: Sequence[Valley], batches: Sequence[int], params: int
) -> BatchFit[ByTokens] | None:
    """Through the best batches that lie inside of those sampled; None where fewer than two do, or
    where the law has a batch well inside of them for a length whose best one lies outside.
    `params`: of the model, without embeddings.
    """
    inside = [valley for valley in found if valley.where == "inside"]
    if len(inside) < _FEWEST:
        return None
    fitted = fit_by_tokens(optima_of(inside, [params] * len(inside)))
    for valley in found:
        batch = fitted.law.predict(valley.tokens)
        if valley.where == "above" and batch * _MISSED < max(batches):
            return None
        if valley.where == "below" and batch > min(batches) * _MISSED:
            return None
    return fitted
