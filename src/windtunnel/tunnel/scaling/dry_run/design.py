"""What a dry run simulates, and what it looks for."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.errors import InputError
from windtunnel.quantities import format_tokens, parse_tokens
from windtunnel.tunnel.design import SIZE, TOKENS, Kind, Size, option, optional, whole

if TYPE_CHECKING:
    from windtunnel.results.dry_run import Budget

_HOURS = {"h": 1.0, "min": 1 / 60}
_FLOPS_OR_HOURS = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*(h|min)?", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """The run that shall be predicted."""

    size: Size
    tokens: int

    def __str__(self) -> str:
        return f"{self.size}@{format_tokens(self.tokens)}"


@dataclass(frozen=True)
class Best:
    """The run that so many FLOPs train best shall be predicted."""

    flops: float

    def __str__(self) -> str:
        return f"{self.flops:g}"


def parse_target(flag: str, text: str) -> Target | Best:
    """`512x8@20M` is a run, `1e15` the best one of so many FLOPs. Raises InputError."""
    size, at, tokens = text.partition("@")
    if at:
        return Target(SIZE.parse(flag, size), TOKENS.parse(flag, tokens))
    try:
        flops = float(text)
    except ValueError:
        flops = math.nan
    if not 0 < flops < math.inf:
        raise InputError(
            f"{flag} {text}: expected WIDTHxDEPTH@TOKENS such as 512x8@20M, or FLOPs such as 1e15"
        )
    return Best(flops)


def parse_budget(flag: str, text: str) -> "Budget":
    """`1e14` is FLOPs, `2h` and `90min` are hours of one core, `20M` is tokens. Raises
    InputError.
    """
    try:
        found = _budget(text)
    except (ValueError, InputError):
        found = None
    if found is None or not 0 < found.amount < math.inf:
        raise InputError(
            f"{flag} {text}: is not a budget; expected FLOPs such as 1e14, core-hours such as 2h, "
            "or tokens such as 20M"
        )
    return found


def _budget(text: str) -> "Budget | None":
    from windtunnel.results.dry_run import Budget  # brings pydantic, which --help does without

    match = _FLOPS_OR_HOURS.fullmatch(text.strip())
    if match is None:
        return Budget(amount=parse_tokens(text), unit="tokens")
    amount = float(match[1])
    if not math.isfinite(amount):
        return None
    if match[2]:
        return Budget(amount=amount * _HOURS[match[2].lower()], unit="core-hours")
    return Budget(amount=amount, unit="FLOPs")


def _show_budget(budget: "Budget") -> str:
    if budget.unit == "tokens":
        return format_tokens(round(budget.amount))
    return f"{budget.amount:g}h" if budget.unit == "core-hours" else f"{budget.amount:g}"


BUDGET = Kind(parse=parse_budget, show=_show_budget, metavar="FLOPS|HOURS|TOKENS")
TARGET = Kind(parse=parse_target, metavar="WIDTHxDEPTH@TOKENS|FLOPS")


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What the simulated studies are to predict, and what they may cost."""

    target: Target | Best | None = option(
        None,
        "With --dry-run: the run to be predicted, such as 512x8@20M, or FLOPs such as 1e15, which "
        "stand for the best run of so many. If it is not given, the audit run.",
        optional(TARGET),
    )
    budget: "Budget | None" = option(
        None,
        "With --dry-run: also look for the best design that costs no more than this, in FLOPs "
        "(1e14), hours of one core (2h) or tokens (20M).",
        optional(BUDGET),
    )
    simulations: int = option(8, "With --dry-run: how many studies to simulate.", whole(2))
