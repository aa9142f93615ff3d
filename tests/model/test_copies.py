"""Products that take copies of the matrices, made once a step, give what they gave without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo import explain

from windtunnel.model.decoder import Decoder, Layer
from windtunnel.model.fp8 import Fp8Copy
from windtunnel.recipe import Recipe
from windtunnel.results.run import Engine
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.device import autocast
from windtunnel.train.restore import put
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
CONTEXT, VOCAB = 32, 97
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"heads": 4, "kv_heads": 2},
    "untied": {"tied": False},
    "experts": {"experts": 4, "ffn": 24},
}


def engine(precision: str, recompute: bool = False, compiled: bool = False) -> Engine:
    """A batch of four windows goes through the model in two parts."""
    return Engine(
        device="cpu",
        precision=precision,
        compiled=compiled,
        micro_batch=2 * CONTEXT,
        threads=1,
        recompute=recompute,
    )


def steps(recipe: Make, shape: dict[str, Any], members: int, asked: Engine) -> tuple[Step, Step]:
    """Without copies, and with."""
    base = {"width": 32, "depth": 2, "heads": 2, "vocab": VOCAB, "ffn": 80} | shape
    recipes = [recipe(seed=n, model=base, data={"context": CONTEXT}) for n in range(members)]
    plain, copied = (Step(recipes, asked) for _ in "ab")
    copied.model.copy_matrices(torch.float32 if asked.precision == "fp32" else torch.bfloat16)
    return plain, copied


def batch(members: int, seed: int) -> np.ndarray:
    lead = () if members == 1 else (members,)
    return np.random.default_rng(seed).integers(0, VOCAB, (*lead, 4, CONTEXT + 1))


def gradients(model: Decoder) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_losses_gradients_and_steps_are_the_same(
    recipe: Make, shape: dict[str, Any], members: int, precision: str
) -> None:
    plain, copied = steps(recipe, shape, members, engine(precision))
    for number in range(4):
        windows = batch(members, number)
        expected, found = plain.gradient(windows), copied.gradient(windows)
        theirs, mine = gradients(plain.model), gradients(copied.model)
        if number == 0:
            assert torch.equal(found, expected)
            for name, gradient in theirs.items():
                assert mine[name].dtype is torch.float32
                # of a tied embedding two gradients are added, here in another order
                exact = name != "embedding" or not plain.model.model.tied
                rounding = 0.0 if exact else 1e-6
                torch.testing.assert_close(mine[name], gradient, rtol=rounding, atol=rounding)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for step in (plain, copied):
            step.update([1.0] * members)
    moved = copied.model.get_parameter("layers.0.gate")
    layer = copied.model.layers[0]
    assert isinstance(layer, Layer)
    held = layer.copies["gate"]
    assert torch.equal(held, moved.to(held.dtype))


def test_layers_that_are_computed_again_take_them_too(recipe: Make) -> None:
    plain, copied = steps(recipe, {}, 1, engine("bf16", recompute=True))
    windows = batch(1, 0)
    assert torch.equal(copied.gradient(windows), plain.gradient(windows))
    for name, gradient in gradients(plain.model).items():
        torch.testing.assert_close(gradients(copied.model)[name], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_layer_that_takes_copies_is_compiled_in_one_piece(recipe: Make, precision: str) -> None:
    """Between two parts of a batch too, when derivatives have come to the matrices."""
    _, copied = steps(recipe, {}, 1, engine(precision))
    copied.gradient(batch(1, 0))
    model, layer = copied.model, copied.model.layers[0]
    assert isinstance(layer, Layer)
    x = torch.zeros(CONTEXT, model.model.width, requires_grad=True)
    with autocast("cpu", precision):
        told = explain(Layer.through)(layer, x, model.rope, model.residual_multiplier)
    assert told.graph_count == 1, told.break_reasons


def test_copies_in_8_bits_are_what_products_would_make_of_the_matrices(recipe: Make) -> None:
    plain, copied = steps(recipe, {}, 1, engine("fp8"))
    for number in range(3):
        windows = batch(1, number)
        if number == 0:
            assert torch.equal(copied.gradient(windows), plain.gradient(windows))
            for name, gradient in gradients(plain.model).items():
                found = gradients(copied.model)[name]
                torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(
                copied.gradient(windows), plain.gradient(windows), rtol=1e-3, atol=1e-3
            )
        for step in (plain, copied):
            step.update([1.0])
    layer = copied.model.layers[0]
    assert isinstance(layer, Layer) and set(layer.narrow_copies) == layer.narrow
    for name, copy in layer.narrow_copies.items():
        now = Fp8Copy.of(layer.get_parameter(name))
        assert torch.equal(copy.scaled.values.float(), now.scaled.values.float())
        assert torch.equal(copy.turned.float(), now.turned.float())
        assert torch.equal(copy.scaled.scale, now.scaled.scale)


@pytest.mark.slow
def test_compiled_they_give_the_same(recipe: Make) -> None:
    plain, copied = steps(recipe, {}, 1, engine("bf16", compiled=True))
    windows = batch(1, 0)
    torch.testing.assert_close(copied.gradient(windows), plain.gradient(windows))
    for name, gradient in gradients(plain.model).items():
        assert (gradients(copied.model)[name] - gradient).norm() <= 1e-2 * gradient.norm(), name


def test_weights_from_a_checkpoint_are_copied(recipe: Make) -> None:
    plain, copied = steps(recipe, {}, 1, engine("bf16"))
    weights = {name: p.detach() + 0.01 for name, p in plain.model.named_parameters()}
    for step in (plain, copied):
        put(step, Checkpoint(0, 0, weights, {}))
    windows = batch(1, 0)
    assert torch.equal(copied.gradient(windows), plain.gradient(windows))
