"""Four bits for devices: every matrix rounded in groups, with the errors of its inputs compensated
(GPTQ) instead of plain rounding.

A group of 32 numbers along the input has a scale (max - min) / 15 and a minimum, both in fp16: the
paper's appendix D, and what GGUF calls Q4_1. GPTQ (2210.17323) rounds one input column after the
other, and lets the columns that are not yet rounded take up the error, weighted by the correlations
of the layer's inputs on calibration text. The layers before it are rounded by then. Norms and
routers stay in full, tables in 8 bits. An expert is calibrated on the tokens that its router sends
to it; one that gets none is rounded plainly.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from windtunnel.recipe import Model
from windtunnel.ship.forward import decoder_of, rows
from windtunnel.ship.gguf.quantise import BLOCK

_LEVELS = 15
_DAMPING = 0.01  # of the mean diagonal of H, added to it: GPTQ's own
_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
_EXPERTS_PRODUCT = torch.ops.windtunnel.grouped_product.default
_PRODUCTS = (Tensor.__matmul__, Tensor.matmul, torch.matmul, _EXPERTS_PRODUCT)


@torch.no_grad()
def calibrated(
    model: Model, weights: Mapping[str, Tensor], windows: np.ndarray
) -> dict[str, np.ndarray]:
    """Round every matrix whose rows are whole blocks, by our names: rows of Q4_1 blocks, uint8.
    `windows` (n, T): token ids of calibration text.
    """
    decoder = decoder_of(model, weights, windows.shape[1])
    encoded = {}
    for layer in range(model.depth):
        names = [f"layers.{layer}.{kind}" for kind in _MATRICES]
        matrices = {name: decoder.get_parameter(name) for name in names}
        # The layers before this one are rounded already, so its inputs are those that it will see.
        with _Inputs(matrices) as inputs:
            for part in rows(windows):
                decoder(part)
        for name, matrix in matrices.items():
            if matrix.shape[-1] % BLOCK == 0:
                encoded[name] = _round(matrix, inputs.products[name])
    return encoded


def gptq(weight: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round one matrix (out, in) so that its products with typical inputs change least.
    `products` (in, in): the sum of x x^T over those inputs.

    Returns codes (out, in) from 0 to 15, and scales and minima (out, in / BLOCK), which are
    already rounded to fp16.
    """
    size = weight.shape[1]
    # H = X X^T is the second derivative of the error |W X - Q X|^2 by a row of Q (GPTQ, equation
    # 1). Inputs that are always zero would make it singular, so its diagonal is raised.
    damping = _DAMPING * products.diagonal().mean().double() + 1e-12
    hessian = products.double() + torch.eye(size) * damping
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    # The columns that are rounded leave the problem one after the other. The upper Cholesky factor
    # of H^-1 holds what is needed of each smaller inverse: row j says how the error of column j is
    # spread over the columns behind it (GPTQ, algorithm 1).
    spread = torch.linalg.cholesky(inverse, upper=True).float()
    rest = weight.clone()  # what is left to round, with the errors so far
    codes = torch.empty_like(rest)
    scales, minima = [], []
    for start in range(0, size, BLOCK):
        end = start + BLOCK
        # The grid of a group is chosen when its turn comes, with the errors before it taken up.
        scale, least = _grid(rest[:, start:end])
        errors = torch.empty_like(rest[:, start:end])
        for column in range(start, end):
            exact = rest[:, column]
            codes[:, column] = _nearest(exact, scale, least)
            off = exact - codes[:, column] * scale - least
            # e_j = (w_j - q_j) / U_jj, and then w_k -= e_j U_jk for every k >= j
            error = off / spread[column, column]
            errors[:, column - start] = error
            rest[:, column:end] -= error[:, None] * spread[column, column:end]
        # The same for all columns behind the group, in one product.
        rest[:, end:] -= errors @ spread[start:end, end:]
        scales.append(scale)
        minima.append(least)
    return codes, torch.stack(scales, 1), torch.stack(minima, 1)


class _Inputs(TorchFunctionMode):
    """While it is entered, sums x x^T over all inputs x of some matrices: those of
    `x @ matrix.mT`, and of experts the rows that each of them gets.
    """

    def __init__(self, matrices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {matrix.data_ptr(): name for name, matrix in matrices.items()}
        self.products: dict[str, Tensor] = {}
        """By name: (in, in), or (experts, in, in)."""
        for name, matrix in matrices.items():
            size = matrix.shape[-1]
            self.products[name] = torch.zeros(*matrix.shape[:-2], size, size)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch instead of every function of tensors."""
        # The memory of the second factor tells which matrix it is; `.mT` keeps its beginning.
        if func in _PRODUCTS and args[1].data_ptr() in self._names:
            products = self.products[self._names[args[1].data_ptr()]]
            if func is _EXPERTS_PRODUCT:
                # rows sorted by expert (rows, in), and where those of each expert end
                inputs, _, ends = args
                for each, its in zip(
                    products, inputs.tensor_split(ends[:-1].tolist()), strict=True
                ):
                    each.addmm_(its.mT, its)
            else:
                inputs = args[0].flatten(0, -2)
                products.addmm_(inputs.mT, inputs)
        return func(*args, **(kwargs or {}))


def _round(matrix: Tensor, products: Tensor) -> np.ndarray:
    """Round a matrix, or each of several, in place to what its blocks say, and return the blocks:
    (..., out, bytes).
    """
    if matrix.dim() > 2:
        return np.stack([_round(one, its) for one, its in zip(matrix, products, strict=True)])
    codes, scales, minima = gptq(matrix, products)
    matrix.copy_(_values(codes, scales, minima))
    return _blocks(codes, scales, minima)


def _grid(group: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of each row (out, BLOCK) of a group, as fp16 holds them."""
    least, most = group.amin(1), group.amax(1)
    return ((most - least) / _LEVELS).half().float(), least.half().float()


def _nearest(values: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    steps = torch.where(scale > 0, (values - least) / scale, torch.zeros_like(values))
    return steps.round().clamp(0, _LEVELS)


def _values(codes: Tensor, scales: Tensor, minima: Tensor) -> Tensor:
    """The numbers (out, in) that codes stand for."""
    groups = codes.unflatten(1, (-1, BLOCK))
    return (groups * scales[..., None] + minima[..., None]).flatten(1)


def _blocks(codes: Tensor, scales: Tensor, minima: Tensor) -> np.ndarray:
    """Blocks of Q4_1: scale and minimum as fp16, then 16 bytes, each with a code of the group's
    first half in its low bits and one of its second half in its high bits.
    """
    # (out, groups, 2, BLOCK / 2): the halves of each group
    groups = codes.to(torch.uint8).unflatten(1, (-1, 2, BLOCK // 2)).numpy()
    packed = groups[:, :, 0] | groups[:, :, 1] << 4
    heads = np.stack([scales.half().numpy(), minima.half().numpy()], -1).view(np.uint8)
    return np.concatenate([heads, packed], -1).reshape(len(groups), -1)
