"""The optimiser is torch's AdamW with a table of rates, a decay that does not contain the rate,
and clipping.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.optimizer import FlatOptimizer

Make = Callable[..., Recipe]
STEPS = 15
RATES = [0.1, 0.4, 0.7, *[1.0] * 8, 0.8, 0.5, 0.2, 0.05]


def model_of(recipe: Recipe) -> Decoder:
    return Decoder(recipe.model, recipe.data.context, recipe.seed)


def gradients(model: Decoder, step: int, size: float = 1.0) -> dict[str, Tensor]:
    """Of a different size each step, else Adam would not show that they were clipped."""
    generator = torch.Generator().manual_seed(step)
    scale = size * (1 + step % 4)
    return {
        name: torch.randn(p.shape, generator=generator) * scale
        for name, p in model.named_parameters()
    }


def give(model: Decoder, grads: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        parameter.grad.copy_(grads[name])


def values(model: Decoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def is_gain(name: str) -> bool:
    return name.endswith("norm")


def torchs(model: Decoder, recipe: Recipe, decay: float = 0.0) -> torch.optim.AdamW:
    """torch's optimiser for the tiny recipe: width 32 on a base of 16, so that matrices have half
    the rate. Its decay contains the rate, so that is divided out.
    """
    o, groups = recipe.optimizer, []
    for name, parameter in model.named_parameters():
        lr = o.lr * (1.0 if is_gain(name) or name == "embedding" else 0.5)
        weight_decay = 0.0 if is_gain(name) else decay / lr
        groups.append({"params": [parameter], "lr": lr, "peak": lr, "weight_decay": weight_decay})
    return torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.eps)


def step_torchs(optimizer: torch.optim.AdamW, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.0},
        {"weight_decay": 0.02},
        {"weight_decay": 0.0, "beta1": 0.5, "beta2": 0.999, "eps": 0.1, "lr": 0.3},
        {"weight_decay": 0.0, "beta1": 0.0, "beta2": 0.0},
    ],
)
def test_it_is_torchs_adamw(recipe: Make, settings: dict[str, float]) -> None:
    asked = recipe(optimizer=settings | {"clip": 0.0})
    ours, theirs = model_of(asked), model_of(asked)
    optimizer, reference = (
        FlatOptimizer(ours, [asked]),
        torchs(theirs, asked, settings["weight_decay"]),
    )
    for step, share in enumerate(RATES):
        grads = gradients(ours, step)
        give(ours, grads)
        for name, parameter in theirs.named_parameters():
            parameter.grad = grads[name].clone()
        optimizer.step(share)
        step_torchs(reference, share)
    expected, begun = values(theirs), values(model_of(asked))
    for name, value in values(ours).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-5, atol=2e-6)
        assert not torch.allclose(value, begun[name], atol=1e-3)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_decay_takes_a_share_of_the_weight_that_does_not_contain_the_rate(
    recipe: Make, share: float
) -> None:
    for lr in (1e-5, 0.1):
        asked = recipe(optimizer={"weight_decay": 0.1, "lr": lr})
        model = model_of(asked)
        begun, optimizer = values(model), FlatOptimizer(model, [asked])
        optimizer.step(share)  # without a gradient there is nothing but decay
        for name, value in values(model).items():
            torch.testing.assert_close(
                value, begun[name] * (1 if is_gain(name) else 1 - 0.1 * share)
            )


def test_each_role_moves_by_its_rate(recipe: Make) -> None:
    """Adam's first step is the rate itself, in the direction against the gradient."""
    asked = recipe(optimizer={"weight_decay": 0.0, "lr": 0.01, "clip": 0.0})
    model = model_of(asked)
    begun, optimizer = values(model), FlatOptimizer(model, [asked])
    give(model, grads := gradients(model, 0))
    optimizer.step(0.5)
    for name, value in values(model).items():
        lr = 0.005 if is_gain(name) or name == "embedding" else 0.0025
        clear = grads[name].abs() > 1e-3
        torch.testing.assert_close(
            (value - begun[name])[clear], -lr * grads[name].sign()[clear], rtol=1e-3, atol=1e-6
        )


def test_completeps_eps_is_scaled_in_every_role(recipe: Make) -> None:
    """Where eps is far above the gradient, Adam's first step is lr * gradient / eps."""
    shape = {"parametrization": "completep", "base_depth": 1}
    asked = recipe(
        model=recipe().model.model_dump() | shape,
        optimizer={"weight_decay": 0.0, "eps": 1e6, "clip": 0},
    )
    model = model_of(asked)
    begun, optimizer = values(model), FlatOptimizer(model, [asked])
    give(model, grads := gradients(model, 0, size=1e3))
    optimizer.step(1.0)
    for name in ("layers.1.up", "embedding", "norm"):
        lr = 0.005 if name == "layers.1.up" else 0.01
        eps = 1e6 / 2 if name == "embedding" else 1e6 / (2 * 2)
        moved = model.get_parameter(name).detach() - begun[name]
        torch.testing.assert_close(moved, -lr * grads[name] / eps, rtol=0.02, atol=1e-7)


def test_a_gradient_above_the_limit_is_scaled_down_to_it(recipe: Make) -> None:
    asked = recipe(optimizer={"weight_decay": 0.0, "clip": 300.0})
    ours, theirs = model_of(asked), model_of(asked)
    optimizer, reference = FlatOptimizer(ours, [asked]), torchs(theirs, asked)
    clipped = 0
    for step in range(STEPS):
        grads = gradients(ours, step)
        give(ours, grads)
        for name, parameter in theirs.named_parameters():
            parameter.grad = grads[name].clone()
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 300.0)
        norm = optimizer.step(1.0)
        step_torchs(reference, 1.0)
        assert norm.shape == () and float(norm) == pytest.approx(float(expected), rel=1e-5)
        clipped += float(norm) > 300
    assert 0 < clipped < STEPS, "some steps were to be clipped and some not"
    expected = values(theirs)
    for name, value in values(ours).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-5, atol=2e-6)


def test_members_are_clipped_and_decayed_each_by_itself(recipe: Make) -> None:
    recipes = [
        recipe(optimizer={"clip": clip, "weight_decay": wd})
        for clip, wd in ((0, 0.1), (300, 0.0), (1e9, 0.01))
    ]
    together = Decoder([r.model for r in recipes], 32, [0, 1, 2])
    alone = [Decoder(r.model, 32, seed) for seed, r in enumerate(recipes)]
    optimizer, optimizers = (
        FlatOptimizer(together, recipes),
        [FlatOptimizer(m, [r]) for m, r in zip(alone, recipes, strict=True)],
    )
    for step in range(STEPS):
        grads = gradients(together, step)
        give(together, grads)
        for member, model in enumerate(alone):
            give(model, {name: grad[member] for name, grad in grads.items()})
        shares = [1.0, 0.5, 1 / (step + 1)]
        norms = optimizer.step(shares)
        expected = [one.step(share) for one, share in zip(optimizers, shares, strict=True)]
        torch.testing.assert_close(norms, torch.stack(expected))
    for member, model in enumerate(alone):
        for name, value in values(together).items():
            torch.testing.assert_close(
                value[member], model.get_parameter(name).detach(), rtol=1e-5, atol=1e-6
            )


def test_a_step_clears_the_gradients_of_the_model(recipe: Make) -> None:
    model = model_of(asked := recipe())
    optimizer = FlatOptimizer(model, [asked])
    for clear in (lambda: optimizer.step(1.0), optimizer.zero_grad):
        model.losses(
            torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long)
        ).mean().backward()
        grads = [p.grad for p in model.parameters()]
        assert any(grad is not None and bool(grad.any()) for grad in grads)
        clear()
        assert all(
            p.grad is grad and grad is not None and not grad.any()
            for p, grad in zip(model.parameters(), grads, strict=True)
        )


def _steps(model: Decoder, optimizer: FlatOptimizer, steps: range) -> None:
    for step in steps:
        give(model, gradients(model, step, size=0.01))
        optimizer.step(RATES[step])


@pytest.mark.parametrize("members", [None, 3])
def test_from_its_state_it_continues_to_the_bit(
    recipe: Make, tmp_path: Path, members: int | None
) -> None:
    asked = recipe()
    recipes = [asked] * (members or 1)

    def make() -> tuple[Decoder, FlatOptimizer]:
        model = Decoder(
            asked.model if members is None else [asked.model] * members,
            32,
            0 if members is None else range(members),
        )
        return model, FlatOptimizer(model, recipes)

    model, optimizer = make()
    _steps(model, optimizer, range(7))
    saved = Checkpoint(896, int(optimizer.steps[0]), values(model), optimizer.state())
    checkpoint.save(tmp_path / "checkpoints", saved)
    _steps(model, optimizer, range(7, STEPS))

    resumed, again = make()
    state = checkpoint.load(tmp_path / "checkpoints", 896)
    with torch.no_grad():
        for name, parameter in resumed.named_parameters():
            parameter.copy_(state.weights[name])
    again.load_state(state.moments, state.steps)
    _steps(resumed, again, range(7, STEPS))
    for name, value in values(model).items():
        assert torch.equal(value, values(resumed)[name])
    for name, moment in optimizer.state().items():
        assert torch.equal(moment, again.state()[name])


def test_the_state_has_two_moments_of_every_tensor_shaped_like_it(recipe: Make) -> None:
    model = model_of(asked := recipe())
    state = FlatOptimizer(model, [asked]).state()
    expected = {
        f"{kind}.{name}": p.shape
        for kind in ("first", "second")
        for name, p in model.named_parameters()
    }
    assert {name: moment.shape for name, moment in state.items()} == expected


def test_to_take_over_a_model_does_not_change_it(recipe: Make) -> None:
    asked: Any = recipe()
    model, tokens = model_of(asked), torch.arange(20).reshape(2, 10)
    before = values(model), model.logits(tokens)
    FlatOptimizer(model, [asked])
    assert all(torch.equal(value, before[0][name]) for name, value in values(model).items())
    assert torch.equal(model.logits(tokens), before[1])
