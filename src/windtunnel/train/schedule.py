"""The learning rate as a pure function of the token position; nothing in a checkpoint remembers
it.
"""

from windtunnel.recipe import SCHEDULES, Recipe


def rate(recipe: Recipe, start: int, tokens: int) -> float:
    """Share of the peak rate for a step that takes `tokens` tokens from position `start`.

    It is the schedule at the middle of the step: so neither the first step of a warm-up nor the
    last of a decay to zero is wasted, and the area under the rate is that of the curve.
    """
    return rate_at(recipe, start + tokens / 2)


def rate_at(recipe: Recipe, position: float) -> float:
    """Share of the peak rate at a token position: a straight line up, and then as the schedule
    has it.
    """
    if position < recipe.warmup_tokens:
        return position / recipe.warmup_tokens
    return SCHEDULES[recipe.schedule.kind].share(recipe, position)
