"""What a shape holds and costs: parameters by every count, and the exact FLOPs of a token."""

from dataclasses import dataclass

from windtunnel.recipe import Model


@dataclass(frozen=True)
class Counts:
    """Parameters of one model. `params` is the paper's N (without embeddings), which its tables
    quote.
    """

    params: int
    params_with_head: int
    params_total: int


def tensor_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Every parameter by name, matrices as (out, in), those of experts as (experts, out, in). The
    one list that init, counts, checkpoints and export share.
    """
    d, q, kv = model.width, model.heads * model.head_size, model.kv_heads * model.head_size
    experts = (model.experts,) if model.experts else ()
    layer = {
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
    shapes: dict[str, tuple[int, ...]] = {"embedding": (model.vocab, d)}
    shapes |= {
        f"layers.{i}.{name}": shape for i in range(model.depth) for name, shape in layer.items()
    }
    shapes["norm"] = (d,)
    if not model.tied:
        shapes["head"] = (model.vocab, d)
    return shapes


def count(model: Model) -> Counts:
    """Exact counts. A tied head is the embedding: counted once in the total, and as a head in
    `params_with_head`.
    """
    sizes = {name: _product(shape) for name, shape in tensor_shapes(model).items()}
    table = model.vocab * model.width
    params = sum(sizes.values()) - table * (1 if model.tied else 2)
    return Counts(params, params + table, sum(sizes.values()))


def active_params(model: Model) -> int:
    """Of `Counts.params` those that one token goes through, fewer where there are experts."""
    idle = sum(_product(shape) - _active(model, shape) for shape in tensor_shapes(model).values())
    return count(model).params - idle


def flops_per_token(model: Model, context: int) -> int:
    """Training FLOPs a token, forward and backward: every matrix product, head included; a
    multiply-add is 2.

    Attention is causal: a query sees (context + 1) / 2 keys on average, for the scores and again
    for the values. Of experts those count that a token goes through. The backward pass takes
    twice the forward. Look-ups, norms, softmax and the optimiser are not counted.
    """
    matrices = sum(
        _active(model, shape) for shape in tensor_shapes(model).values() if len(shape) >= 2
    )
    matrices += (
        model.vocab * model.width * ((1 if model.tied else 0) - 1)
    )  # the look-up is free, a tied head is not
    attention = model.depth * model.heads * model.head_size * (context + 1)
    return 3 * (2 * matrices + 2 * attention)


def _active(model: Model, shape: tuple[int, ...]) -> int:
    """The numbers of a tensor that one token meets."""
    return (
        _product(shape) * model.experts_per_token // model.experts
        if len(shape) == 3
        else _product(shape)
    )


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
