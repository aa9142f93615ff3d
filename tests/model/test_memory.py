"""What training holds in memory: states exactly, activations as they were traced, and how much
goes through a model at once where the memory is given.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from windtunnel.model.memory import (
    activation_bytes,
    largest_part,
    logits_at_once,
    through_at_once,
    tokens_that_fit,
    training_memory,
)
from windtunnel.model.shape import count
from windtunnel.recipe import OPTIMIZERS, Model, Recipe
from windtunnel.results.run import Engine
from windtunnel.train.device import autocast
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
FP32 = Engine(device="cpu", precision="fp32", compiled=False, micro_batch=128, threads=1)


def shape(width: int, depth: int, heads: int, vocab: int, kv_heads: int = 0) -> Model:
    return Model(width=width, depth=depth, heads=heads, vocab=vocab, kv_heads=kv_heads)


# The paper's 0.1B, 0.5B, 1.2B and 2.4B.
SMALL = shape(768, 16, 12, 122_753)
HALF = shape(1280, 24, 20, 32_768)
GROUPED = shape(1536, 52, 24, 73_440, kv_heads=8)
LARGE = shape(2304, 40, 36, 122_753)


@pytest.mark.parametrize(("model", "traced"), [(HALF, 44.9e3), (GROUPED, 49.7e3), (LARGE, 80.8e3)])
def test_a_layer_keeps_what_inductor_was_traced_to_save(model: Model, traced: float) -> None:
    deeper = model.model_copy(update={"depth": model.depth + 1})
    layer = activation_bytes(deeper, 4096) - activation_bytes(model, 4096)
    assert layer == pytest.approx(traced, rel=2e-3)


def test_the_parts_of_a_small_model_at_32k_tokens() -> None:
    """By the two models of memory before this one, 15.9 and 44.3 GB of activations and logits."""
    memory = training_memory(SMALL, 32_768, context=4096)
    total = count(SMALL).params_total
    table = 8 * SMALL.vocab * SMALL.width  # the head, filled up, and its derivative, in fp32 too
    assert (memory.states, memory.copies) == (16 * total, 2 * total + table)
    assert memory.activations == pytest.approx(14.3e9, rel=0.01)
    assert memory.head == 4 * logits_at_once("cuda")
    assert memory.total == sum(vars(memory).values())


def test_products_in_fp32_keep_more_and_need_no_copies() -> None:
    half, whole = (
        training_memory(HALF, 4096, context=4096, precision=name) for name in ("bf16", "fp32")
    )
    assert whole.copies == 0
    assert 1.5 < whole.activations / half.activations < 2


def test_layers_that_are_computed_again_keep_what_enters_them() -> None:
    kept, again = activation_bytes(LARGE, 4096), activation_bytes(LARGE, 4096, recompute=True)
    deeper = LARGE.model_copy(update={"depth": LARGE.depth + 1})
    layer = activation_bytes(deeper, 4096) - kept
    entering = 4 * LARGE.width
    assert kept - again == (LARGE.depth - 1) * layer - LARGE.depth * entering


def test_members_and_an_optimiser_with_less_state_are_counted() -> None:
    alone = training_memory(HALF, 256, context=256)
    four = training_memory(HALF, 256, context=256, members=4)
    assert four.states == 4 * alone.states
    assert four.activations == 4 * alone.activations
    lean, numbers = training_memory(HALF, 256, context=256, optimizer="muon"), count(HALF)
    hidden = numbers.params - (2 * HALF.depth + 1) * HALF.width  # all but the gains
    assert lean.states == 16 * numbers.params_total - 4 * hidden


@pytest.mark.parametrize("members", [1, 4])
def test_what_fits_is_within_the_memory_and_one_window_more_is_not(members: int) -> None:
    room = 80e9
    tokens = tokens_that_fit(HALF, room, context=256, members=members)
    held = training_memory(HALF, tokens, context=256, members=members).total
    assert 0.79 * room < held <= 0.8 * room
    assert training_memory(HALF, tokens + 256, context=256, members=members).total > 0.8 * room


def test_room_shrinks_with_members_and_ends_where_the_weights_do_not_fit(recipe: Make) -> None:
    model = recipe().model
    rooms = [
        tokens_that_fit(model, 4 * 2**30, context=32, members=members) for members in (1, 2, 4, 8)
    ]
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[0] > 2 * rooms[1] > 0
    assert tokens_that_fit(model, 2**20, context=32) == 0


@pytest.mark.parametrize(
    ("batch", "context", "most", "part"),
    [(8192, 256, 1e9, 8192), (8192, 256, 4096, 4096), (768, 256, 512, 256), (512, 256, 100, 256)],
)
def test_a_part_is_a_whole_share_of_the_batch(
    batch: int, context: int, most: float, part: int
) -> None:
    assert largest_part(batch, context, most) == part


def test_what_a_layer_keeps_is_about_what_is_estimated(recipe: Make) -> None:
    """Counted by autograd's own hooks in an eager bf16 pass, but for what attention keeps inside:
    a GPU's fused kernel does not. Eager keeps more than the compiled layers that the estimate is
    for.
    """
    deep = recipe(
        model=recipe().model.model_dump() | {"width": 64, "depth": 4, "head_size": 32, "ffn": 160}
    )
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 2 and tensor.shape[0] == 256:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    step = Step([deep], FP32.model_copy(update={"precision": "bf16", "micro_batch": 256}))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 320, (8, 33)))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        autocast(step.engine.device, step.engine.precision),
    ):
        step.model.losses(tokens[:, :-1], tokens[:, 1:])
    assert 0.5 < activation_bytes(deep.model, 32) * 256 / sum(kept.values()) < 2


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_estimate_of_the_state_covers_what_the_optimiser_holds(recipe: Make, kind: str) -> None:
    step = Step([recipe(optimizer={"kind": kind})], FP32)
    moments = sum(tensor.nbytes for tensor in step.optimizer.state().values())
    values_and_gradients = sum(2 * parameter.nbytes for parameter in step.model.parameters())
    assert (
        moments + values_and_gradients
        == training_memory(recipe().model, 0, context=32, optimizer=kind).states
    )


def test_layers_are_computed_again_only_for_a_part_that_does_not_fit() -> None:
    at_ease = through_at_once(HALF, 128, 32, device="cpu", asked=4096)
    assert at_ease == (4096, False), "nothing bounds it, not even the batch"
    memory = training_memory(HALF, 5000, context=1024).total / 0.8
    fit = tokens_that_fit(HALF, memory, context=1024)
    assert 1024 < fit < 8192
    asked = through_at_once(HALF, 8192, 1024, device="cuda", memory=memory, asked=8192)
    chosen, again = through_at_once(HALF, 8192, 1024, device="cuda", memory=memory)
    assert asked == (8192, True) and chosen <= fit and not again


# Of one layer, bytes a token, as torch's partitioner saved them (aot_autograd, bf16 on a CPU),
# without the copies of the weights, which count by themselves.
@pytest.mark.parametrize(
    ("width", "heads", "kv_heads", "context", "precision", "traced"),
    [
        (64, 2, 2, 256, "bf16", 3152),
        (256, 4, 4, 512, "bf16", 14_360),
        (256, 4, 2, 512, "bf16", 12_056),
        (512, 8, 8, 256, "bf16", 22_568),
        (256, 4, 4, 512, "fp32", 27_672),
        (256, 4, 4, 160, "bf16", 10_571),
    ],
)
def test_attention_that_is_written_out_keeps_what_each_block_sees(
    width: int, heads: int, kv_heads: int, context: int, precision: str, traced: float
) -> None:
    model = shape(width, 2, heads, 2048, kv_heads)
    one, two = (
        activation_bytes(model.model_copy(update={"depth": depth}), context, "cpu", precision)
        for depth in (1, 2)
    )
    assert two - one == pytest.approx(traced, rel=1e-3)
