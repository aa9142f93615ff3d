"""The optimiser of one model or of members: the updates of its kind, applied group by group, with
clipping and each member's own settings.

The tensors of a group stand in one flat buffer, and the model's parameters are views of it: an
elementwise step is one pass a role, and products of matrices are batched over the layers, whatever
their number.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import role_of, update_of
from windtunnel.recipe import OPTIMIZERS, OptimizerKind, Recipe, Role
from windtunnel.recipe.optimizer import Group, Update
from windtunnel.train.device import autocast, to_device
from windtunnel.train.parallel import ALONE, Ranks, is_shared, like, local, share_of, whole_of

# Numbers of all members that one group of matrices may hold: their products need several copies
# of the group, and more at once are not faster.
_MATRICES_AT_ONCE = 2**26


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """The buffers of a group of tensors, shaped as `Group` has them, and their settings at the
    peak of the schedule.
    """

    update: Update
    names: list[str]
    value: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    settings: dict[str, Tensor]
    shared: bool = False  # over ranks: of one tensor, the rows that this rank has

    def at(self, column: Tensor) -> Tensor:
        """One number, (1,), or one a member, (P, 1), so that it broadcasts over the buffers."""
        return column.view(self.settings["lr"].shape)


class FlatOptimizer:
    """`recipes`: one a member, or just one; all of one `optimizer.kind`. The model's parameters
    and gradients become views of flat buffers. `precision`: of the products that an update takes;
    none of them are in 8 bits.

    Of a model whose tensors are cut over ranks, each rank updates its own rows, and remembers what
    belongs to them.
    """

    def __init__(
        self,
        model: Decoder,
        recipes: Sequence[Recipe],
        precision: str = "fp32",
        ranks: Ranks = ALONE,
    ) -> None:
        self.members = model.members
        self._precision, self._ranks = precision, ranks
        self._lead = 0 if self.members is None else 1  # axes before a tensor's own
        self._device = model.embedding.device
        # updates so far, of each member; a tensor: no graph holds it
        self.steps = self._column([0.0]).clone()
        self.clip = self._column([recipe.optimizer.clip for recipe in recipes])
        self.parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._shapes = {name: local(tensor).shape for name, tensor in self.parameters.items()}
        self._groups = [
            self._buffers(model, recipes, update, role, names)
            for update, role, names in self._grouped(OPTIMIZERS[recipes[0].optimizer.kind])
        ]
        self._elementwise: Callable[..., None] = _advance

    def compile_parts(self) -> None:
        """One kernel for the elementwise update of every group: sizes are symbolic, so it is
        compiled once. Updates of matrices are products most of all, which are not compiled.
        """
        self._elementwise = torch.compile(_advance, dynamic=True)

    def shares(self, rates: Sequence[float]) -> Tensor:
        """Rates as a tensor for `step`: (1,), or (P, 1)."""
        return to_device(self._column(rates, torch.device("cpu")), self._device)

    def step(self, rate: float | Sequence[float] | Tensor) -> Tensor:
        """One update at `rate`: a share of the peak, one or P of them, or what `shares` made of
        them. Returns the gradient norm before clipping, () or (P,), and clears the gradients.
        Nothing in it waits for the device.
        """
        if isinstance(rate, float | int):
            rate = [rate]
        shares = rate if isinstance(rate, Tensor) else self.shares(rate)
        self.steps += 1
        # the whole gradient is clipped by its norm (Pascanu et al. 2013): g min(1, clip / |g|)
        norm = self._gradient_norm()
        kept = torch.where((self.clip > 0) & (norm > self.clip), self.clip / norm, 1.0)
        for group in self._groups:
            share = group.at(shares)
            # weight decay is a share of the weights by itself, not a multiple of the rate, so it
            # must follow the schedule by itself (decoupled: Loshchilov and Hutter 2019)
            scheduled = {key: group.settings[key] * share for key in ("lr", "weight_decay")}
            advance = self._of_matrices if group.update.of_matrices else self._elementwise
            with self._gathered(group) as held:
                advance(
                    held.update,
                    held.value,
                    held.grad,
                    held.state,
                    group.settings | scheduled,
                    group.at(kept),
                    group.at(self.steps),
                )
        return norm.squeeze(-1)

    def sum_over_ranks(self) -> None:
        """Complete the gradients of tensors that every rank holds whole; those of the others are
        summed as they are made.
        """
        if self._ranks.world == 1:
            return
        for group in self._groups:
            if not group.shared:
                group.grad.copy_(self._ranks.sum(group.grad))

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for group in self._groups:
            group.grad.zero_()

    def state(self, member: int | None = None) -> dict[str, Tensor]:
        """What the updates remember of every tensor, as `first.NAME`, shaped like it, of one
        member or of the whole model; views, not copies.
        """
        return {
            name: tensor if member is None else tensor[member] for name, tensor in self._state()
        }

    def load_state(self, state: dict[str, Tensor], steps: int, member: int | None = None) -> None:
        """Take over what `state` gave, after `steps` updates."""
        for name, tensor in self.state(member).items():
            tensor.copy_(state[name])
        self.steps[slice(None) if member is None else member] = steps

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for group in self._groups:
            for kind, buffer in group.state.items():
                for name, view in self._views(buffer, group.names):
                    if group.shared:
                        view = like(self.parameters[name], view)
                    yield f"{kind}.{name}", view

    def _gradient_norm(self) -> Tensor:
        """Of all parameters: (1,), or (P, 1)."""
        norms: dict[bool, list[Tensor]] = {False: [], True: []}
        for group in self._groups:
            flat = group.grad.flatten(self._lead)
            norms[group.shared].append(torch.linalg.vector_norm(flat, dim=-1, keepdim=True))
        # the norm of the groups' norms: nothing is joined, so nothing is copied
        if norms[True]:
            mine = torch.linalg.vector_norm(torch.stack(norms[True]), dim=0)
            norms[False].append(self._ranks.norm(mine))
        return torch.linalg.vector_norm(torch.stack(norms[False]), dim=0)

    def _of_matrices(self, *group: Any) -> None:
        """Products are computed in the precision of the model's."""
        with autocast(self._device.type, self._precision):
            _advance(*group)

    def _grouped(self, kind: OptimizerKind) -> Iterator[tuple[Update, Role, list[str]]]:
        """The tensors that change together, in the model's order: those of one role, and where an
        update is of matrices, those of one shape, `_MATRICES_AT_ONCE` at most.
        """
        groups: dict[tuple[Update, Role, tuple[int, ...]], list[str]] = {}
        for name, shape in self._shapes.items():
            role = role_of(name)
            update = update_of(kind, name)
            if is_shared(self.parameters[name]):
                # what FSDP cuts can't be a view of a buffer of ours: a group of its own
                yield update, role, [name]
                continue
            alike = tuple(shape) if update.of_matrices else ()
            groups.setdefault((update, role, alike), []).append(name)
        for (update, role, alike), names in groups.items():
            most = max(1, _MATRICES_AT_ONCE // math.prod(alike)) if alike else len(names)
            for start in range(0, len(names), most):
                yield update, role, names[start : start + most]

    def _buffers(
        self,
        model: Decoder,
        recipes: Sequence[Recipe],
        update: Update,
        role: Role,
        names: list[str],
    ) -> _Buffers:
        """The buffers of a group, with its parameters and their gradients as views of them."""
        parameters = [model.get_parameter(name) for name in names]
        shared = is_shared(parameters[0])
        if shared:
            value = local(parameters[0]).flatten()
        else:
            value = torch.cat([p.detach().flatten(self._lead) for p in parameters], dim=-1)
        shape = tuple(parameters[0].shape[self._lead :])
        if update.of_matrices and not shared:
            # (matrices, out, in), or (P, matrices, out, in): products are batched over all of them
            value = value.unflatten(-1, (-1, *shape[-2:]))
        grad = torch.zeros_like(value)
        views = zip(self._views(value, names), self._views(grad, names), strict=True)
        for parameter, ((_, view), (_, gradient)) in zip(parameters, views, strict=True):
            # autograd adds into a gradient that is there, and so into the group's buffer
            if shared:
                parameter.grad = like(parameter, gradient)
            else:
                parameter.data, parameter.grad = view, gradient
        told = [update.settings(recipe, role, shape) for recipe in recipes]
        columns = {key: self._column([one[key] for one in told]) for key in told[0]}
        if self.members and update.of_matrices:
            columns = {key: column[..., None, None] for key, column in columns.items()}
        return _Buffers(
            update=update,
            names=names,
            value=value,
            grad=grad,
            state={kind: torch.zeros_like(value) for kind in update.state},
            settings=columns,
            shared=shared,
        )

    @contextmanager
    def _gathered(self, group: _Buffers) -> Iterator[_Buffers]:
        """The group as its update wants it: an update of matrices works on whole ones, so every
        rank has the matrix for that moment, makes the same step, and keeps its rows.
        """
        if not (group.shared and group.update.of_matrices):
            yield group
            return
        parameter = self.parameters[group.names[0]]
        mine = {"value": group.value, "grad": group.grad} | group.state

        def whole(buffer: Tensor) -> Tensor:
            """(matrices, out, in)"""
            found = whole_of(parameter, buffer.view(local(parameter).shape))
            return found.view(-1, *found.shape[-2:])

        held = {name: whole(buffer) for name, buffer in mine.items()}
        value, grad = held.pop("value"), held.pop("grad")
        yield replace(group, value=value, grad=grad, state=held)
        for name, after in ({"value": value} | held).items():
            rows = share_of(after.view(parameter.shape), parameter)
            mine[name].copy_(local(rows).flatten())
        group.grad.zero_()

    def _views(self, buffer: Tensor, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Each tensor's part of a group's buffer, in its own shape."""
        flat, start = buffer.flatten(self._lead), 0
        for name in names:
            size = self._shapes[name][self._lead :].numel()
            yield name, flat[..., start : start + size].view(self._shapes[name])
            start += size

    def _column(self, values: Sequence[float], device: torch.device | None = None) -> Tensor:
        """One number for all, (1,), or one a member, (P, 1)."""
        column = torch.tensor(values, dtype=torch.float32, device=device or self._device)
        return column if self.members is None else column.expand(self.members)[:, None]


def _advance(
    update: Update,
    value: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    settings: dict[str, Tensor],
    kept: Tensor,
    step: Tensor,
) -> None:
    """One step of a group, whose gradient is scaled by `kept` and cleared."""
    group = Group(value=value, grad=grad * kept, state=state, settings=settings, step=step)
    update.apply(group)
    grad.zero_()
