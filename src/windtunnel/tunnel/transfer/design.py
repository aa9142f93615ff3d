"""What the transfer study measures."""

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.recipe import PARAMETRIZATIONS
from windtunnel.tunnel.design import (
    DIFFERENT_WHOLES,
    LEAST_BATCHES,
    NUMBER,
    TOKENS_LIST,
    WHOLES,
    option,
    words,
)


@dataclass(frozen=True, kw_only=True)
class Design:
    """Every width at the first depth with the first batch; every further depth at the first width;
    and every further batch at the first width and depth. Each is measured at all lengths.
    """

    widths: tuple[int, ...] = option(
        (32, 64, 128, 256),
        "Widths to compare, at the first depth. A verdict needs at least three that span a factor "
        "of 8; or one size, at three lengths that span a factor of 4: then it is on the law of "
        "the rate over length and batch.",
        DIFFERENT_WHOLES,
    )
    depths: tuple[int, ...] = option(
        (2, 8),
        "Depths. The widths are measured at the first one; the others are measured at the first "
        "width.",
        DIFFERENT_WHOLES,
    )
    parametrizations: tuple[str, ...] = option(
        ("minicpm", "standard"),
        "Parametrizations to compare, out of {words}. The verdict is on the first one.",
        words(lambda: PARAMETRIZATIONS),
        flag="--parametrization",
    )
    lengths: tuple[int, ...] = option(
        (204_800, 409_600, 819_200),
        "Lengths in tokens, separated by commas: branches of one stem for each rate. The drift is "
        "judged at the longest one, where a verdict needs at least 400 steps.",
        TOKENS_LIST,
    )
    batches: tuple[int, ...] = option(
        (2048, 512, 1024, 4096),
        "Batches to compare, in tokens per step. Widths and depths are measured with the first "
        "one; the others are measured at the first width and depth. With "
        f"{LEAST_BATCHES} or more, the study also finds the best batch at each length, by which a "
        "scaling study then trains.",
        TOKENS_LIST,
    )
    seeds: tuple[int, ...] = option(
        (3, 2),
        "Seeds for the points near the best rate: one number, or one for each parametrization.",
        WHOLES,
    )
    lr: float = option(
        0.01,
        "Learning rate at which the grid of half-octaves begins. The grid follows the loss "
        "downhill.",
        NUMBER,
    )

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("batches", self.batches)):
            if len(set(values)) < len(values):
                raise InputError(
                    f"--{name} {','.join(map(str, values))}: expected different numbers of tokens"
                )
        if 1 < len(self.seeds) < len(self.parametrizations):
            raise InputError(
                f"--seeds {','.join(map(str, self.seeds))}: expected one number, "
                f"or one for each of {', '.join(self.parametrizations)}"
            )

    @property
    def one_size(self) -> bool:
        """Whether the study asks how the rate goes with length and batch alone."""
        return len(self.widths) == len(self.depths) == 1

    @property
    def shortest(self) -> int:
        """Length of the shortest branches in tokens."""
        return min(self.lengths)

    @property
    def longest(self) -> int:
        """Length of the longest branches in tokens."""
        return max(self.lengths)

    def seeds_of(self, parametrization: str) -> int:
        """How many seeds the points near its best rate get."""
        if len(self.seeds) == 1:
            return self.seeds[0]
        return self.seeds[self.parametrizations.index(parametrization)]

    def rate(self, step: float) -> float:
        """The learning rate `step` half-octaves from the first one."""
        return float(f"{self.lr * 2 ** (step / 2):.6g}")
