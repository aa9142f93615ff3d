"""What the scaling study measures."""

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.recipe import DECAY_SHAPES, PAPER_DECAY
from windtunnel.tunnel.design import (
    AMOUNT,
    FRACTION,
    SHARE,
    SIZE,
    SIZES,
    SWITCH,
    TOKENS,
    TOKENS_OR_ZERO,
    Size,
    option,
    whole,
    word,
)

# What a law needs of its table; a smaller study gets no verdict.
FEWEST_SIZES = 5
SMALLEST_SPAN = 16  # all parameters of the largest size over those of the smallest
FEWEST_STEPS = 400  # of the shortest branch
_MOST_SEEDS = 10  # for a digit in the seed of a stem
HIGHEST_COST = 0.4  # of the FLOPs of a run from scratch for each point


@dataclass(frozen=True, kw_only=True)
class Design:
    """One stem a size, and branches that leave it at lengths evenly spaced in the logarithm.

    By default the audit run is 4.5 times larger than the largest size and twice as long, and
    takes nine or ten minutes of one core.
    """

    sizes: tuple[Size, ...] = option(
        (Size(16, 2), Size(32, 2), Size(48, 3), Size(64, 4), Size(96, 4)),
        "Width x depth of each model in the fit, such as 64x4, separated by commas. The largest "
        "should be as deep as the model that you will plan: a law knows of sizes alone. A verdict "
        f"needs at least {FEWEST_SIZES} sizes that span a factor of {SMALLEST_SPAN} in parameters.",
        SIZES,
    )
    shortest: int = option(
        240_000,
        f"Length of the shortest branch in tokens. A verdict needs at least {FEWEST_STEPS} steps.",
        TOKENS,
    )
    longest: int = option(1_920_000, "Length of the longest branch in tokens.", TOKENS)
    points: int = option(
        7,
        "Number of lengths, evenly spaced in the logarithm from the shortest to the longest.",
        whole(2),
    )
    further: int = option(
        0,
        "Number of lengths beyond the longest, with the same spacing, that the smallest size is "
        "measured at. Sizes between have fewer, and the largest none: small models show cheaply "
        "where the loss of a long run goes.",
        whole(0),
    )
    decay: float = option(
        PAPER_DECAY.share, "Share of each length over which the rate decays.", SHARE
    )
    shape: str = option(
        PAPER_DECAY.shape, "Shape of the decay: {words}.", word(lambda: DECAY_SHAPES)
    )
    floor: float = option(
        PAPER_DECAY.floor, "Share of the peak rate that is left when the decay ends.", FRACTION
    )
    batch: int = option(
        0,
        "Batch of all runs, in tokens per step. With 0 it grows during training, by the law of the "
        "lab's batch study, or else of its transfer study, or as measured at laptop scale.",
        TOKENS_OR_ZERO,
    )
    lr: float = option(
        0.0,
        "Base learning rate of all runs. With 0 it goes with size, length and batch: by the law of "
        "the lab's transfer study, or where it has none as measured at laptop scale.",
        AMOUNT,
    )
    seeds: int = option(
        2,
        "Number of seeds of the smallest sizes, which measure the noise. The others have one.",
        whole(1),
    )
    repeated: int = option(
        2, "How many of the smallest sizes are trained with all seeds.", whole(0)
    )
    audit: bool = option(
        True,
        "Also train a larger and longer run that is in no fit, to test the law on.",
        SWITCH,
        flag="--audit/--no-audit",
    )
    audit_size: Size = option(
        Size(256, 3),
        "Width x depth of the audit run. It should have at least 4 times the parameters of the "
        "largest size in the fit.",
        SIZE,
    )
    audit_tokens: int = option(
        3_840_000,
        "Length of the audit run in tokens. It should be at least twice the longest branch.",
        TOKENS,
    )

    def __post_init__(self) -> None:
        if len(set(self.sizes)) < len(self.sizes):
            raise InputError(f"--sizes {','.join(map(str, self.sizes))}: expected different sizes")
        if self.seeds > _MOST_SEEDS:
            raise InputError(f"--seeds {self.seeds}: expected at most {_MOST_SEEDS}")

    @property
    def stems(self) -> list[tuple[Size, int]]:
        """(size, seed) of each stem, the smallest sizes first. Every stem has a seed of its own,
        since what runs of one order of the text have in common at a length would bend the law.
        """
        found = []
        for index, size in enumerate(self._by_size):
            seeds = self.seeds if index < self.repeated else 1
            found += [(size, _seed(size, number)) for number in range(seeds)]
        return found

    def points_of(self, size: Size) -> int:
        """How many lengths a size is measured at, from the shortest."""
        below = self._by_size.index(size)
        steps = max(1, len(self.sizes) - 1)
        return self.points + round(self.further * (steps - below) / steps)

    @property
    def _by_size(self) -> list[Size]:
        return sorted(self.sizes, key=lambda size: size.width**2 * size.depth)


def _seed(size: Size, number: int) -> int:
    """Made of the size, so that it stays as it is when sizes are added: 48040 for 48x4's first."""
    return 1000 * size.width + 10 * size.depth + number
