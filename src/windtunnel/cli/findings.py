"""What more than one command says of a finding."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windtunnel.results.batch import BestBatch
    from windtunnel.results.plan import WeighedLaw
    from windtunnel.results.scaling import FormFound

_TOLD = 0.005  # of the prediction: laws that weigh less are not listed


def forms_in_words(laws: "Sequence[WeighedLaw | FormFound]") -> str:
    """What share of the prediction each form has, whichever count of parameters it takes."""
    weights: dict[str, float] = {}
    for law in laws:
        weights[law.form] = weights.get(law.form, 0) + law.weight
    told = [(weight, form) for form, weight in weights.items() if weight >= _TOLD]
    return ", ".join(f"{form} {weight:.0%}" for weight, form in sorted(told, reverse=True))


def best_batch(level: "BestBatch", batches: Sequence[int]) -> str:
    """A best batch and its interval in columns, or on which side of the sampled ones it lies."""
    if level.batch is None or level.interval is None:
        outside = f"below {min(batches)}" if level.where == "below" else f"above {max(batches)}"
        return f"{outside:>10}  left out of the laws: not sampled there"
    low, high = level.interval
    return f"{level.batch:10.0f}  {low:.0f} to {high:.0f}"
