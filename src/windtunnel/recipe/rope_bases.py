"""Rules by which people choose RoPE's base for a longer context, by what the model had.

To add one, add its record to `BASE_RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.choices import Table
from windtunnel.recipe.rope import ROPE_SCALINGS, least_base, stretched

if TYPE_CHECKING:
    from windtunnel.recipe.sections import Model


@dataclass(frozen=True, kw_only=True)
class BaseRule:
    """One rule."""

    name: str
    help: str
    base: Callable[[Model, int, int], float]
    """The base for a model that was trained in windows of the first length, to see the second."""


def base_of(model: Model) -> float | None:
    """The base that gives the model's frequencies; None where its scaling has none."""
    base = ROPE_SCALINGS[model.rope_scaling].base
    return base(model) if base else None


def _scaled(scaling: str) -> Callable[[Model, int, int], float]:
    def base(model: Model, was: int, to: int) -> float:
        found = base_of(model.model_copy(update=stretched(model, was, to, scaling)))
        assert found is not None
        return found

    return base


def _critical(model: Model, was: int, to: int) -> float:
    """Pairs that turned once within the old length turn once within the new one: the present base
    to the power log(to / 2 pi) / log(was / 2 pi).
    """
    present = base_of(model) or model.rope_base
    return present ** (math.log(to / (2 * math.pi)) / math.log(was / (2 * math.pi)))


BASE_RULES = Table(
    "rule for RoPE's base",
    [
        BaseRule(name="kept", help="the base as it is", base=_scaled("none")),
        BaseRule(
            name="ntk",
            help="NTK-aware: the base times factor^(d / (d - 2)), for heads of d",
            base=_scaled("ntk"),
        ),
        BaseRule(
            name="bound",
            help="the least with which a query prefers keys that are like it at every distance "
            "(Men et al. 2024)",
            base=lambda model, was, to: least_base(to, model.head_size),
        ),
        BaseRule(
            name="abf",
            help="the base times the square of the factor, which lies between those of Xiong et "
            "al. 2023 and of MiniCPM; what `windtunnel longer` takes",
            base=_scaled("abf"),
        ),
        BaseRule(
            name="critical",
            help="pairs that turned once within the old length turn once within the new one (Liu "
            "et al. 2024)",
            base=_critical,
        ),
    ],
)
