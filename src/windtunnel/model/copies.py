"""Copies of matrices for products to take, whose derivatives go to the matrices."""

from functools import partial

from torch import Tensor


def adding_to(matrix: Tensor, copy: Tensor) -> Tensor:
    """The copy as a leaf of autograd's: what comes to it is added, in its own dtype, to the grad of
    the matrix, without a pass that casts it. It never has a grad of another dtype itself, since
    layers that use such a leaf are not compiled in one piece.
    """
    leaf = copy.detach().requires_grad_()
    leaf.register_post_accumulate_grad_hook(partial(_add, matrix))
    return leaf


def _add(matrix: Tensor, leaf: Tensor) -> None:
    assert leaf.grad is not None
    if matrix.grad is None:
        matrix.grad = leaf.grad.to(matrix.dtype)
    else:
        matrix.grad.add_(leaf.grad)
    leaf.grad = None
