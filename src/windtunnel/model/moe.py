"""A feed-forward of many experts: each token goes through the few to which its router gives the
most weight (paper section 7.3).

No token is dropped: rows are sorted by expert, and each product takes them all at once, whatever
each expert's share. The experts of all members of a population are groups of one product.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 128  # rows; the products of a CPU have a multiple of it


def mixture(
    h: Tensor, router: Tensor, gate: Tensor, up: Tensor, down: Tensor, chosen: int, window: int
) -> tuple[Tensor, Tensor]:
    """SwiGLU by the `chosen` best experts of each token, weighted by their probabilities: h
    (tokens, width), or (P, tokens, width) -> like h; and the `unevenness` of every window of
    `window` tokens. The weights of several are made to add up to 1.

    router (experts, width), gate and up (experts, ffn, width), down (experts, width, ffn), or
    with a P before.
    """
    device = h.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
    with torch.autocast(device, enabled=False):  # near a tie, 16 bits would choose by rounding
        probabilities = (h.float() @ router.float().mT).softmax(-1)
    # (tokens, chosen), or (P, tokens, chosen)
    shares, experts = probabilities.topk(chosen, dim=-1)
    # One alone would be 1 whatever the router says, which would then have no gradient: it is the
    # plain probability, as in Switch Transformer (2101.03961, eq. 2).
    if chosen > 1:
        shares = shares / shares.sum(-1, keepdim=True)

    # A row of the products is a token at one of its experts; a group, an expert of a member.
    count = router.shape[-2]
    groups = router.shape[:-1].numel()
    member = torch.arange(groups // count, device=h.device) * count
    group = (experts.reshape(groups // count, -1) + member[:, None]).flatten()
    order = group.argsort(stable=True)
    # the order that undoes it
    back = order.argsort()
    ends = torch.searchsorted(group[order], torch.arange(groups, device=h.device), right=True).int()

    def product(rows: Tensor, weight: Tensor) -> Tensor:
        return grouped_product(rows, weight.to(dtype).reshape(groups, *weight.shape[-2:]), ends)

    each = h.to(dtype).flatten(0, -2)[:, None].expand(-1, chosen, -1).flatten(0, 1)
    rows: Tensor = _Permuted.apply(each, order, back)
    out = product(F.silu(product(rows, gate)) * product(rows, up), down)
    mine: Tensor = _Permuted.apply(out, back, order)
    # (tokens, chosen, width): what a token's experts give, weighted by its shares
    mixed = (mine.view(*shares.shape, -1) * shares[..., None]).sum(-2)
    by_window = (-1, window)
    return mixed, unevenness(
        probabilities.unflatten(-2, by_window), experts.unflatten(-2, by_window)
    )


def unevenness(probabilities: Tensor, experts: Tensor) -> Tensor:
    """The load-balancing loss of Switch Transformer (2101.03961, eq. 4) for the best few of n
    experts: n times the sum, over experts, of the share of choices times the mean probability.
    About 1 where all get the same; n / chosen where all goes to the same few.

    Of each window for itself, so that it does not depend on how a batch is cut: probabilities
    (..., window, n) and the experts chosen (..., window, chosen) -> (...).
    """
    count = probabilities.shape[-1]
    used = F.one_hot(experts, count).float().mean((-3, -2))
    return count * (used * probabilities.mean(-2)).sum(-1)


class _Permuted(torch.autograd.Function):
    """x[order]; `back` is the reverse order. The gradient is a look-up too, not a sum of
    scattered rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """x (rows, width), order and back (rows,) -> (rows, width)."""
        ctx.save_for_backward(back)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """The derivative by x."""
        return grad[ctx.saved_tensors[0]], None, None


# An operator of its own: compiled code takes torch's for bf16 alone, and on a CPU torch's is
# several times slower.
@torch.library.custom_op("windtunnel::grouped_product", mutates_args=())
def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """rows (n, in), sorted by group, the rows of group g ending before ends[g]; weights (groups,
    out, in) -> (n, out). ends: int32 (groups,); the last one is n.
    """
    if rows.device.type != "cpu":
        return F.grouped_mm(rows, weights.mT, offs=ends)
    out = rows.new_empty(len(rows), weights.shape[1])
    for weight, start, end in _groups(weights, ends):
        # neighbours fill up the last block
        first = max(0, min(start, len(rows) - _whole_blocks(end - start)))
        product = rows[first : first + _whole_blocks(end - start)] @ weight.mT
        out[start:end] = product[start - first : end - first]
    return out


@torch.library.custom_op("windtunnel::grouped_outer_product", mutates_args=())
def _grouped_outer_product(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """left (n, out), right (n, in) -> the sum of outer products over each group's rows, (groups,
    out, in).
    """
    if left.device.type != "cpu":
        return F.grouped_mm(left.mT, right, offs=ends)
    out = left.new_zeros(len(ends), left.shape[1], right.shape[1])
    for sums, start, end in _groups(out, ends):
        filling = (0, 0, 0, _whole_blocks(end - start) - (end - start))
        torch.mm(F.pad(left[start:end], filling).mT, F.pad(right[start:end], filling), out=sums)
    return out


def _groups(tensors: Tensor, ends: Tensor) -> Iterator[tuple[Tensor, int, int]]:
    """Each group that has rows: its tensor, where its rows start and end."""
    stops = ends.tolist()
    for tensor, start, end in zip(tensors, [0, *stops], stops, strict=False):
        if end > start:
            yield tensor, start, end


def _whole_blocks(rows: int) -> int:
    """`rows` rounded up to blocks. A CPU's products are generated anew for each size, which takes
    longer than they do, so there must be few sizes.
    """
    return -(-rows // _BLOCK) * _BLOCK


@grouped_product.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[1])


@_grouped_outer_product.register_fake
def _(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return left.new_empty(ends.shape[0], left.shape[1], right.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weights, ends = ctx.saved_tensors
    grad = grad.contiguous()
    return grouped_product(grad, weights.mT, ends), _grouped_outer_product(grad, rows, ends), None


grouped_product.register_autograd(_gradient, setup_context=_keep)
