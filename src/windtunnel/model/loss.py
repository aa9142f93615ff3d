"""The loss of the next token, from what enters the head, with its gradient written out: one
exponential a logit for forward and backward together, and never more than one matrix of logits.
Where that would be large it is made chunk by chunk.
"""

from typing import Any

import torch
from torch import Tensor

from windtunnel.model.memory import LOGITS_AT_ONCE


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, nats, fp32.

    hidden (tokens, width), or (P, tokens, width); head (vocab, width), or (P, vocab, width);
    targets (tokens,), shared by all members, or (P, tokens). Returns (tokens,) or (P, tokens).
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return _Losses.apply(hidden.to(dtype), head.to(dtype), targets.expand(hidden.shape[:-1]))


class _Losses(torch.autograd.Function):
    """Losses of all tokens, chunk by chunk. Of a single chunk the slopes are kept for the backward
    pass; of more they are made again there.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Losses, (tokens,) or (P, tokens)."""
        parts = [_loss_and_slope(h, head, t) for h, t in _chunks(hidden, head, targets)]
        ctx.save_for_backward(hidden, head, targets, *([parts[0][1]] if len(parts) == 1 else []))
        return torch.cat([losses for losses, _ in parts], dim=-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore
        """Derivatives by `hidden` and `head`, shaped like them; `grad`: by the losses."""
        hidden, head, targets, *kept = ctx.saved_tensors
        # every chunk adds to the head's derivative, so that one is summed in fp32
        by_hidden, by_head = [], torch.zeros((), device=head.device)
        grads = grad[..., None].split(_rows(head), dim=-2)
        for (h, t), g in zip(_chunks(hidden, head, targets), grads, strict=True):
            slope = kept[0] if kept else _loss_and_slope(h, head, t)[1]
            # each token's weight goes to the matrices of its width, not to that of its logits
            by_hidden.append(((slope @ head).float() * g).to(head.dtype))
            by_head = by_head + (slope.mT @ (h.float() * g).to(head.dtype)).float()
        return torch.cat(by_hidden, dim=-2), by_head.to(head.dtype), None


def _loss_and_slope(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (tokens,), and their derivatives by the logits (tokens, vocab): the softmax p, and at
    the target p - 1, which is expm1(-loss) without a difference of near numbers.
    """
    logits, at = hidden @ head.mT, targets[..., None]
    # the largest is taken off first: no exponential can then overflow
    top = logits.amax(-1, keepdim=True).float()
    weights = (logits.float() - top).exp()
    total = weights.sum(-1, keepdim=True)
    losses = total.log() - (logits.gather(-1, at).float() - top)
    softmax = (weights * (1 / total)).to(logits.dtype)
    slope = softmax.scatter(-1, at, torch.expm1(-losses).to(logits.dtype))
    return losses.squeeze(-1), slope


def _chunks(hidden: Tensor, head: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = _rows(head)
    return list(zip(hidden.split(rows, dim=-2), targets.split(rows, dim=-1), strict=True))


def _rows(head: Tensor) -> int:
    """How many tokens' logits are made at once."""
    members = head.shape[0] if head.dim() == 3 else 1
    return max(1, LOGITS_AT_ONCE // (head.shape[-2] * members))
