"""What the decay ablation measures."""

from dataclasses import dataclass
from typing import Any

from windtunnel.choices import Table
from windtunnel.recipe import DECAY_SHAPES
from windtunnel.tunnel.design import NUMBER, SHARE, TOKENS, option, whole, word


def _ways() -> Table[Any]:
    from windtunnel.tunnel.ablate.arms import WAYS

    return WAYS


@dataclass(frozen=True, kw_only=True)
class Design:
    """One stem a seed, which all its arms leave; every arm ends at the same token."""

    arms: str = option("mixture", "What differs from one decay to the next: {words}.", word(_ways))
    share: float = option(
        0.5,
        "With --arms mixture: share of the decay that each mixture gives to one source alone. The "
        "rest follows the natural mixture.",
        SHARE,
    )
    width: int = option(64, "Width of the model.", whole(16))
    depth: int = option(4, "Depth of the model.", whole())
    tokens: int = option(2_560_000, "Length of every arm in tokens, its decay included.", TOKENS)
    decay: float = option(0.2, "Share of --tokens over which the rate decays.", SHARE)
    shape: str = option("linear", "Shape of the decay: {words}.", word(lambda: DECAY_SHAPES))
    batch: int = option(2048, "Batch, in tokens per step.", TOKENS)
    lr: float = option(0.01, "Base learning rate.", NUMBER)
    seeds: int = option(
        2, "Number of stems, each with its own seed. Intervals need at least two.", whole()
    )

    def whole_steps(self, tokens: int) -> int:
        """The tokens of the whole steps in them."""
        return tokens - tokens % self.batch
