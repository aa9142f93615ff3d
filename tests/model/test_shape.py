"""What a shape holds and costs: the paper's own counts, and what torch counts of a real model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.model.decoder import Decoder
from windtunnel.model.shape import active_params, count, flops_per_token, tensor_shapes
from windtunnel.recipe import Model, load

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER = {  # width, ffn, heads, kv_heads, depth, vocab: non-embedding parameters
    (320, 800, 5, 5, 8, 122_753): 9_426_240,
    (512, 1280, 8, 8, 12, 122_753): 36_188_672,
    (640, 1600, 10, 10, 14, 122_753): 65_964_160,
    (768, 1920, 12, 12, 16, 122_753): 108_552_960,
    (896, 2240, 14, 14, 18, 122_753): 166_216_064,
    (1024, 2560, 16, 16, 20, 122_753): 241_214_464,
    (1344, 3360, 21, 21, 24, 122_753): 498_614_592,
    (1536, 3840, 24, 8, 52, 73_440): 1_247_442_432,
    (2304, 5760, 36, 36, 40, 122_753): 2_442_057_984,
}
SIZES = [
    {},
    {"tied": False},
    {"kv_heads": 2},
    {"kv_heads": 1, "head_size": 24, "ffn": 100, "tied": False},
    {"experts": 4},
]
GROUPED = {  # operators of ours, which torch can't know: each row meets one group's matrix
    torch.ops.windtunnel.grouped_product: lambda rows, weights, ends, **_: (
        2 * rows[0] * weights[1] * weights[2]
    ),
    torch.ops.windtunnel.grouped_outer_product: lambda left, right, ends, **_: (
        2 * left[0] * left[1] * right[1]
    ),
}


def shape(**changes: Any) -> Model:
    return Model.model_validate({"width": 64, "depth": 3, "heads": 4, "vocab": 300} | changes)


@pytest.mark.parametrize(("numbers", "params"), PAPER.items())
def test_the_papers_counts(numbers: tuple[int, ...], params: int) -> None:
    names = ("width", "ffn", "heads", "kv_heads", "depth", "vocab")
    model = Model.model_validate(dict(zip(names, numbers, strict=True)))
    table = numbers[0] * numbers[5]
    tied, untied = count(model), count(model.model_copy(update={"tied": False}))
    assert (tied.params, tied.params_with_head, tied.params_total) == (
        params,
        params + table,
        params + table,
    )
    assert (untied.params, untied.params_with_head, untied.params_total) == (
        params,
        params + table,
        params + 2 * table,
    )


FILES = sorted(RECIPES.glob("minicpm-*.toml"))


@pytest.mark.skipif(not FILES, reason="recipes/ has none of the paper's models")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_papers_recipes_have_the_papers_shapes(file: Path) -> None:
    model = load(file).model
    numbers = (model.width, model.ffn, model.heads, model.kv_heads, model.depth, model.vocab)
    assert numbers in PAPER
    assert count(model).params == PAPER[numbers]


@pytest.mark.parametrize("changes", SIZES)
def test_counts_are_those_of_the_built_model(changes: dict[str, Any]) -> None:
    model = shape(**changes)
    built = dict(Decoder(model, 16).named_parameters())
    assert {name: tuple(p.shape) for name, p in built.items()} == tensor_shapes(model)
    assert count(model).params_total == sum(p.numel() for p in built.values())
    outside = sum(p.numel() for name, p in built.items() if name not in ("embedding", "head"))
    assert count(model).params == outside
    idle = (
        0 if not model.experts else (model.experts - 2) * 3 * model.ffn * model.width * model.depth
    )
    assert active_params(model) == outside - idle


def test_the_papers_counts_of_experts() -> None:
    """13.6B of 8 experts, of which a token meets two, about 4B (paper 7.3)."""
    model = shape(width=2304, depth=40, heads=36, ffn=5760, vocab=122_753, experts=8)
    assert count(model).params == 13_590_468_864
    assert active_params(model) == 4_035_320_064


@pytest.mark.parametrize("changes", SIZES)
@pytest.mark.parametrize("context", [32, 64])
def test_flops_are_what_torch_counts(changes: dict[str, Any], context: int) -> None:
    """Of one window of at most 64 tokens the blocked attention computes the full square, context
    keys a query, where the exact causal count is (context + 1) / 2: the difference is put right
    here, everything else is torch's count.
    """
    model = shape(**changes)
    tokens = torch.randint(300, (2, context))
    with FlopCounterMode(display=False, custom_mapping=GROUPED) as counter:
        Decoder(model, context).losses(tokens, tokens).sum().backward()
    attention = (
        3 * 2 * 2 * model.depth * model.heads * model.head_size
    )  # a key that a query looks at
    computed, causal = attention * context, attention * (context + 1) / 2
    counted = counter.get_total_flops() / tokens.numel()
    assert flops_per_token(model, context) == pytest.approx(counted - computed + causal, rel=1e-12)
