"""Optimisers are a table of records; what an update does is a pure function of its group."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.recipe import OPTIMIZERS, OptimizerKind, Recipe, Update
from windtunnel.recipe.optimizer import ADAMW, MUON, Group, orthogonal
from windtunnel.recipe.parametrization import adam_sized_lr, spectral_lr

Make = Callable[..., Recipe]


def matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_an_unknown_optimiser_is_refused_with_the_known_ones(recipe: Make) -> None:
    with pytest.raises(InputError, match=r"optimizer\.kind: .*adamw, muon.*did you mean 'muon'"):
        recipe(optimizer={"kind": "muom"})


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=lambda kind: kind.name)
def test_every_optimiser_tells_its_updates_what_they_need(
    recipe: Make, kind: OptimizerKind
) -> None:
    """A step with what the recipe says moves every tensor against its gradient."""
    asked = recipe(optimizer={"kind": kind.name})
    for tensor, role in (("embedding", "embedding"), ("query", "matrix"), ("norm", "gain")):
        update = kind.update_of(tensor, role)
        told = update.settings(asked, role, (16, 16))
        value, grad = torch.zeros(2, 16, 16), matrices(2, 16, 16)
        group = Group(
            value=value,
            grad=grad,
            state={name: torch.zeros_like(value) for name in update.state},
            settings={key: torch.tensor([number]) for key, number in told.items()},
            step=torch.tensor([1.0]),
        )
        update.apply(group)
        assert (value * grad).sum() < 0


def test_an_update_of_matrices_is_for_hidden_matrices_alone() -> None:
    muon = OPTIMIZERS["muon"].update_of
    assert {muon(name, "matrix") for name in ("query", "output", "gate", "down")} == {MUON}
    assert muon("router", "matrix") == muon("embedding", "embedding") == muon("norm", "gain")
    assert muon("head", "head") == ADAMW


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 48, 16), (2, 16, 48), (3, 2, 24, 16)])
def test_orthogonal_keeps_directions_and_brings_every_size_near_one(shape: tuple[int, ...]) -> None:
    given = matrices(*shape)
    left, sizes, right = torch.linalg.svd(given, full_matrices=False)
    found = left.mT @ orthogonal(given) @ right.mT
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-4
    clear = sizes > 0.01 * sizes.sum(-1, keepdim=True)
    assert (diagonal[clear] > 0.65).all() and (diagonal < 1.25).all()


def test_orthogonal_takes_each_matrix_for_itself_and_leaves_zero() -> None:
    given = matrices(2, 3, 8, 12) * torch.tensor([1.0, 1e-3, 0.0])[:, None, None]
    found = orthogonal(given)
    for member in range(2):
        for layer in range(3):
            alone = orthogonal(given[member, layer : layer + 1])
            torch.testing.assert_close(found[member, layer], alone[0], rtol=1e-5, atol=1e-6)
    assert not found[:, 2].any()


def test_the_rate_of_an_orthogonal_step_is_torchs_at_the_base_width(recipe: Make) -> None:
    """Square, at the base width, the spectral rate is the one that is as large as AdamW's."""
    model = recipe().model
    base = model.base_width
    assert spectral_lr(model, base, base) == pytest.approx(adam_sized_lr(model, base, base))
    assert spectral_lr(model, 4 * base, base) == pytest.approx(2 * spectral_lr(model, base, base))
    # the same at another width: m is not in it
    wide = model.model_copy(update={"width": 8 * model.width})
    assert spectral_lr(wide, 8 * base, 8 * base) == spectral_lr(model, base, base)


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> str:
    """One optimiser more: the sign of the gradient, which remembers nothing."""

    def apply(group: Group) -> None:
        group.value.sub_(group.settings["lr"] * group.grad.sign())

    update = Update(
        name="signs",
        state=(),
        settings=lambda recipe, role, shape: {"lr": recipe.optimizer.lr, "weight_decay": 0.0},
        apply=apply,
        size_slope=(0.5, 0.5),
    )
    kind = OptimizerKind(name="signs", help="for this test", update_of=lambda name, role: update)
    monkeypatch.setitem(OPTIMIZERS, kind.name, kind)
    return kind.name


def test_an_added_optimiser_trains(signs: str, recipe: Make) -> None:
    from windtunnel.model.decoder import Decoder
    from windtunnel.train.optimizer import FlatOptimizer

    asked = recipe(optimizer={"kind": signs, "clip": 0.0})
    model = Decoder(asked.model, asked.data.context, asked.seed)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = FlatOptimizer(model, [asked])
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(-3.0)
    optimizer.step(0.5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] + 0.5 * asked.optimizer.lr)
    assert optimizer.state() == {}
