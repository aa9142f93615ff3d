"""The best batch at each length, each batch at its best rate, and how it grows: a study that finds
the rate for several batches has measured it already.
"""

from collections.abc import Sequence

import numpy as np

from windtunnel.laws.batch import BatchFit, fit_by_tokens
from windtunnel.tunnel.valley import LossGrid, Valley, optima_of, valleys


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


def batch_law(found: Sequence[Valley], params: int) -> BatchFit | None:
    """Through the best batches that lie inside of those sampled; None where none does. `params`:
    of the model, without embeddings.
    """
    inside = [valley for valley in found if valley.where == "inside"]
    return fit_by_tokens(optima_of(inside, [params] * len(inside))) if inside else None
