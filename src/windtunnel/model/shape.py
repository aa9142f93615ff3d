"""What a shape holds and costs: parameters by every count, and the exact FLOPs of a token."""

import math
from dataclasses import dataclass

from windtunnel.recipe import Model


@dataclass(frozen=True)
class Counts:
    """Parameters of one model."""

    params: int
    """Without embedding and head: the paper's N, which its tables quote."""
    params_with_head: int
    """The same with the head."""
    params_total: int
    """All of them."""


def tensor_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name, matrices as (out, in), those of experts as (experts,
    out, in). This is the one list that init, counts, checkpoints and export share.
    """
    shapes: dict[str, tuple[int, ...]] = {"embedding": (model.vocab, model.width)}
    layer = _layer_shapes(model)
    for index in range(model.depth):
        for name, shape in layer.items():
            shapes[f"layers.{index}.{name}"] = shape
    shapes["norm"] = (model.width,)
    if not model.tied:
        shapes["head"] = (model.vocab, model.width)
    return shapes


def count(model: Model) -> Counts:
    """Exact counts. A tied head is the embedding: counted once in the total, and as a head in
    `params_with_head`.
    """
    total = sum(math.prod(shape) for shape in tensor_shapes(model).values())
    table = model.vocab * model.width
    params = total - table * (1 if model.tied else 2)
    return Counts(params, params + table, total)


def active_params(model: Model) -> int:
    """Of `Counts.params` those that one token goes through, fewer where there are experts."""
    shapes = tensor_shapes(model).values()
    idle = sum(math.prod(shape) - _active(model, shape) for shape in shapes)
    return count(model).params - idle


def flops_per_token(model: Model, context: int) -> int:
    """FLOPs of training on one token, forward and backward, in windows of `context` tokens: every
    matrix product, that of the head too; a multiplication and an addition are 2.

    Attention is causal: a query sees (context + 1) / 2 keys on average, for the scores and again
    for the values. Of experts those count that a token goes through. The backward pass takes
    twice the forward. Look-ups, norms, softmax and the optimiser are not counted.
    """
    shapes = tensor_shapes(model).values()
    matrices = sum(_active(model, shape) for shape in shapes if len(shape) >= 2)
    if not model.tied:
        matrices -= model.vocab * model.width  # the embedding is looked up; a tied one is the head
    # scores and values: 2 products of (context + 1) / 2 keys, each heads * head_size numbers wide
    attention = model.depth * model.heads * model.head_size * (context + 1)
    # backward: the derivatives by the inputs and by the weights, each a product like the forward
    return 3 * (2 * matrices + 2 * attention)


def _layer_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    d, q, kv = model.width, model.heads * model.head_size, model.kv_heads * model.head_size
    experts = (model.experts,) if model.experts else ()
    return {
        "attention_norm": (d,),
        "query": (q, d),
        "key": (kv, d),
        "value": (kv, d),
        "output": (d, q),
        "ffn_norm": (d,),
        **({"router": (model.experts, d)} if experts else {}),
        "gate": (*experts, model.ffn, d),
        "up": (*experts, model.ffn, d),
        "down": (*experts, d, model.ffn),
    }


def _active(model: Model, shape: tuple[int, ...]) -> int:
    """How many numbers of a tensor one token meets."""
    if len(shape) == 3:  # of experts
        return math.prod(shape) * model.experts_per_token // model.experts
    return math.prod(shape)
