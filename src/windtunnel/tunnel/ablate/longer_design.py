"""What the study of longer contexts measures, beside what it shares with the other ablations."""

from dataclasses import dataclass
from typing import Any

from windtunnel.choices import Table
from windtunnel.tunnel.design import (
    CONTEXTS,
    NUMBERS,
    TOKENS_LIST,
    any_words,
    option,
)


def _scalings() -> Table[Any]:
    from windtunnel.recipe import ROPE_SCALINGS

    return ROPE_SCALINGS


@dataclass(frozen=True, kw_only=True)
class LongerDesign:
    """One stem a seed; from its end a run for each context and each way to set RoPE, with a decay
    at every budget.
    """

    to: tuple[int, ...] = option(
        (1024, 4096),
        "With --longer: the contexts to reach, multiples of the stem's 256 tokens.",
        CONTEXTS,
    )
    bases: tuple[float, ...] = option(
        (1e4, 4e4, 1.6e5, 6.4e5, 2.56e6, 1.024e7),
        "With --longer: the bases of RoPE to compare; the stem has 10,000.",
        NUMBERS,
    )
    scalings: tuple[str, ...] = option(
        ("linear", "yarn"),
        "With --longer: the scalings to compare with the bases, of {words}; empty for none.",
        any_words(_scalings),
    )
    budgets: tuple[int, ...] = option(
        (64_000, 256_000),
        "With --longer: tokens in the longer context; of each the share --decay is its decay.",
        TOKENS_LIST,
    )
