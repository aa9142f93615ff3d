"""What training a model holds in memory, by part: the one estimate behind the engine's choice of
how much goes through the model at once and behind a plan's bytes. It needs no torch.

The parts are counted as the code holds them. States are exact. What a layer keeps for its
backward pass is what a compiled layer was traced to save: on a GPU 44.9, 49.7 and 80.8 kB a token
and layer for the paper's 0.5B, 1.2B and 2.4B, which the sum below gives to a part in a thousand; on
a CPU, where attention is written out, 14.4 kB at 256 wide with windows of 512 tokens.
"""

import math
from dataclasses import dataclass

from windtunnel.model.attention_blocks import KEPT, blocks
from windtunnel.model.roles import update_of
from windtunnel.model.shape import count, tensor_shapes
from windtunnel.recipe import OPTIMIZERS, PRECISIONS, Model

# Logits that exist at once, by kind of device. Above this the loss makes them chunk by chunk, and
# again in the backward pass. Every chunk passes over the whole derivative of the head in fp32, so a
# GPU takes large ones.
_LOGITS = {"cpu": 2**25, "mps": 2**25, "cuda": 2**28}
# Tokens through one model at once, by kind of device: more fill it no better. And through all
# members of a population together.
_AT_ONCE = {"cpu": 8192, "mps": 8192, "cuda": 32_768}
_TOGETHER = {"cpu": 8192, "mps": 8192, "cuda": 262_144}

_WHOLE = 4  # bytes of a number in fp32
_HALF = 2  # and in bf16
_OF_MEMORY = 0.8  # of a device's, for all parts; the rest is the allocator's and the kernels'
# Of a model that is cut over ranks: gathered at once.
_LAYERS_AT_ONCE = 2
# Of a logit, numbers that a product gives or takes: itself, and its derivative. Exponentials are
# made within one pass over them.
_PER_LOGIT = 2

# What people are told where one window is too much for a device.
SPLIT = (
    "a window would have to be split over devices (context parallelism), which windtunnel does not "
    "do"
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that training holds at its peak, where the backward pass begins, of all members
    together.
    """

    states: int
    """Values, gradients and the optimiser's state, in fp32."""
    copies: int
    """Values and gradients in 16 bits, which products take and give. On one GPU gradients are added
    as they come: the head's alone is counted. Elsewhere all are, which leaves room for it."""
    activations: int
    """What the layers keep for their backward pass."""
    head: int
    """The logits that exist at once."""

    @property
    def total(self) -> int:
        """All parts together."""
        return self.states + self.copies + self.activations + self.head


def logits_at_once(device: str) -> int:
    """Logits that exist at once on this kind of device, of all members together."""
    return _LOGITS[device]


def training_memory(
    model: Model,
    tokens: int,
    *,
    context: int,
    device: str = "cuda",
    members: int = 1,
    optimizer: str = "adamw",
    precision: str = "bf16",
    recompute: bool = False,
    ranks: int = 1,
) -> Memory:
    """What training with `tokens` of each member through the model at once holds.

    `context`: tokens of a window. `device`: its kind, such as "cuda". `optimizer`: the recipe's
    `optimizer.kind`. `precision`: of products, one of `PRECISIONS`. `recompute`: layers keep only
    what enters them, and are computed again in the backward pass. `ranks`: processes over which the
    model is cut; what one of them holds.
    """
    params = members * count(model).params_total
    logits = min(members * tokens * model.vocab, logits_at_once(device))
    each = activation_bytes(model, context, device, precision, recompute)
    return Memory(
        states=-(-(2 * _WHOLE * params + members * optimizer_bytes(model, optimizer)) // ranks),
        copies=_copies(params, members * model.vocab * model.width, device, precision)
        if ranks == 1
        else _gathered(model, precision),
        activations=members * tokens * each,
        head=logits * _PER_LOGIT * product_bytes(precision),
    )


def _copies(params: int, table: int, device: str, precision: str) -> int:
    """Of so many parameters, `table` of them the head's."""
    if not PRECISIONS[precision].half:
        return 0
    if device != "cuda":
        return 2 * _HALF * params
    # of the head: its rows filled up to whole blocks, and its derivative, summed in fp32, then cast
    return _HALF * params + (2 * _HALF + _WHOLE) * table


def _gathered(model: Model, precision: str) -> int:
    """Of a model that is cut over ranks, what each has whole for a moment, with its gradient: what
    is outside of the layers, in fp32, and two layers, the one under way and the next.
    """
    layer, outside = inside_and_outside(model)
    layers = min(model.depth, _LAYERS_AT_ONCE) * layer
    return 2 * _WHOLE * outside + 2 * product_bytes(precision) * layers


def inside_and_outside(model: Model) -> tuple[int, int]:
    """Parameters of one layer, and of all that is outside of the layers."""
    layers = outside = 0
    for name, shape in tensor_shapes(model).items():
        if name.startswith("layers."):
            layers += math.prod(shape)
        else:
            outside += math.prod(shape)
    return layers // model.depth, outside


def optimizer_bytes(model: Model, optimizer: str) -> int:
    """Bytes of what the optimiser remembers of one model: of each parameter AdamW two numbers in
    fp32, Muon one. Raises InputError for an unknown optimiser.
    """
    kind, numbers = OPTIMIZERS[optimizer], 0
    for name, shape in tensor_shapes(model).items():
        numbers += len(update_of(kind, name).state) * math.prod(shape)
    return _WHOLE * numbers


def tokens_that_fit(
    model: Model,
    memory: float,
    *,
    context: int,
    device: str = "cuda",
    members: int = 1,
    optimizer: str = "adamw",
    precision: str = "bf16",
    ranks: int = 1,
) -> int:
    """Tokens of each member whose activations fit a device of `memory` bytes beside everything
    else, without computing layers again; 0 where not even the rest fits.
    """
    fixed = training_memory(
        model,
        0,
        context=context,
        device=device,
        members=members,
        optimizer=optimizer,
        precision=precision,
        ranks=ranks,
    )
    head = logits_at_once(device) * _PER_LOGIT * product_bytes(precision)
    left = room_of(memory) - fixed.total - head
    return max(0, int(left / (members * activation_bytes(model, context, device, precision))))


def room_of(memory: float) -> float:
    """Bytes of a device that all parts together may fill."""
    return _OF_MEMORY * memory


def devices_that_hold(
    model: Model,
    memory: float,
    *,
    context: int,
    device: str = "cuda",
    optimizer: str = "adamw",
    precision: str = "bf16",
) -> int | None:
    """The fewest devices of `memory` bytes each that hold training, the model cut over them, with
    one window through it at once and layers computed again; None where a window leaves no room,
    however many there are.
    """

    def held(ranks: int) -> Memory:
        return training_memory(
            model,
            context,
            context=context,
            device=device,
            optimizer=optimizer,
            precision=precision,
            recompute=True,
            ranks=ranks,
        )

    room = room_of(memory)
    if held(1).total <= room:
        return 1
    two = held(2)
    left = room - (two.total - two.states)  # the rest is as large on any number of devices
    return max(2, math.ceil(held(1).states / left)) if left > 0 else None


def through_at_once(
    model: Model,
    batch: int,
    context: int,
    *,
    device: str,
    memory: float | None = None,
    asked: int = 0,
    members: int = 1,
    optimizer: str = "adamw",
    precision: str = "bf16",
    ranks: int = 1,
) -> tuple[int, bool]:
    """How many tokens of each member's batch go through the model at once, and whether layers must
    then be computed again in the backward pass for want of memory.

    `device`: its kind, such as "cuda". `memory`: its bytes; None where they set no bound. `asked`:
    tokens that the recipe asks for; 0 where the choice is free.
    """
    room = math.inf
    if memory is not None:
        room = tokens_that_fit(
            model,
            memory,
            context=context,
            device=device,
            members=members,
            optimizer=optimizer,
            precision=precision,
            ranks=ranks,
        )
    most = min(_AT_ONCE[device], _TOGETHER[device] // members, room)
    chosen = asked or largest_part(batch, context, most)
    return chosen, chosen > room


def largest_part(batch: int, context: int, most: float) -> int:
    """The largest whole share of a batch that is no more than `most` tokens: what goes through
    the model at once. At least one window of `context` tokens.
    """
    windows = batch // context
    shares = range(1, windows + 1)
    whole = [n for n in shares if windows % n == 0 and n * context <= most]
    return max(whole, default=1) * context


def activation_bytes(
    model: Model,
    context: int,
    device: str = "cuda",
    precision: str = "bf16",
    recompute: bool = False,
) -> int:
    """Bytes a token that the backward pass needs, in windows of `context` tokens. With `recompute`
    a layer keeps what enters it alone, and one layer at a time has everything.
    """
    layer = layer_bytes(model, context, device, precision)
    layers = model.depth * layer
    if recompute:
        layers = model.depth * _WHOLE * model.width + layer
    # the stream behind the last layer, and its norm, which the head takes
    return layers + (_WHOLE + product_bytes(precision)) * model.width


def layer_bytes(model: Model, context: int, device: str, precision: str) -> int:
    """Bytes a token that one layer keeps for its backward pass."""
    product = product_bytes(precision)
    if device == "cpu":
        return _layer_bytes_written_out(model, product, context)
    return _layer_bytes_fused(model, product)


def product_bytes(precision: str) -> int:
    """Bytes of a number that a product takes; in 8 bits, those of what it is made from."""
    return PRECISIONS[precision].bytes


def _layer_bytes_fused(model: Model, product: int) -> int:
    """With a fused kernel of attention; `product`: bytes of a number that a product takes.

    What inductor saves is what products take, and what it can't make again from that by cheap
    elementwise work: so the heads are kept rotated and not as the projections gave them, and of
    the norms their input and one factor a token. What attention keeps inside is a fused kernel's.
    """
    width = model.width
    query, key = model.heads * model.head_size, model.kv_heads * model.head_size
    stream = 2 * _WHOLE * width  # enters attention, enters the feed-forward
    normed = 2 * (product * width + _WHOLE)  # what the products behind the norms take; 1 / rms
    heads = product * (query + 2 * key) + product * query  # query, key, value, and their mixture
    exponentials = _WHOLE * model.heads  # logarithm of each query's sum of exponentials
    return stream + normed + heads + exponentials + _feed_forward_bytes(model, product)


def _layer_bytes_written_out(model: Model, product: int, context: int) -> int:
    """With attention in causal blocks (`attention.causal_attention` on a CPU): each block
    keeps all keys and values that it sees, and the weight of each. Of long windows no weights are
    kept (`attention_long`).
    """
    width = model.width
    query, key = model.heads * model.head_size, model.kv_heads * model.head_size
    # what enters attention; what enters the feed-forward is made again from it and what is added
    stream = _WHOLE * width
    # what the products behind the norms take; what is added to the stream, twice; 1 / rms
    normed = 2 * (product * width + _WHOLE) + product * (width + query)
    if context > KEPT:  # query, key, value, their mixture, and a logarithm a head
        kept = product * (2 * query + 2 * key) + _WHOLE * model.heads
    else:
        seen = sum(keys for _, keys in blocks(context)) / context  # keys kept, for each token
        scores = sum(rows * keys for rows, keys in blocks(context)) / context
        kept = product * (query + 2 * key * seen + model.heads * scores) + _WHOLE * model.heads
    return round(stream + normed + kept + _feed_forward_bytes(model, product))


def _feed_forward_bytes(model: Model, product: int) -> int:
    hidden = 3 * product * model.ffn  # gate, up, and what enters down
    if not model.experts:
        return hidden
    # each chosen expert has rows of its own, in and out; the router a weight an expert
    return model.experts_per_token * (2 * product * model.width + hidden) + _WHOLE * model.experts
