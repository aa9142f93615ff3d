"""What a law of the batch costs where it was not fitted: the loss at the batch that it says, above
the lowest loss of any batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.laws.batch import BATCH_LAWS, BatchLaw, ByTokens, Optima
from windtunnel.laws.batch_cost import ThreeTerm
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.valley import LossGrid

# the laws that are held out beside those of BATCH_LAWS: the three-term law, and one batch for all
THREE_TERM, CONSTANT = "three_term", "constant"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What a law is fitted to, and where it is then tried."""

    kept: NDArray[np.bool_]  # (optima,): the best batches that it is fitted to
    grids: Mapping[Size, LossGrid]  # the losses that the three-term law is fitted to
    tried: Sequence[tuple[Size, int | None]]  # at one length, by index, or at all of a size


@dataclass(frozen=True)
class MeasuredSizes:
    """The losses that regrets are read off: of each size by batch and length, and its parameters
    without embeddings.
    """

    grids: Mapping[Size, LossGrid]
    params: Mapping[Size, int]

    def regret(
        self, law: BatchLaw | ThreeTerm | None, tried: Sequence[tuple[Size, int | None]]
    ) -> float | None:
        """Mean regret of a law, nats/token, over where it is tried; None where it was not found or
        where nothing can be compared.
        """
        if law is None:
            return None
        regrets = []
        for size, only in tried:
            here = self.grids[size]
            for at in here.compared():
                if only is None or at == only:
                    said = law.at(here.best(at), here.tokens[at], self.params[size])
                    regrets.append(here.regret(at, float(said)))
        return float(np.mean(regrets)) if regrets else None

    def held_out(self, optima: Optima, folds: Sequence[Fold]) -> dict[str, float | None]:
        """Mean regret of each law over the folds, nats/token: of the laws through best batches, of
        the three-term law, and of one batch for all (the fitted ones' mean). None where the points
        of a fold can't tell the law.
        """
        found: dict[str, float | None] = {}
        for name in (*BATCH_LAWS, THREE_TERM, CONSTANT):
            regrets = []
            for fold in folds:
                law = self._law(name, optima, fold)
                regrets.append(self.regret(law, fold.tried))
            told = [regret for regret in regrets if regret is not None]
            found[name] = float(np.mean(told)) if told and len(told) == len(regrets) else None
        return found

    def _law(self, name: str, optima: Optima, fold: Fold) -> BatchLaw | ThreeTerm | None:
        """The law of that name through what a fold keeps; None where that can't tell it."""
        if name == THREE_TERM:
            return three_term(fold.grids, self.params)
        kept = optima.select(fold.kept)
        if not len(kept):
            return None
        if name == CONSTANT:
            # bs = c D^0, with c the geometric mean
            return ByTokens(float(np.exp(np.log(kept.batch).mean())), 0.0)
        try:
            return BATCH_LAWS[name].fit(kept)
        except ValueError:
            return None


def three_term(grids: Mapping[Size, LossGrid], params: Mapping[Size, int]) -> ThreeTerm | None:
    """The three-term law through every loss of the grids; None where they can't tell it."""
    points = []
    for size, here in grids.items():
        for batch, losses in zip(here.batches, here.loss, strict=True):
            for tokens, loss in zip(here.tokens, losses, strict=True):
                if np.isfinite(loss):
                    points.append((params[size], tokens, batch, loss))
    # the reshape is for no points at all
    columns = np.array(points, float).reshape(-1, 4).T
    try:
        return ThreeTerm.fit(*columns)
    except ValueError:
        return None
