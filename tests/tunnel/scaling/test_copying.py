"""How much less a text costs when it is read for the second time."""

import math

import pytest
import torch
from torch import Tensor

from windtunnel.tunnel.scaling.copying import copyable, saved, seen_before

VOCAB = 50


def without_memory(inputs: Tensor, targets: Tensor) -> Tensor:
    """Of a model to which all tokens are alike."""
    return torch.full(targets.shape, math.log(VOCAB)).flatten()


def copier(inputs: Tensor, targets: Tensor) -> Tensor:
    """Of one that expects, with nine parts in ten, what came after the same token before."""
    nats = without_memory(inputs, targets).view(targets.shape).clone()
    for row, (read, follows) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        after: dict[int, int] = {}
        for at, (token, following) in enumerate(zip(read, follows, strict=True)):
            if token in after:
                right = after[token] == following
                nats[row, at] = -math.log(0.9 if right else 0.1 / (VOCAB - 1))
            after[token] = following
    return nats.flatten()


def test_what_copying_saves() -> None:
    # each token once, so that what followed it is known
    texts = torch.stack([torch.randperm(VOCAB)[:20] for _ in range(4)])
    assert saved(without_memory, texts) == pytest.approx(0, abs=1e-6)
    assert saved(copier, texts) == pytest.approx(1 + math.log(0.9) / math.log(VOCAB), abs=1e-6)


def test_a_copier_has_little_of_its_loss_left_on_what_it_can_copy() -> None:
    inputs = torch.tensor([[1, 2, 3, 1, 2, 4], [5, 5, 5, 6, 7, 8]])
    targets = torch.tensor([[2, 3, 1, 2, 4, 9], [5, 5, 6, 7, 8, 9]])
    seen = seen_before(inputs.numpy(), targets.numpy())
    assert seen.tolist() == [[False] * 3 + [True] + [False] * 2, [False, True] + [False] * 4]
    assert copyable(without_memory, inputs, targets) == pytest.approx(2 / 12)
    assert copyable(copier, inputs, targets) < 0.03
