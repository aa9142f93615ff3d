"""What is read off small models, held against the same numbers computed by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import multipliers, role_of, rules
from windtunnel.model.rope import rotate
from windtunnel.recipe import Recipe
from windtunnel.tunnel.check.check import generated_window
from windtunnel.tunnel.check.probe import _ratio, _rms, readings

SEEDS = (0, 3)
STEPS = (0, 1, 3)
Values = dict[tuple[str, str, int], tuple[float, ...]]
Make = Callable[..., Recipe]


def made(recipe: Make, **changes: Any) -> Recipe:
    """Without warm-up or decay; two kinds of size that differ from the base, and an eps that
    shows.
    """
    model = {"depth": 3, "base_depth": 2} | changes.pop("model", {})
    optimizer = {"eps": 1e-3, "lr": 0.02, "weight_decay": 0.05} | changes.pop("optimizer", {})
    return recipe(
        model=model,
        optimizer=optimizer,
        schedule={"tokens": 640, "warmup": 0, "decay": 0},
        train={"batch": 32},
        **changes,
    )


def read(recipe: Recipe) -> Values:
    found = readings(recipe, SEEDS, generated_window(32, 320), STEPS)
    return {(one.quantity, one.statistic, one.t): one.values for one in found}


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.from_numpy(generated_window(32, 320)[:, :-1].copy())


def rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def normed(values: Tensor, gain: Tensor, asked: Recipe) -> Tensor:
    mean = values.square().mean(-1, keepdim=True)
    return values * torch.rsqrt(mean + asked.model.norm_eps) * gain


def gradients_of(model: Decoder) -> dict[str, Tensor]:
    """Of the window's loss."""
    window = torch.from_numpy(generated_window(32, 320))
    logits = model.logits(window[:, :-1]).flatten(0, -2)
    loss = torch.nn.functional.cross_entropy(logits, window[:, 1:].flatten())
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def clipped(gradients: dict[str, Tensor], most: float) -> float:
    """The factor of gradients whose norm may be so large."""
    return min(1.0, most / math.sqrt(sum(float(g.square().sum()) for g in gradients.values())))


def test_the_root_mean_square_is_over_all_of_a_member(rng: np.random.Generator) -> None:
    one, other = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[[0.0]], [[2.0]]])
    assert _rms([one, other]) == pytest.approx((math.sqrt(25 / 3), math.sqrt(4 / 3)))
    assert _rms([one]) == pytest.approx((math.sqrt(12.5), 0.0))
    assert _ratio([2 * one[:1]], [one[:1]]) == pytest.approx((2.0,))


@pytest.mark.parametrize("changes", [{}, {"model": {"parametrization": "completep"}}])
def test_the_values_of_a_new_model_are_those_of_its_forward_pass(
    recipe: Make, tokens: Tensor, changes: dict[str, Any]
) -> None:
    """Layer by layer, of each seed alone."""
    asked = made(recipe, **changes)
    found = read(asked)
    m = multipliers(asked.model)
    for member, seed in enumerate(SEEDS):
        model = Decoder([asked.model], asked.data.context, [seed])
        with torch.no_grad():
            x = model.embedding[:, tokens.flatten()] * m.embedding
            seen: dict[str, list[Tensor]] = {"embedding": [x]}
            for layer in model.layers:
                before = x
                weights = {name: p[0] for name, p in layer.named_parameters()}

                h = normed(x, weights["attention_norm"], asked)
                heads = []
                for name in ("query", "key", "value"):
                    # (heads, T, head_size)
                    flat = (h @ weights[name].mT)[0]
                    size = asked.model.head_size
                    heads.append(flat.reshape(len(flat), -1, size).transpose(0, 1))
                q, k, v = heads
                q, k = rotate(q, model.rope[:, : len(q[0])]), rotate(k, model.rope[:, : len(k[0])])
                share = q.shape[0] // k.shape[0]
                scores = q @ k.repeat_interleave(share, 0).mT * m.attention
                seesaw = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
                seen.setdefault("attention logits", []).append(scores[:, seesaw])
                attended = scores.masked_fill(~seesaw, -math.inf).softmax(-1)
                mixed = attended @ v.repeat_interleave(share, 0)
                branch = mixed.transpose(0, 1).flatten(1)[None] @ weights["output"].mT
                seen.setdefault("attention branch", []).append(branch)
                x = x + m.residual * branch
                h = normed(x, weights["ffn_norm"], asked)
                up = h @ weights["up"].mT
                seen.setdefault("ffn input", []).append(up)
                gate = torch.nn.functional.silu(h @ weights["gate"].mT)
                branch = (gate * up) @ weights["down"].mT
                seen.setdefault("ffn branch", []).append(branch)
                x = x + m.residual * branch
                seen.setdefault("block", []).append(x - before)
                seen.setdefault("stream", []).append(x)
        seen["stream half-way"], seen["stream end"] = [seen["stream"][0]], [seen["stream"][-1]]
        seen["final norm"] = [normed(x, model.norm[0], asked)]
        seen["logits"] = [model.logits(tokens).detach()]
        del seen["stream"]
        for place, tensors in seen.items():
            joined = torch.cat([tensor.flatten() for tensor in tensors])
            value = found[place, "value", 0][member]
            assert value == pytest.approx(rms(joined), rel=1e-4), place
    assert found["residual multiplier", "rule", 0] == pytest.approx((m.residual,) * 2, rel=1e-4)
    assert found["embedding multiplier", "rule", 0] == pytest.approx((m.embedding,) * 2, rel=1e-5)
    assert found["logit multiplier", "rule", 0] == pytest.approx((m.logits,) * 2, rel=1e-5)
    assert found["attention scale", "rule", 0] == pytest.approx((m.attention,) * 2)


@pytest.mark.parametrize("parametrization", ["minicpm", "completep"])
def test_the_factors_of_every_role_are_those_of_its_rule(
    recipe: Make, parametrization: str
) -> None:
    """A first step of Adam moves by the rate; one without a gradient decays by its share."""
    asked = made(recipe, model={"parametrization": parametrization, "tied": False})
    found = read(asked)
    for role, rule in rules(asked.model).items():
        optimizer = asked.optimizer
        size = rule.std if rule.std else rule.mean
        assert found[f"{role} init", "rule", 0] == pytest.approx((size,) * 2, rel=0.05)
        assert found[f"{role} lr", "rule", 0] == pytest.approx((0.02 * rule.lr,) * 2, rel=0.01)
        decay = optimizer.weight_decay * rule.weight_decay
        assert found[f"{role} decay", "rule", 0] == pytest.approx((decay,) * 2, rel=1e-3)
        eps = optimizer.eps * rule.eps
        assert found[f"{role} eps", "rule", 0] == pytest.approx((eps,) * 2, rel=0.01)


def test_muons_matrices_have_no_eps(recipe: Make) -> None:
    found = read(made(recipe, optimizer={"kind": "muon"}))
    roles = {quantity for quantity, statistic, _ in found if statistic == "rule"}
    assert "gain eps" in roles and "matrix eps" not in roles


def trained(asked: Recipe, seed: int, steps: int) -> tuple[Decoder, list[dict[str, Tensor]]]:
    """A model after some steps by the formulas of AdamW, and its weights before each and after the
    last.
    """
    model = Decoder([asked.model], asked.data.context, [seed])
    table, o = rules(asked.model), asked.optimizer
    names = dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in names.items()}
    second = {name: torch.zeros_like(p) for name, p in names.items()}
    weights = [{name: p.detach().clone() for name, p in names.items()}]
    for t in range(1, steps + 1):
        gradients = gradients_of(model)
        clip = clipped(gradients, o.clip)
        for name, p in names.items():
            rule, gradient = table[role_of(name)], gradients[name] * clip
            first[name].lerp_(gradient, 1 - o.beta1)
            second[name].lerp_(gradient**2, 1 - o.beta2)
            mean, square = first[name] / (1 - o.beta1**t), second[name] / (1 - o.beta2**t)
            step = o.lr * rule.lr * mean / (square.sqrt() + o.eps * rule.eps)
            decayed = o.weight_decay * rule.weight_decay * p.data
            p.data = p.data - step - decayed
        weights.append({name: p.detach().clone() for name, p in names.items()})
    return model, weights


def test_updates_and_changes_are_those_of_the_steps(recipe: Make, tokens: Tensor) -> None:
    """The update of a role is that of the last step over what it changed; a change is from the
    beginning on.
    """
    asked = made(recipe)
    found = read(asked)
    for member, seed in enumerate(SEEDS):
        begun = Decoder([asked.model], asked.data.context, [seed])
        model, weights = trained(asked, seed, 3)
        changed = model.logits(tokens) - begun.logits(tokens)
        assert found["logits", "change", 3][member] == pytest.approx(rms(changed), rel=2e-3)
        looked_up = multipliers(asked.model).embedding * tokens.new_ones(1)
        moved = (weights[3]["embedding"] - weights[0]["embedding"])[0, tokens.flatten()]
        expected = rms(moved * looked_up)
        assert found["embedding", "change", 3][member] == pytest.approx(expected, rel=2e-3)
        for t in (1, 3):
            before, after = weights[t - 1], weights[t]
            for role in ("embedding", "matrix", "gain"):
                its = [name for name in before if role_of(name) == role]
                step = torch.cat([(after[name] - before[name]).flatten() for name in its])
                there = torch.cat([before[name].flatten() for name in its])
                ratio = found[role, "update", t][member]
                assert ratio == pytest.approx(rms(step) / rms(there), rel=5e-3), (role, t)


def test_what_matrices_have_learnt_is_their_change_times_their_input(
    recipe: Make, tokens: Tensor
) -> None:
    asked = made(recipe)
    found = read(asked)
    model, weights = trained(asked, SEEDS[1], 1)
    inputs: dict[str, Tensor] = {}

    class Keep(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func.__name__ in ("matmul", "__matmul__"):
                for name, p in model.named_parameters():
                    if args[1].data_ptr() == p.data_ptr() and role_of(name) == "matrix":
                        inputs[name] = args[0]
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Keep():
        model.logits(tokens)
    assert len(inputs) == 7 * 3
    learnt = []
    for name, x in inputs.items():
        learnt.append((x @ (weights[1][name] - weights[0][name]).mT).flatten())
    value = found["matrix product", "change", 1][1]
    assert value == pytest.approx(rms(torch.cat(learnt)), rel=5e-3)


def test_eps_is_a_share_of_the_first_gradient_that_adam_saw(recipe: Make) -> None:
    """Clipped; of the last norm apart from those of the blocks."""
    asked = made(recipe)
    found = read(asked)
    model = Decoder([asked.model], asked.data.context, [SEEDS[0]])
    gradients = gradients_of(model)
    clip = clipped(gradients, asked.optimizer.clip)
    gains = [name for name in gradients if role_of(name) == "gain" and name != "norm"]
    for quantity, names in {"last gain": ["norm"], "gain": gains}.items():
        seen = rms(torch.cat([gradients[name].flatten() for name in names])) * clip
        value = found[quantity, "eps", 1][0]
        assert value == pytest.approx(1e-3 / seen, rel=0.02), quantity
    assert not any(statistic == "eps" and t != 1 for _, statistic, t in found)


def test_every_place_is_read_after_each_of_the_steps(recipe: Make) -> None:
    found = read(made(recipe))
    places = {quantity for quantity, statistic, t in found if (statistic, t) == ("value", 0)}
    assert len(places) == 10
    for t in (1, 3):
        values = {q for q, statistic, at in found if (statistic, at) == ("value", t)}
        changes = {q for q, statistic, at in found if (statistic, at) == ("change", t)}
        assert values == places and changes == {*places, "matrix product"}
        assert {q for q, s, at in found if (s, at) == ("update", t)} == {
            "embedding",
            "matrix",
            "gain",
        }
    assert {t for _, _, t in found} == {0, 1, 3}
