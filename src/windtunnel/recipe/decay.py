"""Decay shapes: how the rate falls once the stable phase is over (paper Eq. 1 and section 4.2).

To add one, add its record to `DECAY_SHAPES`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from windtunnel.choices import Table


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A moment of a decay."""

    begun: float
    """Tokens since it began."""
    length: int
    """Its tokens, from the first to the last."""
    floor: float
    """Share of the peak rate at which it ends."""
    half_life: float
    """Tokens in which an exponential decay halves the rate (the paper's T); 0: not given."""


@dataclass(frozen=True)
class DecayShape:
    """One way to fall."""

    name: str
    help: str
    share: Callable[[Decay], float]
    """The share of the peak rate at a moment: from 1 down to the floor."""
    floor: float = 0.0
    """Where it ends if nobody says otherwise; above 0 for a shape that never comes to zero."""


def to_the_floor(remaining: Callable[[float], float]) -> Callable[[Decay], float]:
    """The share of a shape that falls from 1 to 0 as the done part of the decay goes from 0 to 1,
    squeezed in between the peak and the floor.
    """

    def share(at: Decay) -> float:
        done = min(1.0, at.begun / at.length)
        return at.floor + (1 - at.floor) * remaining(done)

    return share


def _halving(at: Decay) -> float:
    """0.5^(tokens / T), the paper's. Without a half-life T is what ends the decay at its floor."""
    half_life = at.half_life or at.length / math.log2(1 / at.floor)
    return max(at.floor, 0.5 ** (at.begun / half_life))


DECAY_SHAPES = Table(
    "decay shape",
    [
        DecayShape(
            "exponential",
            "halves every half-life; without one, a straight line of logarithms to the floor",
            _halving,
            floor=0.1,
        ),
        DecayShape("linear", "a straight line to the floor", to_the_floor(lambda done: 1 - done)),
        DecayShape(
            "cosine",
            "half a cosine: slow at both ends",
            to_the_floor(lambda done: (1 + math.cos(math.pi * done)) / 2),
        ),
        DecayShape(
            "1-sqrt",
            "one minus the root of the done part: fast at first, slow at the end",
            to_the_floor(lambda done: 1 - math.sqrt(done)),
        ),
        DecayShape(
            "sqrt",
            "the root of the remaining part: slow at first, fast at the end",
            to_the_floor(lambda done: math.sqrt(1 - done)),
        ),
    ],
)

DecayShapeName = Annotated[str, DECAY_SHAPES]


@dataclass(frozen=True, kw_only=True)
class BranchDecay:
    """How branches of a stem decay."""

    share: float
    """Of the branch's length."""
    shape: str
    """One of `DECAY_SHAPES`."""
    floor: float
    """Share of the peak rate at which it ends."""


# Where nobody says otherwise: the paper's (section 4).
PAPER_DECAY = BranchDecay(share=0.1, shape="exponential", floor=0.1)
