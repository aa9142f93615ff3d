"""Products with a matrix in 8 bits (FP8 formats, arXiv 2209.05433): what goes forward in e4m3,
which has one bit more of precision, and derivatives in e5m2, which has more range. Each tensor is
divided by one scale, so that its largest number is the largest of its format; sums are in fp32, and
what comes out is bf16.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import ScalingType

# Numbers that are multiplied and added up are a multiple of this: a GPU's products take whole 16
# bytes.
ALIGNED = 16
_FORWARD, _BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
_SMALLEST = 1e-30  # of a scale: a tensor of zeros has one too


def fp8_product(h: Tensor, weight: Tensor) -> Tensor:
    """h @ weight.mT: h (tokens, in) and weight (out, in) -> bf16 (tokens, out), or with a P before
    all of them.
    """
    if h.dim() == 2:
        out: Tensor = _Product.apply(h, weight)
        return out
    return torch.stack([fp8_product(*one) for one in zip(h, weight, strict=True)])


class _Scaled(NamedTuple):
    """A tensor in 8 bits, and what it was divided by."""

    values: Tensor
    scale: Tensor  # fp32, ()

    def turned(self) -> "_Scaled":
        """Transposed, and laid out in rows again."""
        return _Scaled(self.values.t().contiguous(), self.scale)


def _scaled(x: Tensor, dtype: torch.dtype) -> _Scaled:
    """By the largest magnitude that it has now, and not by that of steps before: the same numbers
    then give the same bits wherever a run goes on.
    """
    largest = x.abs().amax().float()
    scale = (largest / torch.finfo(dtype).max).clamp(min=_SMALLEST)
    return _Scaled((x.float() / scale).to(dtype), scale)


def _times(left: _Scaled, right: _Scaled, *, exact: bool) -> Tensor:
    """left (n, k) times right (m, k), turned: bf16 (n, m). `exact`: whether a GPU adds up in all
    bits of fp32, as derivatives need it.
    """
    return F.scaled_mm(
        left.values,
        right.values.t(),
        left.scale,
        ScalingType.TensorWise,
        right.scale,
        ScalingType.TensorWise,
        use_fast_accum=not exact,
    )


class _Product(torch.autograd.Function):
    """What goes forward is kept in 8 bits for the backward pass."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor) -> Tensor:
        """(tokens, in) and (out, in) -> (tokens, out)."""
        left, right = _scaled(h, _FORWARD), _scaled(weight, _FORWARD)
        ctx.save_for_backward(*left, *right)
        return _times(left, right, exact=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore
        """Derivatives by `h` and `weight`."""
        h, h_scale, weight, weight_scale = ctx.saved_tensors
        left, right, given = (
            _Scaled(h, h_scale),
            _Scaled(weight, weight_scale),
            _scaled(grad, _BACKWARD),
        )
        by_h = _times(given, right.turned(), exact=True)
        by_weight = _times(given.turned(), left.turned(), exact=True)
        return by_h, by_weight
