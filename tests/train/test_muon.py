"""Muon on hidden matrices with AdamW on the rest: torch's own on one model, the same members
alone, and a run like any other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, train, train_together
from windtunnel.train.optimizer import FlatOptimizer
from windtunnel.train.run import Run, create

Make = Callable[..., Recipe]
BATCH = 128
MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


def muon(recipe: Make, **sections: Any) -> Recipe:
    return recipe(**sections | {"optimizer": sections.get("optimizer", {}) | {"kind": "muon"}})


def is_matrix(name: str) -> bool:
    return name.endswith(MATRICES)


def give(model: Decoder, step: int) -> dict[str, Tensor]:
    """Gradients of full rank, of another size in each step."""
    generator = torch.Generator().manual_seed(step)
    grads = {}
    for name, parameter in model.named_parameters():
        grads[name] = torch.randn(parameter.shape, generator=generator) * (1 + step % 4)
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.copy_(grads[name])
    return grads


@pytest.mark.parametrize(
    ("parametrization", "adjusted", "base", "settings"),
    [
        ("minicpm", "original", 0.2 * 4, {}),  # 0.2 sqrt(base_width), which is 16
        ("minicpm", "original", 0.2 * 4, {"momentum": 0.5, "weight_decay": 0.0}),
        ("standard", "match_rms_adamw", 1.0, {}),
    ],
)
def test_it_is_torchs_muon(
    recipe: Make,
    monkeypatch: pytest.MonkeyPatch,
    parametrization: str,
    adjusted: str,
    base: float,
    settings: dict[str, float],
) -> None:
    """Eight steps on the matrices of one model. torch's decay contains the rate, so that is
    divided out; and its products are brought from bf16 to the fp32 of ours.
    """
    monkeypatch.setattr(Tensor, "bfloat16", lambda tensor: tensor.float().clone())
    lr = 0.02
    asked = muon(
        recipe,
        model={"parametrization": parametrization, "kv_heads": 1},
        optimizer={"lr": lr, "weight_decay": 0.01, "clip": 0.0} | settings,
    )
    ours, theirs = (Decoder(asked.model, 32, 0) for _ in range(2))
    optimizer, told = FlatOptimizer(ours, [asked]), asked.optimizer
    reference = torch.optim.Muon(
        [p for name, p in theirs.named_parameters() if is_matrix(name)],
        lr=lr * base,
        weight_decay=told.weight_decay / (lr * base),
        momentum=told.momentum,
        adjust_lr_fn=adjusted,
    )
    begun = {name: p.detach().clone() for name, p in ours.named_parameters()}
    for step in range(8):
        give(ours, step), give(theirs, step)
        optimizer.step(1.0)
        reference.step()
    compared = 0
    for name, parameter in ours.named_parameters():
        if is_matrix(name):
            expected = theirs.get_parameter(name)
            torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-5)
            assert (parameter - begun[name]).abs().max() > 0.01
            compared += 1
    assert compared == 2 * len(MATRICES)


def test_the_rest_is_adamw(recipe: Make) -> None:
    asked = muon(recipe, model={"experts": 4}, optimizer={"clip": 0.0})
    plain = asked.change(optimizer={"kind": "adamw"})
    models = [Decoder(asked.model, 32, 0) for _ in range(2)]
    optimizers = [
        FlatOptimizer(model, [one]) for model, one in zip(models, (asked, plain), strict=True)
    ]
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            give(model, step)
            optimizer.step(1.0)
    ours, theirs = models
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name)) != is_matrix(name), name
    state = optimizers[0].state()
    assert {name.split(".")[0] for name in state if is_matrix(name)} == {"momentum"}
    assert {name.split(".")[0] for name in state if not is_matrix(name)} == {"first", "second"}
    assert state["momentum.layers.1.gate"].shape == (4, 80, 32)


@pytest.mark.parametrize("experts", [0, 4])
def test_members_step_as_they_would_alone(recipe: Make, experts: int) -> None:
    """Twenty steps, each with its own rate, decay, momentum, clipping and schedule."""
    told = [
        {"lr": 0.01},
        {"lr": 0.03, "weight_decay": 0.05, "momentum": 0.8},
        {"lr": 0.002, "momentum": 0.0, "clip": 30.0, "beta1": 0.5},
    ]
    recipes = [muon(recipe, model={"experts": experts}, optimizer=one) for one in told]
    together = Decoder([r.model for r in recipes], 32, [0, 1, 2])
    alone = [Decoder(r.model, 32, seed) for seed, r in enumerate(recipes)]
    optimizer = FlatOptimizer(together, recipes)
    optimizers = [FlatOptimizer(model, [r]) for model, r in zip(alone, recipes, strict=True)]
    for step in range(20):
        grads = give(together, step)
        for member, model in enumerate(alone):
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                parameter.grad.copy_(grads[name][member])
        shares = [1.0, 0.5, 1 / (step + 1)]
        norms = optimizer.step(shares)
        expected = [one.step(share) for one, share in zip(optimizers, shares, strict=True)]
        torch.testing.assert_close(norms, torch.stack(expected))
    for member, model in enumerate(alone):
        for name, parameter in together.named_parameters():
            expected = model.get_parameter(name)
            torch.testing.assert_close(parameter[member], expected, rtol=1e-4, atol=1e-5)


def test_matrices_that_do_not_stand_in_one_group_learn_the_same(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model's go through the products a few at a time."""
    asked = muon(recipe, model={"depth": 5})
    models = [Decoder(asked.model, 32, 0) for _ in range(2)]
    whole = FlatOptimizer(models[0], [asked])
    monkeypatch.setattr("windtunnel.train.optimizer._MATRICES_AT_ONCE", 2 * 32 * 80)
    parts = FlatOptimizer(models[1], [asked])
    for step in range(3):
        for model, optimizer in zip(models, (whole, parts), strict=True):
            give(model, step)
            optimizer.step(1.0)
    for name, parameter in models[0].named_parameters():
        torch.testing.assert_close(parameter, models[1].get_parameter(name), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, recipe: Make, corpus: Corpus) -> Run:
    run = create(tmp_path_factory.mktemp("lab"), muon(recipe), corpus)
    assert train(run, corpus).status == "done"
    return run


def test_it_learns_and_is_another_run_than_with_adamw(
    trained: Run, recipe: Make, corpus: Corpus
) -> None:
    losses = [step.loss for step in trained.steps()]
    assert losses[0] == pytest.approx(5.836079, rel=1e-4), "the init is the same"
    assert losses[-1] < losses[0] - 1.5
    assert trained.id != create(trained.lab, recipe(), corpus).id


def test_stopped_anywhere_it_goes_on_to_the_same_bits(
    tmp_path: Path, trained: Run, recipe: Make, corpus: Corpus, final_bytes: Any
) -> None:
    run = create(tmp_path, muon(recipe), corpus)
    for stop in (7, 20):
        left = iter([*[False] * stop, True])
        train(run, corpus, Watch(stop=lambda left=left: next(left, False)))
    assert train(run, corpus).status == "done"
    assert final_bytes(run.path) == final_bytes(trained.path)
    state = checkpoint.load(run.checkpoints, 50 * BATCH).moments
    assert "momentum.layers.0.query" in state and "second.embedding" in state


def test_a_branch_is_the_run_that_it_describes(
    tmp_path: Path, stem: Make, recipe: Make, corpus: Corpus, final_bytes: Any
) -> None:
    asked = stem(20 * BATCH).change(optimizer={"kind": "muon"})
    parent = create(tmp_path / "one", asked, corpus)
    train(parent, corpus)
    leaf = branch(parent, corpus, 12 * BATCH, 6 * BATCH)
    assert leaf.recipe.optimizer.kind == "muon" and train(leaf, corpus).status == "done"
    schedule = {"tokens": 18 * BATCH, "decay": 6 * BATCH}
    whole = create(tmp_path / "two", muon(recipe, schedule=schedule), corpus)
    train(whole, corpus)
    assert final_bytes(leaf.path) == final_bytes(whole.path)


def test_members_of_a_population_end_as_they_would_alone(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    told = [{"lr": 0.01}, {"lr": 0.02, "momentum": 0.8}, {"lr": 0.005, "weight_decay": 0.01}]
    short = {"tokens": 20 * BATCH}
    recipes = [
        muon(recipe, seed=seed, optimizer=one, schedule=short) for seed, one in enumerate(told)
    ]
    together, alone = (
        [create(tmp_path / label, one, corpus) for one in recipes] for label in ("a", "b")
    )
    train_together(together, corpus, [Watch()] * 3)
    for ours, theirs in zip(together, alone, strict=True):
        assert train(theirs, corpus).status == "done"
        losses = [[step.loss for step in run.steps()] for run in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_compiled_it_learns_the_same(
    tmp_path: Path, trained: Run, recipe: Make, corpus: Corpus
) -> None:
    run = create(tmp_path, muon(recipe, train={"compile": True}), corpus)
    assert train(run, corpus).status == "done"
    expected = [step.loss for step in trained.steps()]
    assert [step.loss for step in run.steps()] == pytest.approx(expected, rel=1e-3)


def test_in_bf16_it_learns_about_the_same(
    tmp_path: Path, trained: Run, recipe: Make, corpus: Corpus
) -> None:
    run = create(tmp_path, muon(recipe, train={"precision": "bf16"}), corpus)
    assert train(run, corpus).status == "done"
    assert run.steps()[-1].loss == pytest.approx(trained.steps()[-1].loss, rel=0.05)
