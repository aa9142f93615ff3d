"""Rotation, in either order of heads and positions in memory."""

import pytest
import torch

from windtunnel.model.rope import rotate, rotate_as_projected


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 3, 1, 5, 4)], ids=["alike", "by row"])
def test_as_projected_it_is_the_same(shape: tuple[int, ...]) -> None:
    table, weight = torch.randn(shape), torch.randn(3, 2, 5, 8)
    projected = torch.randn(3, 5, 2, 8)
    found = []
    for turn in (rotate, rotate_as_projected):
        leaf = projected.clone().requires_grad_()
        turned = turn(leaf.transpose(1, 2), table)
        (turned * weight).sum().backward()
        found.append((turned, leaf.grad))
    (plain, by_plain), (other, by_other) = found
    assert torch.equal(plain, other) and torch.equal(by_plain, by_other)
    assert other.transpose(1, 2).is_contiguous()
