"""What the transfer study measures."""

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.recipe import PARAMETRIZATIONS
from windtunnel.tunnel.design import (
    DIFFERENT_WHOLES,
    NUMBER,
    TOKENS,
    WHOLES,
    option,
    words,
)


@dataclass(frozen=True, kw_only=True)
class Design:
    """Every width at the first depth, and every further depth at the first width."""

    widths: tuple[int, ...] = option(
        (32, 64, 128, 256),
        "Widths to compare, at the first depth. A verdict needs at least three that span a factor "
        "of 8.",
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
    tokens: int = option(
        819_200, "Length of each run in tokens. A verdict needs at least 400 steps.", TOKENS
    )
    batch: int = option(2048, "Batch, in tokens per step.", TOKENS)
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
        if 1 < len(self.seeds) < len(self.parametrizations):
            raise InputError(
                f"--seeds {','.join(map(str, self.seeds))}: expected one number, "
                f"or one for each of {', '.join(self.parametrizations)}"
            )

    def seeds_of(self, parametrization: str) -> int:
        """How many seeds the points near its best rate get."""
        if len(self.seeds) == 1:
            return self.seeds[0]
        return self.seeds[self.parametrizations.index(parametrization)]

    def rate(self, step: float) -> float:
        """The learning rate `step` half-octaves from the first one."""
        return float(f"{self.lr * 2 ** (step / 2):.6g}")
