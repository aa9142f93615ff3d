"""Next-token loss from hidden states, without holding all logits where the vocabulary is large."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_LOGITS_AT_ONCE = 2**25  # numbers; above this the logits are made chunk by chunk and made again in the backward pass


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, nats, fp32.

    hidden (tokens, width), or (P, tokens, width); head (vocab, width), or (P, vocab, width); targets (tokens,), shared
    by all members, or (P, tokens). Returns (tokens,) or (P, tokens).
    """
    targets = targets.expand(hidden.shape[:-1])
    members = head.shape[0] if head.dim() == 3 else 1
    rows = max(1, _LOGITS_AT_ONCE // (head.shape[-2] * members))
    if hidden.shape[-2] <= rows:
        return _losses(hidden, head, targets)
    chunks = zip(hidden.split(rows, dim=-2), targets.split(rows, dim=-1), strict=True)
    return torch.cat([checkpoint(_losses, h, head, t, use_reentrant=False) for h, t in chunks], dim=-1)  # pyright: ignore


def _losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ head.mT).float()
    # a comparison, not a gather: its gradient fuses into the softmax's, where a scatter would take a pass of its own
    hit = targets[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    return torch.logsumexp(logits, -1) - torch.where(hit, logits, 0.0).sum(-1)
