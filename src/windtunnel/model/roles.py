"""The role of each tensor, and what the recipe's parametrization makes of it.

The rules themselves are one table of records, `recipe/parametrization.py`.
"""

from windtunnel.recipe import (
    PARAMETRIZATIONS,
    Model,
    Multipliers,
    OptimizerKind,
    Role,
    Rule,
    Update,
)

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


def role_of(tensor: str) -> Role:
    """The role of a parameter by its name, such as `layers.3.query`."""
    return ROLE_OF[_leaf(tensor)]


def update_of(kind: OptimizerKind, tensor: str) -> Update:
    """How an optimiser changes a parameter, by its name, such as `layers.3.query`."""
    return kind.update_of(_leaf(tensor), role_of(tensor))


def rules(model: Model) -> dict[Role, Rule]:
    """The rule of every role for this shape and parametrization."""
    return PARAMETRIZATIONS[model.parametrization].rules(model)


def multipliers(model: Model) -> Multipliers:
    """The constants of the forward pass for this shape and parametrization."""
    return PARAMETRIZATIONS[model.parametrization].multipliers(model)


def _leaf(tensor: str) -> str:
    """`query` of `layers.3.query`: its name in every layer."""
    return tensor.rsplit(".", 1)[-1]
