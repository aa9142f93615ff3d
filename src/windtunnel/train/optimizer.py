"""AdamW with the rates of the table of roles, independent weight decay and clipping; for one
model or for members.

All tensors of one role stand in one flat buffer, (n,) or (P, n), and the model's parameters are
views of it: a step is one elementwise pass a role, whatever the number of layers, and every
hyper-parameter may differ between members.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import Role, Rule, role_of, rules
from windtunnel.recipe import Recipe
from windtunnel.train.device import to_device


@dataclass
class _Group:
    """The tensors of one role and what each step needs to know of them. Settings are (), or (P,
    1) for members.
    """

    names: list[str]
    value: Tensor
    grad: Tensor
    first: Tensor
    second: Tensor
    lr: Tensor
    eps: Tensor
    decay: Tensor


class AdamW:
    """`recipes`: one a member, or just one. The model's parameters and gradients become views of
    flat buffers.
    """

    def __init__(self, model: Decoder, recipes: Sequence[Recipe]) -> None:
        self.members = model.members
        device = model.embedding.device
        self.steps = self._column(
            [0.0], device
        ).clone()  # updates so far, of each member; a tensor: no graph holds it
        self.beta1, self.beta2, self.clip = (
            self._column([getattr(r.optimizer, key) for r in recipes], device)
            for key in ("beta1", "beta2", "clip")
        )
        tables = [rules(recipe.model) for recipe in recipes]
        roles: dict[Role, list[str]] = {}
        for name, _ in model.named_parameters():
            roles.setdefault(role_of(name), []).append(name)
        self._groups = [
            self._group(model, names, recipes, [t[role] for t in tables])
            for role, names in roles.items()
        ]
        self._shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
        self._update: Callable[..., None] = _update

    def compile_parts(self) -> None:
        """One kernel for the update of every group: sizes are symbolic, so it is compiled once."""
        self._update = torch.compile(_update, dynamic=True)

    def shares(self, rates: Sequence[float]) -> Tensor:
        """Rates as a tensor for `step`: (1,), or (P, 1)."""
        return to_device(self._column(rates, torch.device("cpu")), self.beta1.device)

    def step(self, rate: float | Sequence[float] | Tensor) -> Tensor:
        """One update at `rate`: a share of the peak, one or P of them, or what `shares` made of
        them. Returns the gradient norm before clipping, () or (P,), and clears the gradients.
        Nothing in it waits for the device.
        """
        if isinstance(rate, float | int):
            rate = [rate]
        shares = rate if isinstance(rate, Tensor) else self.shares(rate)
        self.steps += 1
        norm = torch.linalg.vector_norm(
            torch.stack(
                [
                    torch.linalg.vector_norm(group.grad, dim=-1, keepdim=True)
                    for group in self._groups
                ]
            ),
            dim=0,
        )
        kept = torch.where((self.clip > 0) & (norm > self.clip), self.clip / norm, 1.0)
        for g in self._groups:
            self._update(
                g.value,
                g.grad,
                g.first,
                g.second,
                kept,
                self.beta1,
                self.beta2,
                self.steps,
                g.lr * shares,
                g.eps,
                g.decay * shares,
            )
        return norm.squeeze(-1)

    def zero_grad(self) -> None:
        for group in self._groups:
            group.grad.zero_()

    def state(self, member: int | None = None) -> dict[str, Tensor]:
        """The two moments of every tensor, as `first.NAME` and `second.NAME`, shaped like it, of
        one member or of the whole model; views, not copies.
        """
        return {
            name: tensor if member is None else tensor[member] for name, tensor in self._moments()
        }

    def load_state(self, state: dict[str, Tensor], steps: int, member: int | None = None) -> None:
        """Take over what `state` gave, after `steps` updates."""
        for name, tensor in self.state(member).items():
            tensor.copy_(state[name])
        self.steps[slice(None) if member is None else member] = steps

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for group in self._groups:
            for kind, flat in (("first", group.first), ("second", group.second)):
                for name, view in _views(flat, group.names, self._shapes):
                    yield f"{kind}.{name}", view

    def _group(
        self, model: Decoder, names: list[str], recipes: Sequence[Recipe], table: list[Rule]
    ) -> _Group:
        parameters = [model.get_parameter(name) for name in names]
        axis = 0 if self.members is None else 1
        value = torch.cat([p.detach().flatten(axis) for p in parameters], dim=-1)
        grad = torch.zeros_like(value)
        shapes = {name: p.shape for name, p in zip(names, parameters, strict=True)}
        pairs = zip(
            parameters, _views(value, names, shapes), _views(grad, names, shapes), strict=True
        )
        for parameter, (_, view), (_, gradient) in pairs:
            parameter.data, parameter.grad = view, gradient
        settings = [
            (
                r.optimizer.lr * rule.lr,
                r.optimizer.eps * rule.eps,
                r.optimizer.weight_decay * rule.weight_decay,
            )
            for r, rule in zip(recipes, table, strict=True)
        ]
        lr, eps, decay = (
            self._column(list(column), value.device) for column in zip(*settings, strict=True)
        )
        return _Group(
            names, value, grad, torch.zeros_like(value), torch.zeros_like(value), lr, eps, decay
        )

    def _column(self, values: Sequence[float], device: torch.device) -> Tensor:
        """One number for all, (1,), or one a member, (P, 1)."""
        column = torch.tensor(values, dtype=torch.float32, device=device)
        return column if self.members is None else column.expand(self.members)[:, None]


def _update(
    value: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    kept: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    steps: Tensor,
    lr: Tensor,
    eps: Tensor,
    decay: Tensor,
) -> None:
    """Adam (Kingma and Ba 2015) in place, with decoupled weight decay that does not contain the
    rate; clears `grad`.
    """
    g = grad * kept
    first.copy_(torch.lerp(g, first, beta1))
    second.copy_(torch.lerp(g * g, second, beta2))
    unbiased = (second / (1 - beta2**steps)).sqrt() + eps
    value.copy_(value * (1 - decay) - lr * (first / (1 - beta1**steps)) / unbiased)
    grad.zero_()


def _views(
    flat: Tensor, names: Sequence[str], shapes: dict[str, torch.Size]
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's part of a flat buffer, in its own shape."""
    start, lead = 0, flat.dim() - 1
    for name in names:
        size = shapes[name][lead:].numel()
        yield name, flat[..., start : start + size].view(shapes[name])
        start += size
