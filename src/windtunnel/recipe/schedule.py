"""Schedules: how the rate goes over a run once its warm-up is over.

To add one, add its record to `SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from windtunnel.choices import Table
from windtunnel.recipe.decay import DECAY_SHAPES, Decay

if TYPE_CHECKING:
    from windtunnel.recipe.sections import Recipe


@dataclass(frozen=True, kw_only=True)
class ScheduleKind:
    """One way for the rate to go."""

    name: str
    help: str
    stable: bool
    """Whether it has a stable phase at the peak, which branches leave from, and a decay of its own
    length after it."""
    share: Callable[[Recipe, float], float]
    """The share of the peak rate under a recipe at a position in tokens, from the end of the
    warm-up on."""


def _wsd(recipe: Recipe, position: float) -> float:
    """1 in the stable phase, and then the decay's shape (paper Eq. 1)."""
    begun = position - (recipe.total_tokens - recipe.decay_tokens)
    if not recipe.decay_tokens or begun <= 0:
        return 1.0
    moment = Decay(
        begun=begun,
        length=recipe.decay_tokens,
        floor=recipe.schedule.floor,
        half_life=recipe.schedule.half_life.of(recipe.schedule.tokens),
    )
    return DECAY_SHAPES[recipe.schedule.decay_shape].share(moment)


def _cosine(recipe: Recipe, position: float) -> float:
    """floor + (1 - floor) (1 + cos(pi s / S)) / 2: what the paper's misprinted App. B.1 intends."""
    done = min(1.0, position / recipe.total_tokens)
    floor = recipe.schedule.floor
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES = Table(
    "schedule",
    [
        ScheduleKind(
            name="wsd",
            help="warm-up, stable phase and decay (paper Eq. 1)",
            stable=True,
            share=_wsd,
        ),
        ScheduleKind(
            name="cosine",
            help="half a cosine over the whole run, which nothing can leave or extend",
            stable=False,
            share=_cosine,
        ),
    ],
)

ScheduleName = Annotated[str, SCHEDULES]
