"""What the decay-stage study measures."""

from dataclasses import dataclass

from windtunnel.quantities import Length
from windtunnel.recipe import DECAY_SHAPES
from windtunnel.tunnel.design import FRACTION, LENGTH, TOKENS, option, whole, word


@dataclass(frozen=True, kw_only=True)
class Design:
    """One run, stable then decay."""

    width: int = option(64, "Width of the model.", whole(16))
    depth: int = option(3, "Depth of the model.", whole())
    tokens: int = option(1_500_000, "Length of the run in tokens, its decay included.", TOKENS)
    decay: Length = option(
        Length(share=0.25), "Length of the decay: tokens, or a share of --tokens.", LENGTH
    )
    shape: str = option("exponential", "Shape of the decay: {words}.", word(lambda: DECAY_SHAPES))
    floor: float = option(0.1, "Share of the peak rate that is left when the decay ends.", FRACTION)
    batch: int = option(
        2048, "Batch, in tokens per step. A larger one shows gradients with less noise.", TOKENS
    )
    seed: int = option(0, "Seed of the run.", whole(0))
