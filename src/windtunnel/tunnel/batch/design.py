"""What the batch study measures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from windtunnel.choices import Table
from windtunnel.errors import InputError
from windtunnel.tunnel.design import (
    DIFFERENT_WHOLES,
    LEAST_BATCHES,
    NUMBER,
    SIZES,
    TOKENS,
    TOKENS_LIST,
    Size,
    option,
    whole,
    words,
)

_WARMUP = 0.02  # share of the longest length


@dataclass(frozen=True)
class Arm:
    """How the learning rate goes with the batch. `rate` takes --lr and the batch over the one that
    --lr is meant for.
    """

    name: str
    help: str
    rate: Callable[[float, float], float]


ARMS = Table(
    "arm of the learning rate",
    (
        Arm("fixed", "fixed", lambda lr, ratio: lr),
        Arm(
            "sqrt",
            "scaled by the root of the batch",
            lambda lr, ratio: float(f"{lr * math.sqrt(ratio):.6g}"),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Design:
    """One stem for each size, batch and rate, and branches that leave it and decay, one a length.
    At the default sizes and lengths: 30M tokens, about 14 minutes on 2 cores.

    Every branch leaves and ends in whole steps of the largest batch, so that all batches are
    compared at the same lengths.
    """

    sizes: tuple[Size, ...] = option(
        (Size(32, 2), Size(32, 4), Size(64, 2)),
        "Width x depth of each model, separated by commas. Three or more are needed to tell how "
        "the best batch depends on the size.",
        SIZES,
    )
    batches: tuple[int, ...] = option(
        (512, 1024, 2048, 4096, 8192),
        f"Batches to compare, in tokens a step. At least {LEAST_BATCHES}, and the largest must be "
        "a multiple of each of the others.",
        DIFFERENT_WHOLES,
    )
    arms: tuple[str, ...] = option(
        tuple(ARMS),
        "How the learning rate goes with the batch: {words}. With several the study is repeated "
        "for each, and the first one's laws count.",
        words(lambda: ARMS),
    )
    lengths: tuple[int, ...] = option(
        (163_840, 327_680, 655_360, 983_040),
        "Lengths in tokens at which the loss is measured, after the rate has decayed.",
        TOKENS_LIST,
        flag="--tokens",
    )
    lr: float = option(0.01, "Learning rate of every batch.", NUMBER)
    lr_batch: int = option(
        2048,
        "Batch that --lr is meant for, where the rate goes with the batch, in tokens a step.",
        TOKENS,
    )
    seed: int = option(0, "Seed of every run.", whole(least=0))
    decay: float = 0.1  # share of the length

    def __post_init__(self) -> None:
        unfit = [batch for batch in self.batches if self.largest % batch]
        if len(self.batches) < LEAST_BATCHES or unfit:
            raise InputError(
                f"--batches {_listed(self.batches)}: expected {LEAST_BATCHES} or more, the largest "
                "of them a multiple of each of the others"
            )
        if len(self.points) < 2 or self.points[0][0] < self.warmup:
            raise InputError(
                f"--tokens {_listed(self.lengths)}: expected two or more lengths that differ by "
                f"whole batches of {self.largest}, the shortest with more than the warm-up of "
                f"{self.warmup} tokens before its decay"
            )

    @property
    def largest(self) -> int:
        """The largest batch."""
        return max(self.batches)

    @property
    def warmup(self) -> int:
        """Tokens of warm-up, the same for all batches and lengths."""
        return max(self.largest, round(_WARMUP * max(self.lengths)))

    @cached_property
    def points(self) -> list[tuple[int, int]]:
        """Where each branch leaves its stem and where it ends, in tokens."""
        found = set()
        for length in self.lengths:
            end = self._whole(length)
            decay = max(self.largest, self._whole(self.decay * length))
            found.add((end - decay, end))
        return sorted(found)

    def rate(self, arm: str, batch: int) -> float:
        """The learning rate of a batch."""
        return ARMS[arm].rate(self.lr, batch / self.lr_batch)

    def _whole(self, tokens: float) -> int:
        """The nearest whole number of the largest batches, in tokens."""
        return round(tokens / self.largest) * self.largest


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
