"""The loss of the next token, from what enters the head, with its gradient written out: one
exponential a logit for forward and backward together, and never more than one matrix of logits.
Where that would be large it is made chunk by chunk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from windtunnel.model.memory import logits_at_once

# Rows of the table of the head are a multiple of this: a GPU's products are slow where a row of
# logits does not begin at a whole 16 bytes, and the paper's vocabulary, 122,753, is odd.
_ALIGNED = {"cuda": 128}


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What is computed of one chunk, as it is written or compiled. Each is compiled by itself:
    were all chunks and their backward pass one graph, the compiler would keep every chunk's logits
    from the forward pass, since it sees them computed again.
    """

    losses: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    derivatives: Callable[[Tensor, Tensor, Tensor, int, Tensor], tuple[Tensor, Tensor]]

    def compiled(self) -> "Kernels":
        """The same, compiled for each shape."""
        return Kernels(
            losses=torch.compile(self.losses, dynamic=False),
            derivatives=torch.compile(self.derivatives, dynamic=False),
        )


def token_losses(
    hidden: Tensor, head: Tensor, targets: Tensor, kernels: Kernels | None = None
) -> Tensor:
    """Cross-entropy of every token, nats, fp32.

    hidden (tokens, width), or (P, tokens, width); head (vocab, width), or (P, vocab, width);
    targets (tokens,), shared by all members, or (P, tokens). Returns (tokens,) or (P, tokens).
    """
    device, vocab = hidden.device.type, head.shape[-2]
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    table = head.to(dtype)
    if spare := -vocab % _ALIGNED.get(device, 1):
        table = F.pad(table, (0, 0, 0, spare))
    given = hidden.to(dtype), table, targets.expand(hidden.shape[:-1]), vocab
    if fits_at_once(hidden, head):
        return _AtOnce.apply(*given)
    return _ByChunks.apply(*given, kernels or AS_WRITTEN)


def fits_at_once(hidden: Tensor, head: Tensor) -> bool:
    """Whether the logits of all tokens are made in one matrix."""
    return hidden.shape[-2] <= _most_rows(head)


class _AtOnce(torch.autograd.Function):
    """Losses of all tokens. Their slopes are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocab: int) -> Tensor:
        """Losses, (tokens,) or (P, tokens)."""
        losses, slope = _loss_and_slope(hidden, head, targets, vocab)
        ctx.save_for_backward(hidden, head, slope)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """Derivatives by `hidden` and `head`, shaped like them; `grad`: by the losses."""
        hidden, head, slope = ctx.saved_tensors
        return *_products(hidden, head, slope, grad), None, None


class _ByChunks(torch.autograd.Function):
    """Losses of all tokens, chunk by chunk, which keep only what they are given: the logits of a
    chunk are made again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocab: int, kernels: Kernels
    ) -> Tensor:
        """Losses, (tokens,) or (P, tokens)."""
        ctx.save_for_backward(hidden, head, targets)
        ctx.vocab, ctx.kernels = vocab, kernels
        parts = [
            kernels.losses(hidden[..., at, :], head, targets[..., at], vocab)
            for at in _chunks(hidden, head)
        ]
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """Derivatives by `hidden` and `head`, shaped like them; `grad`: by the losses."""
        hidden, head, targets = ctx.saved_tensors
        by_hidden = torch.empty_like(hidden)
        by_head: Tensor | None = None
        for at in _chunks(hidden, head):
            given = hidden[..., at, :], head, targets[..., at]
            by_hidden[..., at, :], part = ctx.kernels.derivatives(*given, ctx.vocab, grad[..., at])
            # every chunk adds to the head's derivative, so that one is summed in fp32
            by_head = part.float() if by_head is None else by_head.add_(part)
        assert by_head is not None
        return by_hidden, by_head.to(head.dtype), None, None, None


def _chunk_losses(hidden: Tensor, head: Tensor, targets: Tensor, vocab: int) -> Tensor:
    return _loss_and_slope(hidden, head, targets, vocab)[0]


def _chunk_derivatives(
    hidden: Tensor, head: Tensor, targets: Tensor, vocab: int, grad: Tensor
) -> tuple[Tensor, Tensor]:
    _, slope = _loss_and_slope(hidden, head, targets, vocab)
    return _products(hidden, head, slope, grad)


AS_WRITTEN = Kernels(losses=_chunk_losses, derivatives=_chunk_derivatives)


def _loss_and_slope(
    hidden: Tensor, head: Tensor, targets: Tensor, vocab: int
) -> tuple[Tensor, Tensor]:
    """Losses (tokens,), and their derivatives by the logits (tokens, rows of the head): the
    softmax p, and at the target p - 1, which is expm1(-loss) without a difference of near numbers.
    Rows of the head from `vocab` on stand for no token.
    """
    logits, at = hidden @ head.mT, targets[..., None]
    if vocab < logits.shape[-1]:
        there = torch.arange(logits.shape[-1], device=logits.device) < vocab
        logits = logits.masked_fill(~there, float("-inf"))
    # the largest is taken off first: no exponential can then overflow
    top = logits.amax(-1, keepdim=True).float()
    weights = (logits.float() - top).exp()
    total = weights.sum(-1, keepdim=True)
    losses = total.log() - (logits.gather(-1, at).float() - top)
    softmax = (weights * (1 / total)).to(logits.dtype)
    slope = softmax.scatter(-1, at, torch.expm1(-losses).to(logits.dtype))
    return losses.squeeze(-1), slope


def _products(hidden: Tensor, head: Tensor, slope: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives by `hidden` and `head`. Each token's weight goes to the matrices of its width,
    not to that of its logits.
    """
    weight = grad[..., None]
    by_hidden = ((slope @ head).float() * weight).to(head.dtype)
    by_head = slope.mT @ (hidden.float() * weight).to(head.dtype)
    return by_hidden, by_head


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    """Tokens of each chunk: alike where that makes at most twice as many, since each length is
    compiled anew.
    """
    tokens = hidden.shape[-2]
    fewest = -(-tokens // _most_rows(head))
    alike = (number for number in range(fewest, 2 * fewest + 1) if tokens % number == 0)
    rows = -(-tokens // next(alike, fewest))
    for start in range(0, tokens, rows):
        yield slice(start, start + rows)


def _most_rows(head: Tensor) -> int:
    """How many tokens' logits are made at once."""
    members = head.shape[0] if head.dim() == 3 else 1
    return max(1, logits_at_once(head.device.type) // (head.shape[-2] * members))
