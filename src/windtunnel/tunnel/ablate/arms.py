"""The ways to decay that an ablation compares. To add a way in which arms may differ, add its
record to `WAYS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from windtunnel.choices import Table
from windtunnel.recipe import DECAY_SHAPES, Mixture

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.tunnel.ablate.design import Design

_LENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4)  # shares of a run that decay


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to decay."""

    name: str
    decay: float  # share of the run
    shape: str = "linear"
    mixture: Mixture | None = None  # None: the stem's

    @property
    def floor(self) -> float:
        """Share of the peak rate at its end."""
        return DECAY_SHAPES[self.shape].floor

    def decay_tokens(self, design: "Design") -> int:
        """Tokens of its decay, in whole steps."""
        return max(design.batch, design.whole_steps(round(self.decay * design.tokens)))

    def leaves_at(self, design: "Design") -> int:
        """Tokens at which it leaves its stem."""
        return design.whole_steps(design.tokens) - self.decay_tokens(design)


@dataclass(frozen=True)
class Way:
    """What arms may differ in."""

    name: str
    help: str
    arms: "Callable[[Design, Corpus], list[Arm]]"
    """The base arm, and those that differ from it in this one way."""


def arms_of(design: "Design", corpus: "Corpus") -> list[Arm]:
    """The arms of a design, the base arm first."""
    return WAYS[design.arms].arms(design, corpus)


def base_arm(design: "Design") -> Arm:
    """That of the natural mixture."""
    return Arm(name="natural", decay=design.decay, shape=design.shape)


def natural_mixture(corpus: "Corpus") -> dict[str, float]:
    """Each source's share of the training tokens."""
    sizes = {name: source.train.tokens for name, source in corpus.sources.items()}
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


def upweighted(natural: dict[str, float], source: str, share: float) -> dict[str, float]:
    """`share` more of one source, the rest as it was: the natural mixture takes 1 - `share` of
    the decay.
    """
    mixture = {name: (1 - share) * weight for name, weight in natural.items()}
    mixture[source] += share
    return mixture


def _mixtures(design: "Design", corpus: "Corpus") -> list[Arm]:
    """One arm a source, which gets more of the decay; the others share what is left by their
    sizes.
    """
    base = base_arm(design)
    natural = natural_mixture(corpus)
    arms = [base]
    for source in natural:
        mixture = upweighted(natural, source, design.share)
        arms.append(replace(base, name=source, mixture=mixture))
    return arms


def _shapes(design: "Design", corpus: "Corpus") -> list[Arm]:
    others = [shape for shape in DECAY_SHAPES if shape != design.shape]
    names = [design.shape, *others]
    return [Arm(name=name, decay=design.decay, shape=name) for name in names]


def _lengths(design: "Design", corpus: "Corpus") -> list[Arm]:
    others = [length for length in _LENGTHS if not math.isclose(length, design.decay)]
    lengths = [design.decay, *others]
    return [Arm(name=f"{length:.0%}", decay=length, shape=design.shape) for length in lengths]


WAYS = Table(
    "way in which arms differ",
    [
        Way("mixture", "one source more than in the text as it is, a source an arm", _mixtures),
        Way("shape", "every decay shape", _shapes),
        Way("length", "decays of 5 to 40% of the run", _lengths),
    ],
)
