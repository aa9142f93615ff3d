"""What the coordinate check reads off models while they train a few steps: sizes of activations,
of their change, of the updates, and each rule of the table of roles as the model and the
optimiser really carry it out.

The members of a population are the seeds: one pass trains and reads all of them. Everything is
fp32 and eager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from windtunnel.model.decoder import Decoder, Layer, rms_norm
from windtunnel.model.roles import ROLE_OF, Role, role_of
from windtunnel.model.rope import rotate
from windtunnel.recipe import OPTIMIZERS, Recipe
from windtunnel.results.run import Engine
from windtunnel.train.objective import Objective
from windtunnel.train.optimizer import FlatOptimizer
from windtunnel.tunnel.check import theory

# By place in the model; tensors are (P, ...), several where a place has one a layer.
Activations = dict[str, list[Tensor]]
# Input (P, tokens, in) and output (P, tokens, out) of each product with a parameter, by its name.
Products = dict[str, tuple[Tensor, Tensor]]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Reading:
    """One statistic after `t` steps: a number for each seed. `statistic`: "value" and "change"
    are RMS over tokens and features, "update" the RMS of the last step over that of the
    parameters, "eps" Adam's eps over the RMS of the gradient, "rule" a factor of the table of
    roles.
    """

    t: int
    quantity: str
    statistic: str
    values: tuple[float, ...]


def readings(
    recipe: Recipe, seeds: Sequence[int], batch: np.ndarray, steps: Sequence[int]
) -> list[Reading]:
    """Train one model a seed on `batch` (windows, context + 1) at a constant rate; read it after
    each of `steps`.

    The batch that is read is the one that is learnt: what a step changes on other text has a part
    without direction, which vanishes with the width and would be taken for a slope.
    """
    model = Decoder([recipe.model] * len(seeds), recipe.data.context, seeds)
    optimizer = FlatOptimizer(model, [recipe] * len(seeds))
    engine = Engine(
        device="cpu",
        precision="fp32",
        compiled=False,
        micro_batch=recipe.train.batch,
        threads=torch.get_num_threads(),
    )
    objective = Objective(model, engine)
    tokens = torch.from_numpy(batch[:, :-1].copy())
    begun = _weights(model)
    first, products = _activations(model, tokens)
    found = [*_values(0, first), *_rules(model, tokens, first, products)]
    responses = _responses(recipe)
    for name, value in responses.items():
        found.append(Reading(0, name, "rule", (value,) * len(seeds)))
    for t in range(1, max(steps) + 1):
        before = _weights(model) if t in steps else {}
        objective.add_gradient(torch.from_numpy(batch))
        optimizer.step(1.0)
        if t == 1:
            found += _eps_shares(recipe, optimizer, responses)
        if t in steps:
            now, products = _activations(model, tokens)
            found += [*_values(t, now), *_changes(t, first, now)]
            found.append(Reading(t, "matrix product", "change", _learnt(begun, products)))
            found += _updates(t, before, _weights(model))
    return found


# -- activations


class _Products(TorchFunctionMode):
    """Keeps input and output of every product with a parameter, by the parameter's name."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.seen: Products = {}
        self._names = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__ in ("matmul", "__matmul__"):
            # the parameter enters transposed: a view of the same memory
            name = self._names.get(args[1].data_ptr())
            if name:
                self.seen[name] = (args[0], result)
        return result


@torch.no_grad()
def _activations(model: Decoder, tokens: Tensor) -> tuple[Activations, Products]:
    """Every activation that is read, and the products that they come from, of one forward pass of
    `tokens` (windows, context).
    """
    stream: list[tuple[Tensor, Tensor]] = []  # the residual stream before and after each layer

    def keep(layer: object, inputs: tuple[Any, ...], output: Any) -> None:
        stream.append((inputs[0], output[0]))

    hooks = [layer.register_forward_hook(keep) for layer in model.layers]
    with _Products(model) as products:
        logits = model.logits(tokens)
    for hook in hooks:
        hook.remove()
    seen = products.seen
    layers = range(len(model.layers))

    def outputs(leaf: str) -> list[Tensor]:
        return [seen[f"layers.{i}.{leaf}"][1] for i in layers]

    attention = []
    for i, query, key in zip(layers, outputs("query"), outputs("key"), strict=True):
        attention.append(_attention_logits(model, i, query, key, tokens.shape[-1]))
    end = stream[-1][1]
    places = {
        "embedding": [stream[0][0]],
        "attention branch": outputs("output"),
        "attention logits": attention,
        "ffn input": outputs("up"),
        "ffn branch": outputs("down"),
        "block": [after - before for before, after in stream],
        "stream half-way": [stream[len(stream) // 2 - 1][1]],
        "stream end": [end],
        "final norm": [rms_norm(end, model.norm, model.model.norm_eps)],
        "logits": [logits],
    }
    return places, seen


def _attention_logits(model: Decoder, index: int, query: Tensor, key: Tensor, T: int) -> Tensor:
    """What the softmax of a layer takes, at the pairs of positions that see each other: (P,
    windows, heads, pairs). `query`, `key`: (P, windows * T, heads * head_size).
    """
    layer = cast(Layer, model.layers[index])

    def heads(x: Tensor) -> Tensor:
        """(P, windows, heads, T, head_size), turned by position."""
        members, _, width = x.shape
        by_head = x.reshape(members, -1, T, width // layer.head_size, layer.head_size)
        return rotate(by_head.transpose(2, 3), model.rope[:, :T])

    q, k = heads(query), heads(key)
    scores = q @ k.repeat_interleave(q.shape[2] // k.shape[2], dim=2).mT
    return scores[..., torch.ones(T, T, dtype=torch.bool).tril()] * layer.attention_scale


def _values(t: int, places: Activations) -> list[Reading]:
    return [Reading(t, place, "value", _rms(tensors)) for place, tensors in places.items()]


def _changes(t: int, first: Activations, now: Activations) -> list[Reading]:
    found = []
    for place, tensors in now.items():
        changed = (a - b for a, b in zip(tensors, first[place], strict=True))
        found.append(Reading(t, place, "change", _rms(changed)))
    return found


def _learnt(begun: Weights, products: Products) -> tuple[float, ...]:
    """RMS of what training has added to the products of matrices: W x - W_0 x."""
    added = []
    for name, (x, y) in products.items():
        if role_of(name) == "matrix":
            added.append(y - x @ begun[name].mT)
    return _rms(added)


def _updates(t: int, before: Weights, after: Weights) -> list[Reading]:
    """By role, the step over the parameters that it changed."""
    found = []
    for role, names in _by_role(before).items():
        step = [after[name] - before[name] for name in names]
        found.append(Reading(t, role, "update", _ratio(step, [before[name] for name in names])))
    return found


# -- the factors of the table of roles, as they are really carried out


@torch.no_grad()
def _rules(model: Decoder, tokens: Tensor, first: Activations, products: Products) -> list[Reading]:
    """Init and multipliers, as they show in the weights and in a forward pass."""
    weights = _weights(model)
    found = {}
    for role, names in _by_role(weights).items():
        found[f"{role} init"] = _rms(weights[name] for name in names)
    head = "embedding" if model.model.tied else "head"
    entering, _ = products[head]
    found["logit multiplier"] = _ratio([entering], first["final norm"])
    looked_up = model.embedding[:, tokens.flatten()]
    found["embedding multiplier"] = _ratio(first["embedding"], [looked_up])
    found["residual multiplier"] = _residual_multiplier(first)
    scale = cast(Layer, model.layers[0]).attention_scale
    found["attention scale"] = (scale,) * len(model.embedding)
    return [Reading(0, name, "rule", values) for name, values in found.items()]


def _residual_multiplier(first: Activations) -> tuple[float, ...]:
    """block = multiplier * (attention branch + ffn branch), solved for the multiplier by least
    squares over all layers.
    """
    across = torch.zeros(())
    along = torch.zeros(())
    places = first["block"], first["attention branch"], first["ffn branch"]
    for block, attention, ffn in zip(*places, strict=True):
        branches = attention + ffn
        across = across + (block * branches).flatten(1).sum(1)
        along = along + branches.square().flatten(1).sum(1)
    return tuple((across / along).tolist())


def _responses(recipe: Recipe) -> dict[str, float]:
    """What one step of the optimiser does to each role for gradients that are known: its decay,
    lr and eps.

    A first step of Adam with a gradient g everywhere moves a weight by lr g / (g + eps): by lr
    where g is large, and by less where it is far below eps, which tells eps. One of Muon turns
    such a gradient, of rank one, into a matrix with one singular value near lr. Without a
    gradient a step only decays.
    """
    bare = recipe.change(optimizer={"clip": 0.0, "weight_decay": 0.0})
    tiny = recipe.optimizer.eps / 1000
    idle, full, small = _moved(recipe, 0.0), _moved(bare, 1.0), _moved(bare, tiny)
    found = {}
    for role, (moved, size) in idle.items():
        lr, _ = full[role]
        slowed, _ = small[role]
        found[f"{role} decay"] = moved / size
        found[f"{role} lr"] = lr
        if _has_eps(recipe, role):
            found[f"{role} eps"] = tiny * (lr / slowed - 1)
    return found


def _has_eps(recipe: Recipe, role: Role) -> bool:
    """Whether the update of a role is told Adam's eps."""
    tensor = next(tensor for tensor, its in ROLE_OF.items() if its == role)
    update = OPTIMIZERS[recipe.optimizer.kind].update_of(tensor, role)
    return "eps" in update.settings(recipe, role, (recipe.model.width,) * 2)


def _moved(recipe: Recipe, gradient: float) -> dict[Role, tuple[float, float]]:
    """RMS of what a first step with this gradient everywhere changes, and of what it changes it
    in, by role.
    """
    model = Decoder([recipe.model], recipe.data.context, [0])
    optimizer = FlatOptimizer(model, [recipe])
    before = _weights(model)
    for parameter in model.parameters():
        cast(Tensor, parameter.grad).fill_(gradient)
    optimizer.step(1.0)
    after = _weights(model)
    found = {}
    for role, names in _by_role(before).items():
        (step,) = _rms(after[name] - before[name] for name in names)
        (there,) = _rms(before[name] for name in names)
        found[role] = (step, there)
    return found


def _eps_shares(
    recipe: Recipe, optimizer: FlatOptimizer, responses: dict[str, float]
) -> list[Reading]:
    """Adam's eps over the RMS of the first gradient that it saw (clipped), by role, the last norm's
    gain apart from those of the blocks. After one step the second moment is (1 - beta2) g^2.
    """
    prefix = "second."
    state = optimizer.state().items()
    second = {name.removeprefix(prefix): m for name, m in state if name.startswith(prefix)}
    scale = (1 - recipe.optimizer.beta2) ** -0.5
    found = []
    by_quantity: dict[str, list[str]] = {}
    for name in second:
        quantity = theory.LAST_GAIN if name == "norm" else role_of(name)
        by_quantity.setdefault(quantity, []).append(name)
    for quantity, names in by_quantity.items():
        gradients = _rms(second[name].sqrt() for name in names)
        eps = responses[f"{role_of(names[0])} eps"]
        found.append(
            Reading(1, quantity, "eps", tuple(eps / (scale * gradient) for gradient in gradients))
        )
    return found


# -- weights, and sizes of tensors


def _weights(model: Decoder) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _by_role(weights: Weights) -> dict[Role, list[str]]:
    found: dict[Role, list[str]] = {}
    for name in weights:
        found.setdefault(role_of(name), []).append(name)
    return found


def _ratio(above: Sequence[Tensor], below: Sequence[Tensor]) -> tuple[float, ...]:
    """Of their RMS: P numbers."""
    return tuple(a / b for a, b in zip(_rms(above), _rms(below), strict=True))


def _rms(tensors: Iterable[Tensor]) -> tuple[float, ...]:
    """Root mean square over everything but the members: P numbers."""
    squares, count = torch.zeros((), dtype=torch.float64), 0
    for tensor in tensors:
        squares = squares + tensor.double().square().flatten(1).sum(1)
        count += tensor[0].numel()
    return tuple((squares / count).sqrt().tolist())
