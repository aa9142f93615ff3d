"""What the coordinate check reads off models while they train a few steps: sizes of activations,
of their change, of the updates, and each rule of the table of roles as the model and the
optimiser really carry it out.

The members of a population are the seeds: one pass trains and reads all of them. Everything is
fp32 and eager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
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

Activations = dict[
    str, list[Tensor]
]  # by place; tensors are (P, ...), several where a place has one a layer
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
    objective, tokens = Objective(model, engine), torch.from_numpy(batch[:, :-1].copy())
    weights = partial(_weights, model)
    begun, (first, products) = weights(), _activations(model, tokens)
    result = _values(0, first) + _rules(model, tokens, first, products)
    responses = _responses(recipe)
    result += [Reading(0, name, "rule", (value,) * len(seeds)) for name, value in responses.items()]
    for t in range(1, max(steps) + 1):
        before = weights() if t in steps else {}
        objective.add_gradient(torch.from_numpy(batch))
        optimizer.step(1.0)
        if t == 1:
            result += _eps_shares(recipe, optimizer, responses)
        if t in steps:
            now, products = _activations(model, tokens)
            result += _values(t, now) + _changes(t, first, now)
            learnt = [
                y - x @ begun[name].mT
                for name, (x, y) in products.items()
                if role_of(name) == "matrix"
            ]
            result += [
                Reading(t, "matrix product", "change", _rms(learnt)),
                *_updates(t, before, weights()),
            ]
    return result


class _Products(TorchFunctionMode):
    """Keeps input and output of every product with a parameter, by the parameter's name."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._names = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__ in ("matmul", "__matmul__") and args[1].data_ptr() in self._names:
            self.seen[self._names[args[1].data_ptr()]] = (args[0], result)
        return result


@torch.no_grad()
def _activations(
    model: Decoder, tokens: Tensor
) -> tuple[Activations, dict[str, tuple[Tensor, Tensor]]]:
    stream: list[tuple[Tensor, Tensor]] = []  # before and after each layer

    def keep(layer: object, inputs: tuple[Any, ...], output: Any) -> None:
        stream.append((inputs[0], output[0]))

    hooks = [layer.register_forward_hook(keep) for layer in model.layers]
    with _Products(model) as products:
        logits = model.logits(tokens)
    for hook in hooks:
        hook.remove()
    seen, layers = products.seen, range(len(model.layers))

    def outputs(leaf: str) -> list[Tensor]:
        return [seen[f"layers.{i}.{leaf}"][1] for i in layers]

    end = stream[-1][1]
    places = {
        "embedding": [stream[0][0]],
        "attention branch": outputs("output"),
        "attention logits": [
            _attention_logits(model, i, q, k, tokens.shape[-1])
            for i, q, k in zip(layers, outputs("query"), outputs("key"), strict=True)
        ],
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
    windows, heads, pairs).
    """
    layer = cast(Layer, model.layers[index])

    def heads(x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], -1, T, x.shape[-1] // layer.head_size, layer.head_size).transpose(
            2, 3
        )
        return rotate(x, model.rope[:, :T])

    q, k = heads(query), heads(key)
    scores = q @ k.repeat_interleave(q.shape[2] // k.shape[2], dim=2).mT
    return scores[..., torch.ones(T, T, dtype=torch.bool).tril()] * layer.attention_scale


def _values(t: int, places: Activations) -> list[Reading]:
    return [Reading(t, place, "value", _rms(tensors)) for place, tensors in places.items()]


def _changes(t: int, first: Activations, now: Activations) -> list[Reading]:
    pairs = {place: zip(now[place], first[place], strict=True) for place in now}
    return [
        Reading(t, place, "change", _rms(a - b for a, b in both)) for place, both in pairs.items()
    ]


def _updates(t: int, before: Weights, after: Weights) -> list[Reading]:
    result = []
    for role, names in _by_role(before).items():
        moved, there = _rms(after[n] - before[n] for n in names), _rms(before[n] for n in names)
        result.append(
            Reading(t, role, "update", tuple(a / b for a, b in zip(moved, there, strict=True)))
        )
    return result


@torch.no_grad()
def _rules(
    model: Decoder, tokens: Tensor, first: Activations, seen: dict[str, tuple[Tensor, Tensor]]
) -> list[Reading]:
    """Init and multipliers, as they show in the weights and in a forward pass."""
    weights = _weights(model)
    found = {
        f"{role} init": _rms(weights[n] for n in names) for role, names in _by_role(weights).items()
    }
    head = "embedding" if model.model.tied else "head"
    found["logit multiplier"] = _ratio([seen[head][0]], first["final norm"])
    found["embedding multiplier"] = _ratio(
        first["embedding"], [model.embedding[:, tokens.flatten()]]
    )
    # block = multiplier * (attention branch + ffn branch), solved for the multiplier by least
    # squares
    branches = [a + b for a, b in zip(first["attention branch"], first["ffn branch"], strict=True)]
    across = sum((a * b).flatten(1).sum(1) for a, b in zip(first["block"], branches, strict=True))
    along = sum(b.square().flatten(1).sum(1) for b in branches)
    found["residual multiplier"] = tuple((cast(Tensor, across) / along).tolist())
    found["attention scale"] = (cast(Layer, model.layers[0]).attention_scale,) * len(
        model.embedding
    )
    return [Reading(0, name, "rule", values) for name, values in found.items()]


def _responses(recipe: Recipe) -> dict[str, float]:
    """What one step of the optimiser does to each role for gradients that are known: its decay,
    lr and eps.
    """
    bare = recipe.change(optimizer={"clip": 0.0, "weight_decay": 0.0})
    tiny = recipe.optimizer.eps / 1000
    idle, full, small = _moved(recipe, 0.0), _moved(bare, 1.0), _moved(bare, tiny)
    found = {}
    for role, (moved, size) in idle.items():
        lr, slowed = full[role][0], small[role][0]
        found |= {f"{role} decay": moved / size, f"{role} lr": lr}
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
    optimizer, before = FlatOptimizer(model, [recipe]), _weights(model)
    for parameter in model.parameters():
        cast(Tensor, parameter.grad).fill_(gradient)
    optimizer.step(1.0)
    after = _weights(model)
    return {
        role: (_rms(after[n] - before[n] for n in names)[0], _rms(before[n] for n in names)[0])
        for role, names in _by_role(before).items()
    }


def _eps_shares(
    recipe: Recipe, optimizer: FlatOptimizer, responses: dict[str, float]
) -> list[Reading]:
    """Adam's eps over the RMS of the first gradient that it saw (clipped), by role."""
    second = {
        n.removeprefix("second."): m
        for n, m in optimizer.state().items()
        if n.startswith("second.")
    }
    scale = (1 - recipe.optimizer.beta2) ** -0.5
    result = []
    for role, names in _by_role(second).items():
        gradients = _rms(second[n].sqrt() for n in names)
        shares = tuple(responses[f"{role} eps"] / (scale * gradient) for gradient in gradients)
        result.append(Reading(1, role, "eps", shares))
    return result


def _weights(model: Decoder) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _by_role(weights: Weights) -> dict[Role, list[str]]:
    result: dict[Role, list[str]] = {}
    for name in weights:
        result.setdefault(role_of(name), []).append(name)
    return result


def _ratio(above: list[Tensor], below: list[Tensor]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(_rms(above), _rms(below), strict=True))


def _rms(tensors: Iterable[Tensor]) -> tuple[float, ...]:
    """Root mean square over everything but the members: P numbers."""
    squares, count = torch.zeros((), dtype=torch.float64), 0
    for tensor in tensors:
        squares = squares + tensor.double().square().flatten(1).sum(1)
        count += tensor[0].numel()
    return tuple((squares / count).sqrt().tolist())
