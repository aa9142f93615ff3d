"""One decoder, many ways to compute it: as members of a population, from the published formula,
by transformers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.recipe import PARAMETRIZATIONS, Model, Multipliers, Recipe
from windtunnel.train.optimizer import FlatOptimizer

Make = Callable[..., Recipe]
CONTEXT = 24
SHAPES: dict[str, dict[str, Any]] = {
    "mha": {},
    "gqa": {"heads": 4, "kv_heads": 2},
    "untied": {"tied": False},
    "experts": {"experts": 4, "experts_per_token": 2, "ffn": 24},
    "wide heads": {
        "heads": 4,
        "kv_heads": 1,
        "head_size": 12,
        "ffn": 50,
        "rope_base": 500.0,
        "norm_eps": 1e-3,
    },
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
dense = pytest.mark.parametrize("shape", [s for s in SHAPES.values() if "experts" not in s])


def shape_of(recipe: Make, **model: Any) -> Model:
    return recipe().model.model_validate(
        {"width": 32, "depth": 3, "heads": 2, "vocab": 97, "base_width": 16, "ffn": 80} | model
    )


def some_tokens(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 97, size, generator=torch.Generator().manual_seed(seed))


def some_documents(*size: int) -> Tensor:
    ends = torch.rand(size, generator=torch.Generator().manual_seed(7)) < 0.2
    return ends.long().cumsum(-1)


def difference(a: Tensor, b: Tensor) -> float:
    """Relative, of the whole tensor."""
    return ((a - b).norm() / b.norm()).item()


# --- members


def members(recipe: Make, shape: dict[str, Any]) -> list[Recipe]:
    differing = [
        ({}, {}),
        ({"scale_emb": 3.0, "init_std": 0.2}, {"lr": 0.003, "weight_decay": 0.05, "clip": 0.5}),
        (
            {"scale_depth": 0.6, "parametrization": "completep"},
            {"lr": 0.02, "beta1": 0.8, "eps": 1e-6},
        ),
        # a larger eps: where a gradient is rounding alone, Adam would take whole steps of it
        (
            {"parametrization": "standard", "init_std": 0.3},
            {"beta2": 0.99, "weight_decay": 0.0, "eps": 1e-6},
        ),
    ]
    base = shape_of(recipe, **shape).model_dump()
    return [
        recipe(seed=10 + seed, model=base | model, optimizer=optimizer)
        for seed, (model, optimizer) in enumerate(differing)
    ]


def population(recipes: Sequence[Recipe]) -> tuple[Decoder, list[Decoder]]:
    together = Decoder([r.model for r in recipes], CONTEXT, [r.seed for r in recipes])
    return together, [Decoder(r.model, CONTEXT, r.seed) for r in recipes]


@pytest.mark.parametrize("own", [False, True], ids=["shared tokens", "own tokens"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "documents"])
@shapes
def test_members_are_the_models_that_they_would_be_alone(
    recipe: Make, shape: dict[str, Any], masked: bool, own: bool
) -> None:
    """Forward, backward and 20 steps of training, each member with its own seed, init,
    multipliers and optimiser.
    """
    recipes = members(recipe, shape)
    together, alone = population(recipes)
    optimizer = FlatOptimizer(together, recipes)
    optimizers = [FlatOptimizer(model, [r]) for model, r in zip(alone, recipes, strict=True)]
    lead = (len(recipes),) if own else ()
    for step in range(20):
        windows = some_tokens(*lead, 3, CONTEXT + 1, seed=step)
        inputs, targets = windows[..., :-1], windows[..., 1:]
        documents = some_documents(*lead, 3, CONTEXT) if masked else None
        losses = together.losses(inputs, targets, documents)
        assert losses.shape == (len(recipes), 3 * CONTEXT)
        losses.mean(-1).sum().backward()
        for member, model in enumerate(alone):
            part = [x[member] if own and x is not None else x for x in (inputs, targets, documents)]
            expected = model.losses(*part)
            assert difference(losses[member], expected) < 1e-5
            expected.mean().backward()
            if step == 0:
                for name, parameter in model.named_parameters():
                    assert (
                        difference(together.get_parameter(name).grad[member], parameter.grad) < 1e-5
                    ), name
        shares = [1.0, 0.5, 0.9, 1 - step / 40]
        optimizer.step(shares)
        for one, share in zip(optimizers, shares, strict=True):
            one.step(share)
    for member, model in enumerate(alone):
        for name, parameter in model.named_parameters():
            assert difference(together.get_parameter(name)[member], parameter) < 1e-5, (
                member,
                name,
            )
        begun = Decoder(recipes[member].model, CONTEXT, recipes[member].seed)
        assert difference(model.embedding, begun.embedding) > 0.01


def test_members_that_choose_otherwise_are_no_population(recipe: Make) -> None:
    one = shape_of(recipe, experts=4)
    with pytest.raises(ValueError, match="members must have one shape"):
        Decoder([one, one.model_copy(update={"experts_per_token": 3})], CONTEXT, [0, 1])


@shapes
def test_members_have_the_logits_of_the_models_alone(recipe: Make, shape: dict[str, Any]) -> None:
    together, alone = population(members(recipe, shape))
    tokens = some_tokens(2, CONTEXT)
    logits = together.logits(tokens)
    assert logits.shape == (4, 2, CONTEXT, 97)
    for member, model in enumerate(alone):
        assert difference(logits[member], model.logits(tokens)) < 1e-5


def test_a_population_of_one_is_the_model(recipe: Make) -> None:
    shape, tokens = shape_of(recipe), some_tokens(2, CONTEXT)
    one, alone = Decoder([shape], CONTEXT, [3]), Decoder(shape, CONTEXT, 3)
    assert one.logits(tokens).shape == (1, 2, CONTEXT, 97)
    assert difference(one.logits(tokens)[0], alone.logits(tokens)) < 1e-6


@pytest.mark.parametrize(
    "other",
    [{"width": 48}, {"tied": False}, {"heads": 4}, {"rope_base": 500.0}, {"norm_eps": 1e-3}],
    ids=lambda other: next(iter(other)),
)
def test_members_that_can_not_be_computed_together_are_refused(
    recipe: Make, other: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="members"):
        Decoder([shape_of(recipe), shape_of(recipe, **other)], CONTEXT, [0, 1])


def test_members_whose_attention_is_scaled_otherwise_are_refused(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel takes the scale for all members; today's parametrizations agree in it."""
    minicpm = PARAMETRIZATIONS["minicpm"]

    def by_size(model: Model) -> Multipliers:
        return replace(minicpm.multipliers(model), attention=1 / model.head_size)

    other = replace(minicpm, name="by size", multipliers=by_size)
    monkeypatch.setitem(PARAMETRIZATIONS, other.name, other)
    shapes = [shape_of(recipe), shape_of(recipe, parametrization=other.name)]
    assert Decoder([shapes[1]] * 2, CONTEXT, [0, 1]).members == 2
    with pytest.raises(ValueError, match="members"):
        Decoder(shapes, CONTEXT, [0, 1])


# --- the published formula


def reference(model: Decoder, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
    """Logits in float64 from the paper's description alone (sec. 3, App. A; RoPE in the
    half-rotation layout).
    """
    m, w = model.model, {name: p.detach().double() for name, p in model.named_parameters()}
    T, size, group = tokens.shape[1], m.head_size, m.heads // m.kv_heads

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + m.norm_eps) * gain

    def turn(x: Tensor) -> Tensor:
        turned = torch.empty_like(x)
        for position in range(T):
            for i in range(size // 2):
                angle = position * m.rope_base ** (-2 * i / size)
                a, b = x[:, position, i], x[:, position, i + size // 2]
                turned[:, position, i] = a * math.cos(angle) - b * math.sin(angle)
                turned[:, position, i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    def swiglu(h: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return (h @ gate.T * torch.sigmoid(h @ gate.T) * (h @ up.T)) @ down.T

    def experts(h: Tensor, at: dict[str, Tensor]) -> Tensor:
        """Softmax over all experts, the best few, their shares made to sum to one (paper 7.3)."""
        chance = (h @ at["router"].T).softmax(-1)
        least = chance.sort(-1, descending=True).values[..., m.experts_per_token - 1, None]
        share = torch.where(chance >= least, chance, 0.0)
        share = share / share.sum(-1, keepdim=True)
        total = torch.zeros_like(h)
        for e in range(m.experts):
            output = swiglu(h, at["gate"][e], at["up"][e], at["down"][e])
            total = total + share[..., e, None] * output
        return total

    seen = torch.ones(T, T, dtype=torch.bool).tril().expand(len(tokens), T, T)
    if documents is not None:
        seen = seen & (documents[:, :, None] == documents[:, None, :])
    x = w["embedding"][tokens] * m.scale_emb
    residual = m.scale_depth / math.sqrt(m.depth)
    for layer in range(m.depth):
        at = {
            name.split(".")[2]: tensor
            for name, tensor in w.items()
            if name.startswith(f"layers.{layer}.")
        }
        h = norm(x, at["attention_norm"])
        query, key, value = h @ at["query"].T, h @ at["key"].T, h @ at["value"].T
        mixed = []
        for head in range(m.heads):
            own, shared = slice(head * size, (head + 1) * size), head // group
            theirs = slice(shared * size, (shared + 1) * size)
            scores = turn(query[..., own]) @ turn(key[..., theirs]).mT / math.sqrt(size)
            mixed.append(scores.masked_fill(~seen, -math.inf).softmax(-1) @ value[..., theirs])
        x = x + torch.cat(mixed, -1) @ at["output"].T * residual
        h = norm(x, at["ffn_norm"])
        added = experts(h, at) if m.experts else swiglu(h, at["gate"], at["up"], at["down"])
        x = x + added * residual
    head = w["embedding"] if m.tied else w["head"]
    return norm(x, w["norm"]) @ head.T / (m.width / m.base_width)


def with_gains(model: Decoder) -> Decoder:
    """Gains that are not all one, as after training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm"):
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("masked", [False, True], ids=["", "documents"])
@shapes
def test_it_computes_the_published_formula(
    recipe: Make, shape: dict[str, Any], masked: bool
) -> None:
    model = with_gains(
        Decoder(shape_of(recipe, scale_emb=7.0, scale_depth=1.1, **shape), CONTEXT, 1)
    )
    windows = some_tokens(2, CONTEXT + 1)
    inputs, targets = windows[:, :-1], windows[:, 1:]
    documents = some_documents(2, CONTEXT) if masked else None
    expected = reference(model, inputs, documents)
    hidden = model(inputs, documents)
    logits = (hidden @ model.unembedding.mT).unflatten(0, inputs.shape)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    losses = F.cross_entropy(expected.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(
        model.losses(inputs, targets, documents).double(), losses, rtol=1e-4, atol=1e-4
    )
    if not masked:
        torch.testing.assert_close(model.logits(inputs).double(), expected, rtol=1e-4, atol=1e-4)


@dense
def test_transformers_computes_the_same_as_granite(recipe: Make, shape: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    model = with_gains(
        Decoder(shape_of(recipe, scale_emb=7.0, scale_depth=1.1, **shape), CONTEXT, 1)
    )
    m = model.model
    config = transformers.GraniteConfig(
        vocab_size=m.vocab,
        hidden_size=m.width,
        intermediate_size=m.ffn,
        num_hidden_layers=m.depth,
        num_attention_heads=m.heads,
        num_key_value_heads=m.kv_heads,
        head_dim=m.head_size,
        rms_norm_eps=m.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": m.rope_base},
        max_position_embeddings=CONTEXT,
        embedding_multiplier=m.scale_emb,
        residual_multiplier=m.scale_depth / math.sqrt(m.depth),
        attention_multiplier=1 / math.sqrt(m.head_size),
        logits_scaling=m.width / m.base_width,
        tie_word_embeddings=m.tied,
        attn_implementation="eager",
    )
    granite = transformers.GraniteForCausalLM(config).float().eval()
    names = {
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    weights = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm,
        "lm_head.weight": model.unembedding,
    }
    for layer in range(m.depth):
        for ours, theirs in names.items():
            weights[f"model.layers.{layer}.{theirs}.weight"] = model.get_parameter(
                f"layers.{layer}.{ours}"
            )
    missing, unexpected = granite.load_state_dict(
        {name: w.detach() for name, w in weights.items()}, strict=False
    )
    assert not missing and not unexpected
    tokens = some_tokens(2, CONTEXT)
    with torch.no_grad():
        torch.testing.assert_close(
            model.logits(tokens), granite(tokens).logits, rtol=1e-4, atol=1e-4
        )


# --- what a position sees


@pytest.mark.parametrize("T", [CONTEXT, 150])
def test_a_position_sees_no_later_token(recipe: Make, T: int) -> None:
    model, tokens = Decoder(shape_of(recipe), T), some_tokens(1, T)
    before = model.logits(tokens)
    for place in (1, T // 2, T - 1):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 97
        after = model.logits(changed)
        torch.testing.assert_close(after[0, :place], before[0, :place], rtol=0, atol=1e-5)
        assert (after[0, place:] - before[0, place:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("T", [CONTEXT, 150])
def test_a_document_does_not_see_another(recipe: Make, T: int) -> None:
    model, tokens, border = Decoder(shape_of(recipe), T), some_tokens(2, T), T // 2 + 3
    targets, documents = some_tokens(2, T, seed=1), (torch.arange(T) >= border).long().expand(2, T)
    changed = torch.cat([some_tokens(2, border, seed=2), tokens[:, border:]], dim=1)
    with_mask = [
        model.losses(x, targets, documents).unflatten(0, (2, T))[:, border:]
        for x in (tokens, changed)
    ]
    without = [model.losses(x, targets).unflatten(0, (2, T))[:, border:] for x in (tokens, changed)]
    torch.testing.assert_close(*with_mask, rtol=0, atol=1e-5)
    assert (without[0] - without[1]).abs().max() > 1e-2


def test_a_later_document_is_what_it_would_be_alone(recipe: Make) -> None:
    """RoPE only knows distances, so it does not matter where in the window a document stands."""
    model, tokens = Decoder(shape_of(recipe), CONTEXT), some_tokens(1, CONTEXT)
    documents = (torch.arange(CONTEXT) >= 10).long()[None]
    inside = model(tokens, documents)[10:]
    torch.testing.assert_close(inside, model(tokens[:, 10:]), rtol=1e-4, atol=1e-5)


# --- compiled


@pytest.mark.slow
@pytest.mark.parametrize("P", [None, 3], ids=["one", "members"])
@pytest.mark.parametrize("experts", [0, 4])
def test_compiled_it_gives_the_same_losses_and_gradients(
    recipe: Make, P: int | None, experts: int
) -> None:
    shape, seeds = shape_of(recipe, experts=experts), range(P or 1)
    eager, compiled = (
        Decoder(shape if P is None else [shape] * P, CONTEXT, 0 if P is None else seeds)
        for _ in "ab"
    )
    compiled.compile_parts()
    windows = some_tokens(3, CONTEXT + 1)
    losses = [model.losses(windows[:, :-1], windows[:, 1:]) for model in (eager, compiled)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for one in losses:
        one.mean(-1).sum().backward()
    for name, parameter in eager.named_parameters():
        assert difference(compiled.get_parameter(name).grad, parameter.grad) < 1e-4, name
