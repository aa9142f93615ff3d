"""Causal attention with grouped key and value heads (Ainslie et al. 2023), over whole windows or
against a cache: softmax(scale query key^T) value.

On CUDA and MPS it is torch's fused kernel. On a CPU it is written out in causal blocks: torch's
fused attention took about half of a small model's step there, for a few percent of its
arithmetic; this form compiles into plain products. Longer windows keep no weights
(`attention_long`), and on a GPU no mask of their documents (`attention_borders`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from windtunnel.model.attention_blocks import KEPT, blocks
from windtunnel.model.attention_borders import attend_within, borders
from windtunnel.model.attention_long import long_attention

# Where attention may not look: the number of each position's document, or what is made of them.
Borders = Tensor | BlockMask


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    documents: Borders | None = None,
) -> Tensor:
    """Attend from queries (B, heads, T, head_size) to keys and values (B, kv_heads, S, head_size)
    with S >= T -> like the queries. The last query sees all S keys, the one before all but the
    last, and so on.

    `documents`, (B, S), numbers the document of each position: attention stays within one. Long
    windows on a GPU have the borders that `marked_borders` makes of them.
    """
    if isinstance(documents, BlockMask):
        return attend_within(query, key, value, scale, documents)
    if query.device.type == "cpu" and query.shape[-2] > 1:
        attend = long_attention if query.shape[-2] > KEPT else _blocked
        return attend(query, key, value, scale, documents)
    T, S = query.shape[-2], key.shape[-2]
    if T == 1:
        return _of_one(query, key, value, scale, documents)
    grouped = query.shape[1] != key.shape[1]
    if documents is None and T == S:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )
    positions = torch.arange(S, device=query.device)
    mask = _mask(positions[S - T :], positions, documents)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped
    )


def marked_borders(documents: Tensor, seen: int) -> Borders:
    """What the layers are told of `documents`, (B, S), where `seen` tokens are in a cache: of whole
    long windows on a GPU the borders, for a mask would grow with their square.
    """
    long = documents.device.type == "cuda" and documents.shape[-1] > KEPT and not seen
    return borders(documents) if long else documents


def _of_one(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None
) -> Tensor:
    """The same of one query a row. It sees all keys, and so do the query heads that share a head of
    keys and values: they stand where the queries of a text would, and no key is repeated for them.
    """
    B, _, _, size = query.shape
    rows = query.reshape(B, key.shape[1], -1, size)
    mask = None if documents is None else (documents == documents[:, -1:])[:, None, None]
    mixed = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scale)
    return mixed.reshape(query.shape)


def _blocked(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None
) -> Tensor:
    """The same in blocks of queries, each against the keys up to its own end."""
    B, heads, T, size = query.shape
    kv_heads, S = key.shape[1], key.shape[2]
    group = heads // kv_heads  # query heads that share a head of keys and values
    lengths = [rows for rows, _ in blocks(T)]
    queries = query.reshape(B, kv_heads, group, T, size).split(lengths, dim=3)
    # split and joined again, not sliced: the gradient of overlapping slices is a slow sum of
    # padded tensors
    parts = [S - T + lengths[0], *lengths[1:]]
    keys = key.split(parts, dim=2)
    values = value.split(parts, dim=2)
    mixtures = []
    for index, rows in enumerate(queries):
        seen = torch.cat(keys[: index + 1], dim=2)
        seen_values = torch.cat(values[: index + 1], dim=2)
        hidden = _hidden(rows.shape[3], seen.shape[2], documents, query.device)
        # (B, kv_heads, group * T, head_size): one product for all query heads of a group
        mixed: Tensor = _Block.apply(rows.flatten(2, 3), seen, seen_values, hidden, scale)
        mixtures.append(mixed.unflatten(2, (group, -1)))
    return torch.cat(mixtures, dim=3).reshape(B, heads, T, size)


class _Block(torch.autograd.Function):
    """A block of queries (B, kv_heads, group * T, head_size) against all keys and values (B,
    kv_heads, S, head_size) that it may see. `hidden`, (T, S) or (B, 1, 1, T, S), is -inf where a
    query may not look, else 0.

    With w = exp(scores - max) and their sum t, out = w value / t. The gradient is written out so
    that it takes w as the product did, in the values' dtype: no second mask, no second
    exponential, and no weights in fp32 to keep.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scale: float
    ) -> Tensor:
        """What the queries take from the values, shaped like the queries."""
        scores = (query @ key.mT).unflatten(2, (-1, hidden.shape[-2])).float() * scale + hidden
        weights = (scores - scores.amax(-1, keepdim=True)).exp().flatten(2, 3)
        # divided after the product: one pass over the weights less than with softmax
        total = weights.sum(-1, keepdim=True)
        weights = weights.to(value.dtype)
        mixed = ((weights @ value).float() / total).to(value.dtype)
        ctx.save_for_backward(query, key, value, weights, total)
        ctx.scale = scale
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """Derivatives by query, key and value; `grad`: by what was taken."""
        # By p = w / t it is by_p = grad value^T, and by the scores p (by_p - sum p by_p).
        query, key, value, weights, total = ctx.saved_tensors
        by_mixed = (grad.float() / total).to(grad.dtype)
        by_weights, held = (by_mixed @ value.mT).float(), weights.float()
        mean = (held * by_weights).sum(-1, keepdim=True) / total
        by_scores = (held * (by_weights - mean) * ctx.scale).to(grad.dtype)
        return by_scores @ key, by_scores.mT @ query, weights.mT @ by_mixed, None, None


def _hidden(T: int, S: int, documents: Tensor | None, device: torch.device) -> Tensor:
    """What a block's scores are added to: (T, S), or (B, 1, 1, T, S) with documents."""
    positions = torch.arange(S, device=device, dtype=torch.int32)
    mask = _mask(positions[S - T :], positions, documents)
    hidden = torch.zeros(mask.shape, device=device).masked_fill(~mask, float("-inf"))
    return hidden if documents is None else hidden[:, :, None]


def _mask(queries: Tensor, keys: Tensor, documents: Tensor | None) -> Tensor:
    """True where a query position may look at a key position: (T, S), or (B, 1, T, S) with
    documents.
    """
    causal = queries[:, None] >= keys
    if documents is None:
        return causal
    same = documents[:, queries][:, :, None] == documents[:, keys][:, None, :]
    return (causal & same)[:, None]
