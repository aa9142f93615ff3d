"""The learning rate as a pure function of the token position; nothing in a checkpoint remembers
it.
"""

import math

from windtunnel.recipe import DECAY_SHAPES, Decay, Recipe


def rate(recipe: Recipe, start: int, tokens: int) -> float:
    """Share of the peak rate for a step that takes `tokens` tokens from position `start`.

    It is the schedule at the middle of the step: so neither the first step of a warm-up nor the
    last of a decay to zero is wasted, and the area under the rate is that of the curve.
    """
    return rate_at(recipe, start + tokens / 2)


def rate_at(recipe: Recipe, position: float) -> float:
    """Share of the peak rate at a token position: warm-up, then stable and decay (paper Eq. 1),
    or cosine.
    """
    if position < recipe.warmup_tokens:
        return position / recipe.warmup_tokens
    if recipe.schedule.kind == "cosine":
        return _cosine(position / recipe.total_tokens, recipe.schedule.floor)
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


def _cosine(done: float, floor: float) -> float:
    """floor + (1 - floor) (1 + cos(pi s / S)) / 2: what the paper's misprinted App. B.1 intends."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2
