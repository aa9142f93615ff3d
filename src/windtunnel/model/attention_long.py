"""Causal attention over long windows on a CPU, in memory that is linear in their length: blocks of
queries as in `attention`, of which nothing is kept but the logarithm of each query's sum of
exponentials; the weights are made again in the backward pass (Dao et al. 2022).

A block looks only at the keys from the beginning of its first query's document on, so many short
documents in a window cost no more than in short windows. Compiled code calls it as one operation:
unrolled, a window of 32K tokens would be 512 blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.model.attention_blocks import blocks


def long_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None = None
) -> Tensor:
    """What `attention.causal_attention` gives, of the same arguments. Within a whole window the
    numbers of `documents` never fall.
    """
    return _attend(query, key, value, documents, scale)[0]


@dataclass(frozen=True)
class _Part:
    """A block of queries and the keys that any of them may see."""

    queries: slice
    keys: slice
    hidden: Tensor
    """What scores are added to, (T, S), or (B, 1, 1, T, S) with documents."""


def _parts(T: int, S: int, documents: Tensor | None, device: torch.device) -> Iterator[_Part]:
    before = S - T  # keys that come before the first query
    # the largest first: what it takes and gives back has room for all that come after it
    for rows, end in reversed(list(blocks(T))):
        start = end - rows
        positions = torch.arange(before + start, before + end, device=device)
        first, same = 0, None
        if documents is not None:
            of_queries = documents[:, positions]
            if not before:  # the numbers never fall: its first key is the first with its number
                first = int(torch.searchsorted(documents.contiguous(), of_queries[:, :1]).min())
            same = of_queries[:, :, None] == documents[:, None, first : before + end]
        seen = positions[:, None] >= torch.arange(first, before + end, device=device)
        if same is not None:
            seen = (seen & same)[:, None, None]
        hidden = torch.zeros(seen.shape, device=device).masked_fill(~seen, float("-inf"))
        yield _Part(slice(start, end), slice(first, before + end), hidden)


def _grouped(query: Tensor, kv_heads: int) -> Tensor:
    """(B, kv_heads, group, T, head_size)."""
    B, heads, T, size = query.shape
    return query.reshape(B, kv_heads, heads // kv_heads, T, size)


def _scores(queries: Tensor, keys: Tensor, part: _Part, scale: float) -> Tensor:
    """(B, kv_heads, group, rows, keys), fp32."""
    flat = queries.flatten(2, 3) @ keys.mT
    return flat.unflatten(2, queries.shape[2:4]).float() * scale + part.hidden


@torch.library.custom_op("windtunnel::long_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The mixture, like the queries, and the logarithm of each query's sum of exponentials, (B,
    heads, T), fp32.
    """
    T, grouped = query.shape[2], _grouped(query, key.shape[1])
    # contiguous, so that grouped heads are views of them
    mixed = query.new_empty(query.shape)
    logs = query.new_empty(query.shape[:3], dtype=torch.float32)
    into, sums = _grouped(mixed, key.shape[1]), logs.view(*grouped.shape[:4])
    for part in _parts(T, key.shape[2], documents, query.device):
        queries, keys = grouped[..., part.queries, :], key[:, :, part.keys]
        scores = _scores(queries, keys, part, scale)
        top = scores.amax(-1, keepdim=True)
        weights = (scores - top).exp()
        total = weights.sum(-1, keepdim=True)
        product = weights.to(value.dtype).flatten(2, 3) @ value[:, :, part.keys]
        mixture = product.unflatten(2, queries.shape[2:4]).float() / total
        into[..., part.queries, :] = mixture.to(mixed.dtype)
        sums[..., part.queries] = (top + total.log()).squeeze(-1)
    return mixed, logs


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, scale: float) -> Any:
    logs = query.new_empty(query.shape[:3], dtype=torch.float32)
    return query.new_empty(query.shape), logs


@torch.library.custom_op("windtunnel::long_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixed: Tensor,
    logs: Tensor,
    documents: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives by query, key and value. With p the weights, by_p = grad value^T, and by the
    scores p (by_p - sum p by_p), of which the sum is that of grad times what was mixed.
    """
    kv_heads = key.shape[1]
    grouped, grads = _grouped(query, kv_heads), _grouped(grad, kv_heads)
    sums = logs.view(*grouped.shape[:4], 1)
    mean = _grouped((grad.float() * mixed.float()).sum(-1, keepdim=True), kv_heads)
    by_query = query.new_empty(query.shape)
    into = _grouped(by_query, kv_heads)
    # every block adds to them
    by_key = torch.zeros(key.shape, dtype=torch.float32, device=key.device)
    by_value = torch.zeros_like(by_key)
    for part in _parts(query.shape[2], key.shape[2], documents, query.device):
        queries, keys = grouped[..., part.queries, :], key[:, :, part.keys]
        weights = (_scores(queries, keys, part, scale) - sums[..., part.queries, :]).exp()
        given = grads[..., part.queries, :].to(value.dtype).flatten(2, 3)
        by_weights = (given @ value[:, :, part.keys].mT).unflatten(2, queries.shape[2:4]).float()
        by_scores = weights * (by_weights - mean[..., part.queries, :]) * scale
        by_scores = by_scores.to(key.dtype).flatten(2, 3)
        into[..., part.queries, :] = (by_scores @ keys).unflatten(2, queries.shape[2:4])
        by_key[:, :, part.keys] += by_scores.mT @ queries.flatten(2, 3)
        by_value[:, :, part.keys] += weights.to(given.dtype).flatten(2, 3).mT @ given
    return by_query, by_key.to(key.dtype), by_value.to(value.dtype)


@_attend_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixed: Tensor,
    logs: Tensor,
    documents: Tensor | None,
    scale: float,
) -> Any:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, documents, scale = inputs
    ctx.save_for_backward(query, key, value, *output, documents)
    ctx.scale = scale


def _derivatives(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, mixed, logs, documents = ctx.saved_tensors
    found = _attend_backward(grad, query, key, value, mixed, logs, documents, ctx.scale)
    return *found, None, None


_attend.register_autograd(_derivatives, setup_context=_keep)
