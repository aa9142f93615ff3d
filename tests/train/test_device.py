"""What a run is carried out on: how much goes through the model at once, and what is computed
again to save memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.results.run import Engine
from windtunnel.train.device import check_experts, choose_engine
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
FP32 = Engine(device="cpu", precision="fp32", compiled=False, micro_batch=128, threads=1)


def test_members_share_what_goes_through_at_once(recipe: Make) -> None:
    large = recipe(train={"batch": 8192}, schedule={"tokens": 81920, "warmup": 8192})
    assert [choose_engine(large, members).micro_batch for members in (1, 2, 4, 64)] == [
        8192,
        4096,
        2048,
        128,
    ]
    assert choose_engine(large, 4).members == 4 and "one of 4 members" in str(
        choose_engine(large, 4)
    )
    assert choose_engine(large.change(train={"micro_batch": 256}), 4).micro_batch == 256


def test_experts_that_a_gpu_does_not_take_are_refused(recipe: Make) -> None:
    odd = recipe().model.model_copy(update={"experts": 4, "ffn": 100})
    with pytest.raises(InputError, match=r"model\.ffn=100: experts on a GPU need a multiple of 8"):
        check_experts(odd, "cuda")
    check_experts(odd, "cpu")
    check_experts(odd.model_copy(update={"experts": 0}), "cuda")


@pytest.mark.parametrize("members", [1, 3])
def test_layers_computed_again_give_the_same_gradient(recipe: Make, members: int) -> None:
    recipes = [recipe(seed=seed) for seed in range(members)]
    shape = (4, 33) if members == 1 else (members, 4, 33)
    batch = np.random.default_rng(0).integers(0, 320, shape)
    results: list[tuple[Any, ...]] = []
    for engine in (FP32, FP32.model_copy(update={"recompute": True})):
        step = Step(recipes, engine)
        loss = step.gradient(batch)
        results.append(
            (loss, *(p.grad.clone() for p in step.model.parameters() if p.grad is not None))
        )
    assert len(results[0]) == 21
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
