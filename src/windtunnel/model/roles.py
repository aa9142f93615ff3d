"""The one table: for each parametrization, what each role's init, learning rate, weight decay and
Adam eps are, and the forward multipliers. Init, optimiser, forward pass, export and the
coordinate check read this and nothing else.

With m = width / base_width, L = depth, mL = depth / base_depth, and lr, std, eps those of the
recipe:

| role                 | minicpm (paper Table 7) | completep (2505.01618, alpha = 1) | standard        |
|----------------------|-------------------------|-----------------------------------|-----------------|
| matrix: std / lr     | std/sqrt(m), lr/m       | std/sqrt(m), lr/m                 | std/sqrt(m), lr |
| matrix: eps          | eps                     | eps / (m mL)                      | eps             |
| head: std / lr       | std/sqrt(m), lr/m       | std, lr                           | std/sqrt(m), lr |
| embedding: std / lr  | std, lr (or as matrix)  | std, lr                           | std, lr         |
| gain: init / lr      | 1, lr                   | 1, lr                             | 1, lr           |
| embedding output     | x scale_emb             | x scale_emb                       | x 1             |
| residual branch      | x scale_depth/sqrt(L)   | x scale_depth/(sqrt(base_depth) mL) | x 1           |
| logits               | x 1/m                   | x 1/m                             | x 1             |

A tied head is the embedding and has its rule. A router is a matrix, and so is each expert's part
of a tensor. Attention keeps 1/sqrt(head_size): the head size does not grow with the width. Weight
decay is independent of the rate, so no role needs a multiplier: matrices decay, gains do not;
embeddings do as the paper's "2-D tensors" would under AdamW.
"""

import math
from dataclasses import dataclass
from typing import Literal

from windtunnel.recipe import Model

Role = Literal["embedding", "head", "matrix", "gain"]

ROLE_OF: dict[str, Role] = {
    "embedding": "embedding",
    "head": "head",
    "norm": "gain",
    "attention_norm": "gain",
    "query": "matrix",
    "key": "matrix",
    "value": "matrix",
    "output": "matrix",
    "ffn_norm": "gain",
    "router": "matrix",
    "gate": "matrix",
    "up": "matrix",
    "down": "matrix",
}


@dataclass(frozen=True)
class Rule:
    """How tensors of one role are initialised and updated. `mean` and `std` are those of the
    normal init; `lr`, `eps` and `weight_decay` multiply the recipe's.
    """

    mean: float
    std: float
    lr: float
    eps: float
    weight_decay: float


@dataclass(frozen=True)
class Multipliers:
    """Constants of the forward pass."""

    embedding: float
    residual: float
    attention: float
    logits: float


def role_of(tensor: str) -> Role:
    """The role of a parameter by its name, such as `layers.3.query`."""
    return ROLE_OF[tensor.rsplit(".", 1)[-1]]


def rules(model: Model) -> dict[Role, Rule]:
    """The rule of every role for this shape and parametrization."""
    m, m_depth, std = model.width / model.base_width, model.depth / model.base_depth, model.init_std
    gain = Rule(mean=1.0, std=0.0, lr=1.0, eps=1.0, weight_decay=0.0)
    vector = Rule(mean=0.0, std=std, lr=1.0, eps=1.0, weight_decay=1.0)
    matrix = Rule(mean=0.0, std=std / math.sqrt(m), lr=1 / m, eps=1.0, weight_decay=1.0)
    fan_in = Rule(mean=0.0, std=std / math.sqrt(m), lr=1.0, eps=1.0, weight_decay=1.0)
    if model.parametrization == "minicpm":
        embedding = matrix if model.embedding_as == "matrix" else vector
        return {"embedding": embedding, "head": matrix, "matrix": matrix, "gain": gain}
    if model.parametrization == "completep":
        deep = Rule(mean=0.0, std=matrix.std, lr=matrix.lr, eps=1 / (m * m_depth), weight_decay=1.0)
        return {"embedding": vector, "head": vector, "matrix": deep, "gain": gain}
    return {"embedding": vector, "head": fan_in, "matrix": fan_in, "gain": gain}


def multipliers(model: Model) -> Multipliers:
    """The constants of the forward pass for this shape and parametrization."""
    attention = 1 / math.sqrt(model.head_size)
    if model.parametrization == "standard":
        return Multipliers(1.0, 1.0, attention, 1.0)
    if model.parametrization == "minicpm":
        residual = model.scale_depth / math.sqrt(model.depth)
    else:
        residual = model.scale_depth * math.sqrt(model.base_depth) / model.depth
    return Multipliers(model.scale_emb, residual, attention, model.base_width / model.width)
