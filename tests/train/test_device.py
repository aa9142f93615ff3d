"""What a run is carried out on: how much goes through the model at once, and what is computed
again to save memory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windtunnel.errors import InputError
from windtunnel.model.memory import training_memory
from windtunnel.recipe import Recipe
from windtunnel.results.run import Engine
from windtunnel.train import device
from windtunnel.train.device import as_deterministic, check_experts, choose_engine
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


def test_layers_are_computed_again_where_a_machine_is_too_small(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not less goes through the model at once than a window."""
    asked = recipe(train={"precision": "fp32"})
    assert not choose_engine(asked).recompute
    needed = training_memory(asked.model, 32, context=32, device="cpu", precision="fp32").total
    monkeypatch.setattr(device, "device_memory", lambda kind: needed)
    chosen = choose_engine(asked)
    assert chosen.recompute and chosen.micro_batch == 32


def test_a_container_has_less_memory_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(device, "_CONTAINER", limit)

    def told() -> int | None:
        device._host_memory.cache_clear()
        return device.device_memory("cpu")

    whole = told()
    assert whole
    for text, expected in (("max\n", whole), (f"{2**28}\n", 2**28), (f"{2**60}\n", whole)):
        limit.write_text(text)
        assert told() == expected
    device._host_memory.cache_clear()


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


def test_what_was_begun_keeps_what_changes_its_bits_and_chooses_the_rest_anew(
    recipe: Make,
) -> None:
    begun = FP32.model_copy(
        update={"precision": "bf16", "micro_batch": 64, "recompute": True, "members": 3}
    )
    now = choose_engine(recipe(), 1, begun)
    kept = {"precision", "compiled", "micro_batch", "members"}
    assert now.model_dump(include=kept) == begun.model_dump(include=kept)
    assert not now.recompute, "a CPU has no want of memory, and computing again changes no bit"
    assert choose_engine(recipe()).micro_batch == 128


def test_deterministic_is_for_a_gpu_and_lasts_no_longer_than_its_run(recipe: Make) -> None:
    asked = recipe(train={"deterministic": True})
    engine = choose_engine(asked)
    assert engine.deterministic and str(engine).endswith("deterministic")
    assert not choose_engine(recipe()).deterministic
    with as_deterministic(engine):
        assert not torch.are_deterministic_algorithms_enabled()
    there = engine.model_copy(update={"device": "cuda"})
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with as_deterministic(there):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(ZeroDivisionError), as_deterministic(there):
        _ = 1 / 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() is before
