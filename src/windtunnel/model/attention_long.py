"""Causal attention over long windows on a CPU, in memory that is linear in their length: torch's
fused kernel (Dao et al. 2022), which keeps of each query the logarithm of its sum of exponentials
and makes the weights again in the backward pass.

Each document of a whole window is attended to by itself, so many short documents in a window cost
no more than in short windows. Compiled code calls it as one operation, since how many there are is
in the data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 512  # queries that are attended to at once against a cache, under a mask

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def long_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: Tensor | None = None
) -> Tensor:
    """What `attention.causal_attention` gives, of the same arguments. Within a whole window the
    numbers of `documents` never fall.
    """
    return _attend(query, key, value, documents, scale)[0]


@dataclass(frozen=True)
class _Part:
    """Queries and the keys that any of them may see."""

    rows: slice
    """Of the batch."""
    queries: slice
    keys: slice
    hidden: Tensor | None = None
    """What scores are added to, (T, S), or (B, 1, T, S) with documents; None of a square where a
    query sees what comes before it."""

    def of_queries(self, x: Tensor) -> Tensor:
        """Those of a tensor (B, heads, T, ...)."""
        return x[self.rows, :, self.queries]

    def of_keys(self, x: Tensor) -> Tensor:
        """Those of a tensor (B, heads, S, head_size)."""
        return x[self.rows, :, self.keys]

    def told(self, x: Tensor) -> dict[str, Any]:
        """What the kernel is told of borders, for numbers like those of x."""
        hidden = None if self.hidden is None else self.hidden.to(x.dtype)
        return {"attn_mask": hidden}


def _parts(query: Tensor, key: Tensor, documents: Tensor | None) -> Iterator[_Part]:
    T, S = query.shape[2], key.shape[2]
    if S > T:
        yield from _blocks(T, S, documents, query.device)
    elif documents is None:
        yield _Part(slice(None), slice(None), slice(None))
    else:
        for row, numbers in enumerate(documents):
            start = 0
            for tokens in torch.unique_consecutive(numbers, return_counts=True)[1].tolist():
                at = slice(start, start + tokens)
                yield _Part(slice(row, row + 1), at, at)
                start += tokens


def _blocks(T: int, S: int, documents: Tensor | None, device: torch.device) -> Iterator[_Part]:
    """Of T queries behind a cache of S - T tokens, each block against all keys up to its end."""
    before = S - T
    for start in range(0, T, _BLOCK):
        end = min(start + _BLOCK, T)
        positions = torch.arange(before + start, before + end, device=device)
        seen = positions[:, None] >= torch.arange(before + end, device=device)
        if documents is not None:
            same = documents[:, positions][:, :, None] == documents[:, None, : before + end]
            seen = (seen & same)[:, None]
        hidden = torch.zeros(seen.shape, device=device).masked_fill(~seen, float("-inf"))
        yield _Part(slice(None), slice(start, end), slice(0, before + end), hidden)


def _repeated(x: Tensor, heads: int) -> Tensor:
    """(B, kv_heads, S, head_size) -> (B, heads, S, head_size): those of each group of heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


@torch.library.custom_op("windtunnel::long_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The mixture, like the queries, and the logarithm of each query's sum of exponentials, (B,
    heads, T), fp32.
    """
    heads = query.shape[1]
    keys, values = _repeated(key, heads), _repeated(value, heads)
    mixed = query.new_empty(query.shape)
    logs = query.new_empty(query.shape[:3], dtype=torch.float32)
    for part in _parts(query, key, documents):
        found, sums = _fused(
            part.of_queries(query),
            part.of_keys(keys),
            part.of_keys(values),
            is_causal=part.hidden is None,
            scale=scale,
            **part.told(query),
        )
        part.of_queries(mixed).copy_(found)
        part.of_queries(logs).copy_(sums)
    return mixed, logs


@_attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
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
    """Derivatives by query, key and value."""
    heads = query.shape[1]
    keys, values = _repeated(key, heads), _repeated(value, heads)
    by_query = query.new_empty(query.shape)
    # against a cache, every block adds to them
    by_keys = torch.zeros(keys.shape, dtype=torch.float32, device=key.device)
    by_values = torch.zeros_like(by_keys)
    for part in _parts(query, key, documents):
        found = _fused_backward(
            part.of_queries(grad),
            part.of_queries(query),
            part.of_keys(keys),
            part.of_keys(values),
            part.of_queries(mixed),
            part.of_queries(logs),
            0.0,
            part.hidden is None,
            scale=scale,
            **part.told(query),
        )
        part.of_queries(by_query).copy_(found[0])
        part.of_keys(by_keys).add_(found[1])
        part.of_keys(by_values).add_(found[2])
    shape = key.shape[1], -1
    by_key = by_keys.unflatten(1, shape).sum(2)
    by_value = by_values.unflatten(1, shape).sum(2)
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
