"""Attention within documents over long windows on a GPU: by torch's FlexAttention, which skips the
blocks between documents and holds no mask of the window's square.

The borders are made once for all layers, and outside of what is compiled.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

# Queries and keys of a block; FlexAttention's own.
_BLOCK = 128


def borders(documents: Tensor) -> BlockMask:
    """Which blocks of keys each block of queries looks at, and within them which keys: those of its
    own document up to itself. `documents`: (B, T), numbers that never fall within a window.
    """
    T = documents.shape[1]
    blocks = -(-T // _BLOCK)
    first_queries = torch.arange(blocks, device=documents.device) * _BLOCK
    # from the block in which the document of a block's first query begins, to its own
    begins = torch.searchsorted(documents.contiguous(), documents[:, first_queries]) // _BLOCK
    own = torch.arange(blocks, device=documents.device)
    counts = (own - begins + 1).to(torch.int32)
    indices = (begins[:, :, None] + own).clamp(max=blocks - 1).to(torch.int32)

    def within(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (documents[b, q] == documents[b, k])

    return BlockMask.from_kv_blocks(
        counts[:, None],
        indices[:, None],
        BLOCK_SIZE=_BLOCK,
        mask_mod=within,
        seq_lengths=(T, T),
    )


def attend_within(
    query: Tensor, key: Tensor, value: Tensor, scale: float, within: BlockMask
) -> Tensor:
    """What `attention.causal_attention` gives, of whole windows."""
    grouped = query.shape[1] != key.shape[1]
    # as it is written it would hold all scores; within compiled layers it is compiled with them
    flex = flex_attention if torch.compiler.is_compiling() else _compiled()
    mixed = flex(query, key, value, block_mask=within, scale=scale, enable_gqa=grouped)
    assert isinstance(mixed, Tensor)
    return mixed


@cache
def _compiled() -> Callable[..., object]:
    # not before it is called: what compiles takes a second to import
    return torch.compile(flex_attention, dynamic=False)
