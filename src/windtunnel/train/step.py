"""One training step on a device: the gradient of a batch, then the optimiser's update. The loop and
every measure of speed take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, PRECISIONS, ObjectiveKind, Recipe
from windtunnel.results.run import Engine
from windtunnel.train.compiled import keep_shapes
from windtunnel.train.device import keep_memory, to_device
from windtunnel.train.graphs import Replayed
from windtunnel.train.objective import Objective
from windtunnel.train.optimizer import FlatOptimizer
from windtunnel.train.parallel import ALONE, Ranks, sharded

if TYPE_CHECKING:
    from windtunnel.train.preference import Reference


class Step:
    """`recipes`: one, for a model without members, or one a member. They differ in what the
    optimiser is told, in the init and in the multipliers; all of that stands in tensors, so
    nothing is compiled anew for another value. `document_end`: the token at which attention is
    cut, or None to let it cross documents. `reference`: what preferences are learnt against.
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        engine: Engine,
        document_end: int | None = None,
        objective: ObjectiveKind = OBJECTIVES["next-token"],
        reference: Reference | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.engine, self._reference, self._ranks = engine, reference, ranks
        self._document_end, self._kind = document_end, objective
        self._device = torch.device(engine.device)
        if engine.device == "cpu":
            keep_memory()
        self.model = _model_of(recipes, engine, ranks)
        if engine.recompute:
            self.model.recompute_layers()
        if PRECISIONS[engine.precision].narrow:
            self.model.narrow_products()
        if engine.compiled:
            keep_shapes()
            self.model.compile_parts()
        self.take_up(recipes)

    def take_up(self, recipes: Sequence[Recipe]) -> None:
        """Go on with these settings of the optimiser, which then remembers nothing."""
        self.optimizer = FlatOptimizer(self.model, recipes, self.engine.precision, self._ranks)
        if self.engine.compiled:
            self.optimizer.compile_parts()
        # a rank's products take what was gathered for them
        half = PRECISIONS[self.engine.precision].half
        if self.engine.device == "cuda" and half and self._alone:
            self.model.copy_matrices(torch.bfloat16)
        weights = [recipe.optimizer.balance for recipe in recipes]
        balance = torch.tensor(weights, device=self._device)
        self._objective = Objective(
            self.model,
            self.engine,
            self._document_end,
            balance if self.model.members else balance[0],
            self._kind,
            self._reference and self._reference.told("train", recipes, self.engine),
            self._ranks,
        )
        # where ranks talk, nothing can be captured
        update = partial(_updated, self.optimizer, self.model)
        self._update = Replayed(update, self._device) if self._alone else update

    @property
    def _alone(self) -> bool:
        return self._ranks.world == 1

    def gradient(self, batch: np.ndarray) -> Tensor:
        """Add the gradient of a batch, (windows, context + 1) or (P, windows, context + 1);
        returns its mean loss, () or (P,). Of several ranks each is given its share of the batch,
        and returns its part of the mean.
        """
        loss = self._objective.add_gradient(to_device(torch.from_numpy(batch), self._device))
        self.optimizer.sum_over_ranks()
        return loss

    def update(self, rates: Sequence[float]) -> Tensor:
        """Take the step, at one rate (a share of the peak) or one a member; returns the gradient
        norm, () or (P,).
        """
        return self._update(self.optimizer.shares(rates))


def _updated(optimizer: FlatOptimizer, model: Decoder, shares: Tensor) -> Tensor:
    norm = optimizer.step(shares)
    model.renew_copies()
    return norm


def _model_of(recipes: Sequence[Recipe], engine: Engine, ranks: Ranks) -> Decoder:
    """Without members for one recipe, else with one a recipe; on the device."""
    first, context = recipes[0], recipes[0].data.context
    if ranks.world > 1:
        return sharded(first.model, context, first.seed, engine, ranks)
    if len(recipes) == 1:
        return Decoder(first.model, context, first.seed).to(engine.device)
    models, seeds = [recipe.model for recipe in recipes], [recipe.seed for recipe in recipes]
    return Decoder(models, context, seeds).to(engine.device)
