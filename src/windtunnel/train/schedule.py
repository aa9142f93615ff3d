"""The learning rate as a pure function of the token position; nothing in a checkpoint remembers
it.
"""

import math

from windtunnel.recipe import DecayShape, Recipe


def rate(recipe: Recipe, start: int, tokens: int) -> float:
    """Share of the peak rate for a step that takes `tokens` tokens from position `start`.

    It is the schedule at the middle of the step: so neither the first step of a warm-up nor the
    last of a decay to zero is wasted, and the area under the rate is that of the curve.
    """
    return rate_at(recipe, start + tokens / 2)


def rate_at(recipe: Recipe, position: float) -> float:
    """Share of the peak rate at a token position: warm-up, then stable and decay (paper Eq. 1),
    or cosine.

    The cosine is floor + (1 - floor) (1 + cos(pi s / S)) / 2, what the paper's misprinted App.
    B.1 intends.
    """
    schedule, total = recipe.schedule, recipe.total_tokens
    if position < recipe.warmup_tokens:
        return position / recipe.warmup_tokens
    if schedule.kind == "cosine":
        return (
            schedule.floor
            + (1 - schedule.floor) * (1 + math.cos(math.pi * min(1.0, position / total))) / 2
        )
    decay = recipe.decay_tokens
    begun = position - (total - decay)
    if not decay or begun <= 0:
        return 1.0
    if schedule.decay_shape == "exponential":
        return max(schedule.floor, 0.5 ** (begun / half_life(recipe)))
    return schedule.floor + (1 - schedule.floor) * _remaining(
        schedule.decay_shape, min(1.0, begun / decay)
    )


def half_life(recipe: Recipe) -> float:
    """Tokens in which an exponential decay halves: as given (the paper's T), or what ends the
    decay at the floor.
    """
    given = recipe.schedule.half_life.of(recipe.schedule.tokens)
    return given or recipe.decay_tokens / math.log2(1 / recipe.schedule.floor)


def _remaining(shape: DecayShape, done: float) -> float:
    """From 1 to 0 as `done` goes from 0 to 1."""
    if shape == "linear":
        return 1 - done
    if shape == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if shape == "1-sqrt":
        return 1 - math.sqrt(done)
    return math.sqrt(1 - done)
