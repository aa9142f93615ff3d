"""Products with a matrix in 8 bits (FP8 formats, arXiv 2209.05433): what goes forward in e4m3,
which has one bit more of precision, and derivatives in e5m2, which has more range. Each tensor is
divided by one scale, so that its largest number is the largest of its format; sums are in fp32, and
what comes out is bf16.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from windtunnel.model.copies import adding_to

# Numbers that are multiplied and added up are a multiple of this: a GPU's products take whole 16
# bytes.
ALIGNED = 16
_FORWARD, _BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
_SMALLEST = 1e-30  # of a scale: a tensor of zeros has one too


class Scaled(NamedTuple):
    """A tensor in 8 bits, and what it was divided by."""

    values: Tensor
    scale: Tensor  # fp32, ()

    def turned(self) -> "Scaled":
        """Transposed, and laid out in rows again."""
        return Scaled(self.values.t().contiguous(), self.scale)


@dataclass(frozen=True)
class Fp8Copy:
    """A matrix in 8 bits, in both layouts that products take: made once for all parts of a batch.
    Two bytes a number, as a copy in 16 bits has.
    """

    matrix: Tensor  # (out, in): what is copied
    leaf: Tensor  # (out, in), of no numbers: adds derivatives, as they come, to the matrix's grad
    scaled: Scaled
    turned: Tensor  # (in, out), in 8 bits: the backward pass takes it so

    @classmethod
    def of(cls, matrix: Tensor) -> "Fp8Copy":
        """As it is now."""
        leaf = torch.zeros((), dtype=torch.bfloat16, device=matrix.device).expand(matrix.shape)
        scaled = _scaled(matrix.detach(), _FORWARD)
        return cls(matrix, adding_to(matrix, leaf), scaled, scaled.turned().values)

    def renew(self) -> None:
        """In place, from the matrix as it is now."""
        scaled = _scaled(self.matrix.detach(), _FORWARD)
        self.scaled.values.copy_(scaled.values)
        self.scaled.scale.copy_(scaled.scale)
        self.turned.copy_(scaled.values.t())


def fp8_product(h: Tensor, weight: Tensor | Fp8Copy) -> Tensor:
    """h @ weight.mT: h (tokens, in) and weight (out, in) -> bf16 (tokens, out), or with a P before
    all of them, but for a copy.
    """
    if isinstance(weight, Fp8Copy):
        return _product(h, weight.leaf, weight.scaled, weight.turned)
    if h.dim() == 2:
        scaled = _scaled(weight.detach(), _FORWARD)
        return _product(h, weight, scaled, scaled.turned().values)
    return torch.stack([fp8_product(*one) for one in zip(h, weight, strict=True)])


def _product(h: Tensor, leaf: Tensor, weight: Scaled, turned: Tensor) -> Tensor:
    out: Tensor = _Product.apply(h, leaf, *weight, turned)
    return out


def _scaled(x: Tensor, dtype: torch.dtype) -> Scaled:
    """By the largest magnitude that it has now, and not by that of steps before: the same numbers
    then give the same bits wherever a run goes on.
    """
    largest = x.abs().amax().float()
    scale = (largest / torch.finfo(dtype).max).clamp(min=_SMALLEST)
    return Scaled((x.float() / scale).to(dtype), scale)


def _times(left: Scaled, right: Scaled, *, exact: bool) -> Tensor:
    """left (n, k) times right (m, k), turned: bf16 (n, m). `exact`: whether a GPU adds up in all
    bits of fp32, as derivatives need it.
    """
    # `functional.scaled_mm` is no operator that torch 2.11 compiles
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        left.values,
        right.values.t(),
        scale_a=left.scale,
        scale_b=right.scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=not exact,
    )


class _Product(torch.autograd.Function):
    """What goes forward is kept in 8 bits for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, leaf: Tensor, weight: Tensor, scale: Tensor, turned: Tensor
    ) -> Tensor:
        """h (tokens, in), weight (out, in) and turned (in, out) in 8 bits -> (tokens, out). `leaf`:
        (out, in), what the weight's derivative goes to.
        """
        left = _scaled(h, _FORWARD)
        ctx.save_for_backward(*left, turned, scale)
        return _times(left, Scaled(weight, scale), exact=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """Derivatives by `h` and the weight."""
        h, h_scale, turned, scale = ctx.saved_tensors
        given = _scaled(grad, _BACKWARD)
        by_h = _times(given, Scaled(turned, scale), exact=True)
        by_weight = _times(given.turned(), Scaled(h, h_scale).turned(), exact=True)
        return by_h, by_weight, None, None, None
