"""Rotary position embedding (Su et al. 2021), in fp32: number i of a head's first half and number
i of its second turn together by position * frequency i, which the model's scaling gives
(`recipe/rope.py`). The Llama-like checkpoints of Hugging Face have this layout.
"""

import torch
from torch import Tensor

from windtunnel.recipe import Model
from windtunnel.recipe.rope import attention_factor, frequencies


def rope_table(model: Model, start: int, end: int, length: int) -> Tensor:
    """Cosines and sines of the positions from `start` to `end`, in a sequence of `length` tokens,
    times the scaling's factor of attention: (2, end - start, head_size / 2), fp32.
    """
    # in fp64: of an angle of many turns, fp32 keeps few digits of the last turn
    each = torch.tensor(frequencies(model, length), dtype=torch.float64)
    angles = torch.arange(start, end, dtype=torch.float64)[:, None] * each
    return (torch.stack([angles.cos(), angles.sin()]) * attention_factor(model)).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x, (..., positions, head_size), by the table's angles; computed in fp32, returned in
    x's dtype.
    """
    cos, sin = table[0], table[1]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def rotate_as_projected(heads: Tensor, table: Tensor) -> Tensor:
    """The same of (batch, heads, T, head_size), with the heads of a position beside each other in
    memory, as projections give them and take their gradient: a GPU's attention then lays out its
    results so too, and no pass brings either into another order.

    table: (2, T, head_size / 2), or of each row (2, batch, 1, T, head_size / 2).
    """
    by_position = table[:, :, None] if table.dim() == 3 else table.transpose(-3, -2)
    return rotate(heads.transpose(1, 2), by_position).transpose(1, 2)
