"""Optimisers: for each, by which update every tensor learns.

An update is a pure function of one group of tensors, written with tensors' own methods and
arithmetic: so nothing here imports torch, and the same function takes one model, the members of a
population, or a part of an elementwise group that lives on another machine.

| update | state | what a step takes away from a weight                                          |
|--------|-------|-------------------------------------------------------------------------------|
| adamw  | 2     | lr * first / (sqrt(second) + eps), both moments unbiased (1412.6980)           |
| muon   | 1     | lr * the orthogonal matrix nearest to the momentum, 5 Newton-Schulz iterations |

Both also take away the share `weight_decay` of the weight itself, which does not contain the rate
(1711.05101, section 3.2); torch's optimisers and the Muon papers have lr * weight_decay there.

To add an optimiser, add its record to `OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from windtunnel.choices import Table
from windtunnel.recipe.parametrization import PARAMETRIZATIONS, Role

if TYPE_CHECKING:
    from torch import Tensor

    from windtunnel.recipe.sections import Recipe

# Newton-Schulz for Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): an odd polynomial
# of the singular values whose fifth iterate lies in about [0.7, 1.2] for all that were above 1e-3.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST = 1e-7  # norm of a momentum that is still scaled up to 1


@dataclass(frozen=True, kw_only=True)
class Group:
    """What an update works on: tensors of one role, and what it is told of them.

    Shapes, with a leading axis of P members in a population: elementwise updates see all numbers
    in one row, (n,) or (P, n); updates of matrices see those of one shape, (layers, out, in) or
    (P, layers, out, in), where an expert counts as a layer. Settings are one number, or one a
    member, and broadcast.
    """

    value: Tensor
    """The weights; changed in place."""
    grad: Tensor
    """Their gradient, clipped."""
    state: dict[str, Tensor]
    """By name, what the update remembers, shaped like `value`; changed in place."""
    settings: dict[str, Tensor]
    """By name, as `Update.settings` gives them; `lr` and `weight_decay` at this step's share."""
    step: Tensor
    """Steps so far, this one among them."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """One way to learn."""

    name: str
    state: tuple[str, ...]
    """What it remembers of each parameter: 4 bytes each, zero at first."""
    settings: Callable[[Recipe, Role, tuple[int, ...]], dict[str, float]]
    """By name, what it must be told for tensors of a role and a shape; `lr` and `weight_decay` at
    the peak of the schedule among them. Members may differ in all of it."""
    apply: Callable[[Group], None]
    """Takes the step."""
    of_matrices: bool = False
    """Whether it needs whole matrices, and not just their numbers."""
    size_slope: tuple[float, float]
    """How the RMS of its first steps on a hidden matrix, over that of the matrix, goes with the
    width where the parametrization's rules hold: the lowest and the highest power of m."""


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """Which update each tensor gets."""

    name: str
    help: str
    update_of: Callable[[str, Role], Update]
    """By the last part of a tensor's name, such as `router`, and its role."""


def _adamw_settings(recipe: Recipe, role: Role, shape: tuple[int, ...]) -> dict[str, float]:
    rule = PARAMETRIZATIONS[recipe.model.parametrization].rules(recipe.model)[role]
    asked = recipe.optimizer
    return {
        "lr": asked.lr * (rule.lr if asked.lr_by_role else 1.0),
        "weight_decay": asked.weight_decay * rule.weight_decay,
        "eps": asked.eps * rule.eps,
        "beta1": asked.beta1,
        "beta2": asked.beta2,
    }


def _adamw(group: Group) -> None:
    """Kingma and Ba 2015, algorithm 1, with decoupled weight decay."""
    told, grad = group.settings, group.grad
    first, second = group.state["first"], group.state["second"]
    first.copy_(grad.lerp(first, told["beta1"]))
    second.copy_((grad * grad).lerp(second, told["beta2"]))
    mean = first / (1 - told["beta1"] ** group.step)
    size = (second / (1 - told["beta2"] ** group.step)).sqrt() + told["eps"]
    group.value.copy_(group.value * (1 - told["weight_decay"]) - told["lr"] * mean / size)


def _muon_settings(recipe: Recipe, role: Role, shape: tuple[int, ...]) -> dict[str, float]:
    table, asked = PARAMETRIZATIONS[recipe.model.parametrization], recipe.optimizer
    rule = table.rules(recipe.model)[role]
    by_role = table.orthogonal_lr(recipe.model, shape[-2], shape[-1])
    return {
        "lr": asked.lr * (by_role if asked.lr_by_role else 1.0),
        "weight_decay": asked.weight_decay * rule.weight_decay,
        "momentum": asked.momentum,
    }


def _muon(group: Group) -> None:
    """Jordan et al. 2024, with Nesterov's momentum: a step looks ahead along the mean gradient."""
    told, mean = group.settings, group.state["momentum"]
    mean.copy_(group.grad.lerp(mean, told["momentum"]))
    ahead = group.grad.lerp(mean, told["momentum"])
    kept = group.value * (1 - told["weight_decay"])
    group.value.copy_(kept - told["lr"] * orthogonal(ahead))


def orthogonal(matrices: Tensor) -> Tensor:
    """About the orthogonal matrix that is nearest to each, (..., layers, out, in): all its singular
    values brought near 1, and nothing else changed. Zero stays zero.
    """
    a, b, c = _QUINTIC
    size = matrices.square().sum((-2, -1), keepdim=True).sqrt()
    x = (matrices / size.clamp(min=_SMALLEST)).flatten(0, -3)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT  # the products below are of the shorter side's size
    for _ in range(_ITERATIONS):
        gram = x.bmm(x.mT)
        polynomial = gram.baddbmm(gram, gram, beta=b, alpha=c)  # b gram + c gram^2
        x = x.baddbmm(polynomial, x, beta=a)  # a x + polynomial x
    return (x.mT if tall else x).reshape(matrices.shape)


ADAMW = Update(
    name="adamw",
    state=("first", "second"),
    settings=_adamw_settings,
    apply=_adamw,
    size_slope=(-0.5, -0.5),  # lr / m over std / sqrt(m)
)
MUON = Update(
    name="muon",
    state=("momentum",),
    settings=_muon_settings,
    apply=_muon,
    of_matrices=True,
    # Its singular values are all near 1, so its RMS is sqrt(rank / (out in)): 1/m as long as the
    # gradient's rank is the number of tokens of a batch, 1/sqrt(m) once that is above the width.
    size_slope=(-0.5, 0.0),
)


def _muon_on_matrices(tensor: str, role: Role) -> Update:
    """A router is a matrix, but one side of it is the number of experts. It is a small head: its
    outputs do not become more as the width grows, and the orthogonal step of the spectral
    condition would move each of them by sqrt(m).
    """
    return MUON if role == "matrix" and tensor != "router" else ADAMW


OPTIMIZERS = Table(
    "optimiser",
    [
        OptimizerKind(
            name="adamw",
            help="AdamW for every tensor",
            update_of=lambda tensor, role: ADAMW,
        ),
        OptimizerKind(
            name="muon",
            help="Muon for the matrices of the layers; "
            "AdamW for embedding, head, gains and routers",
            update_of=_muon_on_matrices,
        ),
    ],
)

OptimizerName = Annotated[str, OPTIMIZERS]
