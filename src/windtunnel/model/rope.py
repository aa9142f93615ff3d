"""Rotary position embedding (Su et al. 2021), in fp32: number i of a head's first half and number
i of its second turn together by position * base^(-2 i / head_size). The Llama-like checkpoints of
Hugging Face have this layout.
"""

import torch
from torch import Tensor


def rope_table(positions: int, head_size: int, base: float) -> Tensor:
    """Cosines and sines of every position: (2, positions, head_size / 2), fp32."""
    # in fp64: of an angle of many turns, fp32 keeps few digits of the last turn
    frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x, (..., positions, head_size), by the table's angles; computed in fp32, returned in
    x's dtype.
    """
    cos, sin = table[0], table[1]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
