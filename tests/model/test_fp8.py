"""Products in 8 bits: near the exact ones by as much as the formats allow, forward and backward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.model.fp8 import fp8_product
from windtunnel.recipe import PRECISIONS, Recipe
from windtunnel.results.run import Engine
from windtunnel.train.device import choose_engine
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
CONTEXT, VOCAB = 32, 97
SHAPE: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "vocab": VOCAB, "ffn": 80}
# Of a sum of products of numbers that are each off by up to 2^-4 (e4m3) or 2^-3 (e5m2), evenly
# spread: their root mean square over a binade is about 0.026 and 0.052.
FORWARD, BACKWARD = 0.05, 0.08


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def derivatives(product: Callable[[Tensor, Tensor], Tensor], *given: Tensor) -> list[Tensor]:
    """The product, and its derivatives by both, of a loss that weighs all results differently."""
    h, weight = (one.clone().requires_grad_() for one in given)
    out = product(h, weight)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out.float() * weights).sum().backward()
    assert h.grad is not None and weight.grad is not None
    return [out.detach(), h.grad, weight.grad]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([16, 48, 256]),
    st.sampled_from([16, 64]),
    st.sampled_from([32, 80]),
    st.floats(-6, 6),
)
def test_products_and_derivatives_are_near_whatever_the_magnitude(
    seed: int, tokens: int, inside: int, out: int, magnitude: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(tokens, inside, generator=generator) * 10**magnitude
    weight = torch.randn(out, inside, generator=generator) * 10**-magnitude
    exact = derivatives(lambda a, b: a @ b.mT, h, weight)
    for found, expected, bound in zip(
        derivatives(fp8_product, h, weight), exact, (FORWARD, BACKWARD, BACKWARD), strict=True
    ):
        assert apart(found, expected) < bound


def test_members_have_a_scale_each() -> None:
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(3, 64, 32, generator=generator) * torch.tensor([1e-4, 1, 1e4])[:, None, None]
    weight = torch.randn(3, 48, 32, generator=generator)
    together = derivatives(fp8_product, h, weight)
    for member in range(3):
        assert apart(together[0][member], h[member] @ weight[member].mT) < FORWARD
        assert torch.equal(together[0][member], fp8_product(h[member], weight[member]))


def test_nothing_but_zeros_gives_zeros() -> None:
    out, by_h, by_weight = derivatives(fp8_product, torch.zeros(16, 32), torch.zeros(48, 32))
    assert not out.any() and not by_h.any() and not by_weight.any()


def test_a_number_that_is_none_is_not_hidden() -> None:
    h = torch.ones(16, 32)
    h[3, 5] = torch.inf
    assert fp8_product(h, torch.ones(48, 32)).isnan().any()


def engine(precision: str, compiled: bool = False, recompute: bool = False) -> Engine:
    return Engine(
        device="cpu",
        precision=precision,
        compiled=compiled,
        micro_batch=4 * CONTEXT,
        threads=1,
        recompute=recompute,
    )


def batches(many: int, seed: int = 0) -> np.ndarray:
    """Each token is one of two that its predecessor allows, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    follow = np.random.default_rng(7).integers(0, VOCAB, (VOCAB, 2))
    tokens = np.empty((many, 4, CONTEXT + 1), np.int64)
    tokens[..., 0] = rng.integers(0, VOCAB, (many, 4))
    for t in range(CONTEXT):
        chosen = rng.integers(0, 2, (many, 4))
        tokens[..., t + 1] = follow[tokens[..., t], chosen]
    return tokens


def trained(recipe: Recipe, asked: Engine, steps: int) -> Tensor:
    """Losses of every step."""
    step, losses = Step([recipe], asked), []
    for batch in batches(steps):
        losses.append(step.gradient(batch))
        step.update([1.0])
        step.optimizer.zero_grad()
    return torch.stack(losses).detach()


def asked(recipe: Make, **changes: Any) -> Recipe:
    return recipe(model=SHAPE, data={"context": CONTEXT}, optimizer={"lr": 0.02}, **changes)


def test_a_model_learns_in_8_bits_as_it_does_in_16(recipe: Make) -> None:
    """The loss falls as far; only the last digits differ, and they do."""
    narrow, half = (trained(asked(recipe), engine(name), 80) for name in ("fp8", "bf16"))
    assert half[0] - half[-10:].mean() > 1
    assert abs(narrow[-10:].mean() - half[-10:].mean()) < 0.02 * half[-10:].mean()
    assert not torch.equal(narrow, half)


@pytest.mark.parametrize(
    "changes", [pytest.param({"compiled": True}, marks=pytest.mark.slow), {"recompute": True}]
)
def test_compiled_or_computed_again_it_is_the_same(recipe: Make, changes: dict[str, bool]) -> None:
    plain = trained(asked(recipe), engine("fp8"), 3)
    other = trained(asked(recipe), engine("fp8", **changes), 3)
    assert torch.allclose(plain, other, rtol=2e-3)


def test_experts_stay_in_16_bits(recipe: Make) -> None:
    """Their products are grouped ones; those of attention are in 8 bits all the same."""
    experts = recipe(model=SHAPE | {"experts": 4, "ffn": 32}, data={"context": CONTEXT})
    narrow, half = (trained(experts, engine(name), 3) for name in ("fp8", "bf16"))
    assert torch.allclose(narrow, half, rtol=2e-2) and not torch.equal(narrow, half)


def test_auto_never_chooses_it(recipe: Make) -> None:
    assert not PRECISIONS[choose_engine(asked(recipe)).precision].narrow


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"model": SHAPE | {"ffn": 72}}, r"model\.ffn is 72"),
        ({"model": SHAPE | {"width": 40}}, r"model\.width is 40"),
        ({"data": {"context": 24}, "train": {"batch": 96}}, r"data\.context is 24"),
    ],
)
def test_a_shape_that_has_no_such_products_is_refused(
    recipe: Make, changes: dict[str, Any], where: str
) -> None:
    settings: dict[str, Any] = {"model": SHAPE, "data": {"context": CONTEXT}} | changes
    settings["train"] = settings.get("train", {}) | {"precision": "fp8"}
    with pytest.raises(InputError, match=rf"{where}: products in 8 bits need a multiple of 16"):
        choose_engine(recipe(**settings))


def test_an_unknown_precision_is_refused_with_the_known_ones(recipe: Make) -> None:
    known = r"train\.precision: 'fp9': expected one of auto, fp32, bf16, fp8; did you mean 'fp8'"
    with pytest.raises(InputError, match=known):
        asked(recipe, train={"precision": "fp9"})
