"""Multipliers moved into weights, for layouts that have none; and out of a published model into
the settings that this project has for them.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from windtunnel.model.roles import Multipliers, multipliers
from windtunnel.recipe import Model

_NEAR = 1e-6  # a factor this near to one is a rounding of it: files hold multipliers in 32 bits


def fold(model: Model, weights: Mapping[str, Tensor]) -> tuple[Model, Mapping[str, Tensor]]:
    """The same function without multipliers, which is what a plain Llama is (paper.md 10.4 A).

    Every map behind a multiplier is linear and has no bias, so the multiplier can move into it:
    E' = s_e E, O' = s_r O, D' = s_r D, U' = s_o U. Where s_e and s_o differ, one matrix cannot be
    both E' and U', and the head is no longer tied to the embedding.
    """
    m = multipliers(model)
    plain = model.model_copy(update={"parametrization": "standard"})
    if model.tied and m.embedding != m.logits:
        weights = {**weights, "head": weights["embedding"]}
        plain = plain.model_copy(update={"tied": False})
    factors = {"embedding": m.embedding, "output": m.residual, "down": m.residual, "head": m.logits}
    return plain, scaled(weights, factors)


def with_multipliers(plain: Model, given: Multipliers) -> tuple[Model, dict[str, float]]:
    """A model of this shape that applies these multipliers, and the factors by which its weights
    must be `scaled` for that to be exact.

    It is of the `standard` parametrization where there are no multipliers, and of `minicpm`
    otherwise. Two things have no setting there and go into the weights: an attention scale other
    than 1/sqrt(head_size), and a logit divisor that is not the width over a whole number.
    """
    model = plain.model_copy(update={"parametrization": "standard"})
    if any(abs(a - 1) > _NEAR for a in (given.embedding, given.residual, given.logits)):
        scales = {
            "scale_emb": tidy(given.embedding),
            "scale_depth": tidy(given.residual * math.sqrt(plain.depth)),
            "base_width": max(1, round(plain.width * given.logits)),
            "parametrization": "minicpm",
        }
        model = Model.model_validate(plain.model_dump() | scales)
    # Scores are c q.k with c = given.attention, where ours are q.k / sqrt(head_size): q takes the
    # ratio. Logits are s_o U n with n the last norm, whose gain takes what base_width / width,
    # a ratio of whole numbers, leaves of s_o.
    own = multipliers(model)
    factors = {"query": given.attention / own.attention, "norm": given.logits / own.logits}
    return model, {name: f for name, f in factors.items() if abs(f - 1) >= _NEAR}


def scaled(weights: Mapping[str, Tensor], factors: Mapping[str, float]) -> dict[str, Tensor]:
    """The weights, each times the factor of its kind (`query`, `norm`, ...), computed in fp32 at
    least; those without a factor as they are.
    """
    made = dict(weights)
    for name, tensor in weights.items():
        factor = factors.get(name.rsplit(".", 1)[-1], 1.0)
        if factor != 1:
            # bf16 times a factor would round twice
            exact = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            made[name] = exact * factor
    return made


def tidy(number: float) -> float:
    """The shortest number that is the same in fp32, as the forward pass has it:
    1.4 / sqrt(7) * sqrt(7) -> 1.4.
    """
    return float(str(np.float32(number)))
