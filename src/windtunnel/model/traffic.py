"""What a step sends where a model is cut over several processes, counted as `fully_shard` works
layer by layer. By paper: nothing here was measured, and nothing needs torch.
"""

from dataclasses import dataclass

from windtunnel.model.memory import inside_and_outside, product_bytes
from windtunnel.recipe import Model

_WHOLE = 4  # bytes of a number in fp32


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one step."""

    within: int
    """That each rank receives of the others on its machine."""
    between: int
    """That each machine receives of all others."""


def traffic(
    model: Model, parts: int, ranks: int, machines: int = 1, precision: str = "bf16"
) -> Traffic:
    """Of a step in `parts` parts a rank, on `machines` of `ranks` ranks each. Every machine has the
    whole model: what a part needs is gathered, and its gradient scattered, within the machine;
    between machines the gradients are summed once a step.
    """
    layer, outside = inside_and_outside(model)
    # a sum over all is scattered and gathered
    summed = 2 * _WHOLE * (model.depth * layer + outside)
    return Traffic(
        within=round(parts * _of_a_part(model, precision) * (ranks - 1) / ranks),
        between=round(summed * (machines - 1) / machines),
    )


def _of_a_part(model: Model, precision: str) -> int:
    """A layer is gathered twice and its gradient scattered once, in fp32; what is outside of the
    layers is gathered once, in fp32.
    """
    layer, outside = inside_and_outside(model)
    gathered = 2 * model.depth * layer * product_bytes(precision) + outside * _WHOLE
    return gathered + _WHOLE * (model.depth * layer + outside)
