"""Causal attention with grouped key/value heads, over whole windows or against a cache.

On CUDA and MPS torch's fused kernel is used. On CPU it is written out in causal blocks: torch's fused CPU attention
took about half of a small model's step for a few percent of its arithmetic; this form compiles into plain products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 64  # queries a block on CPU: small enough to skip most of the masked half, large enough to fill a product


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None = None
) -> Tensor:
    """Attend from (B, heads, T, head_size) to keys and values (B, kv_heads, S, head_size), S >= T; the last query sees
    all S keys. `documents` (B, S) numbers the document of each position: attention stays within one."""
    if query.device.type == "cpu" and query.shape[-2] > 1:
        return _blocked(query, key, value, scale, documents)
    T, S = query.shape[-2], key.shape[-2]
    grouped = query.shape[1] != key.shape[1]
    if documents is None and (T == S or T == 1):
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=T == S and T > 1, scale=scale, enable_gqa=grouped
        )
    mask = _mask(torch.arange(S - T, S, device=query.device), torch.arange(S, device=query.device), documents)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)


def _blocked(query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None) -> Tensor:
    B, heads, T, size = query.shape
    kv_heads, S = key.shape[1], key.shape[2]
    lengths = [min(_BLOCK, T - start) for start in range(0, T, _BLOCK)]
    queries = query.reshape(B, kv_heads, heads // kv_heads, T, size).split(lengths, dim=3)
    # split and joined again, not sliced: the gradient of overlapping slices is a slow sum of padded tensors
    keys, values = (x.split([S - T + lengths[0], *lengths[1:]], dim=2) for x in (key, value))
    blocks = []
    for index, rows in enumerate(queries):
        blocks.append(
            _attend(rows, torch.cat(keys[: index + 1], dim=2), torch.cat(values[: index + 1], dim=2), scale, documents)
        )
    return torch.cat(blocks, dim=3).reshape(B, heads, T, size)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None) -> Tensor:
    """One block of queries (B, kv_heads, group, T, head_size), the last of which sees all of the S keys."""
    B, kv_heads, group, T, size = query.shape
    S = key.shape[2]
    scores = query.reshape(B, kv_heads, group * T, size) @ key.mT
    scores = scores.float().view(B, kv_heads, group, T, S) * scale
    positions = torch.arange(S, device=query.device)
    mask = _mask(positions[S - T :], positions, documents)
    scores = scores.masked_fill(~(mask if documents is None else mask[:, :, None]), float("-inf"))
    # normalised after the product: one exponential and one pass less, forward and backward, than with softmax
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    mixed = weights.to(value.dtype).view(B, kv_heads, group * T, S) @ value
    return (mixed.float().view(B, kv_heads, group, T, size) / weights.sum(-1, keepdim=True)).to(value.dtype)


def _mask(queries: Tensor, keys: Tensor, documents: Tensor | None) -> Tensor:
    """True where a query position may look at a key position: (T, S), or (B, 1, T, S) with documents."""
    causal = queries[:, None] >= keys
    if documents is None:
        return causal
    same = documents[:, queries][:, :, None] == documents[:, keys][:, None, :]
    return (causal & same)[:, None]
