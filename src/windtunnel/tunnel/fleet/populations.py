"""How many runs a worker trains together, as members of one population: measured once a shape and
kind of device, and kept with the lab so that a study that goes on chooses as it did before.
"""

from collections.abc import Sequence

from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Speedups
from windtunnel.train.run import Run

MOST = 64  # members that are ever tried
# A measurement costs compiling and timing of several populations. It is worth it where this many
# FLOPs are left to train: some minutes of one worker that trains one small model at a time, and on
# a GPU, where it takes minutes itself, ten (of 1e14 FLOP/s, a tenth of a large one's peak).
_WORTH = {"cpu": 4e12, "mps": 2e13, "cuda": 6e16}
# Times as fast as alone. With less, runs are better free of each other: a member that is over
# still takes its part of every step.
_ENOUGH = 1.15


def fastest(speedups: Speedups) -> int:
    """The number of members that trains fastest; 1 unless that is clearly faster than one after
    the other.
    """
    members = max(speedups, key=lambda number: speedups[number])
    return members if speedups[members] >= _ENOUGH else 1


def population_size(waiting: int, workers: int, most: int) -> int:
    """Members of the next population, a power of two and at most `most`, where so many runs wait
    that could train together: all workers shall be busy, and come to their end together.
    """
    # how often every worker takes `most`, and how many it takes if all of these rounds are alike
    rounds = -(-waiting // (workers * most))
    fair = -(-waiting // (rounds * workers))
    # rounded down to a power of two: each other size would be compiled anew
    return 1 << (fair.bit_length() - 1)


def described(speedups: Speedups) -> str:
    """What was chosen, and why, for people."""
    tried = [(members, speedup) for members, speedup in speedups.items() if members > 1]
    ratios = ", ".join(f"{members} together {speedup:.2f}" for members, speedup in tried)
    members = fastest(speedups)
    how = f"{members} members together" if members > 1 else "one run at a time"
    why = f"times as fast as one after the other: {ratios or 'no number was tried'}"
    return f"each worker trains {how} ({why})"


def worth_measuring(runs: Sequence[Run], device: str) -> bool:
    """Whether so much is left to train of these runs, which could train together, that measuring
    will have paid.
    """
    left = 0
    for run in runs:  # a branch that has not begun trains from where it leaves its stem
        left += max(0, run.recipe.total_tokens - max(run.start, run.status().tokens))
    flops = flops_per_token(runs[0].recipe.model, runs[0].recipe.data.context)
    return len(runs) > 1 and flops * left >= _WORTH[device]


def shape_name(recipe: Recipe) -> str:
    """All that a measurement depends on, as `populations.json` names it."""
    model, train = recipe.model, recipe.train
    parts = [
        f"{model.width}x{model.depth}",
        f"heads {model.heads}/{model.kv_heads} of {model.head_size}",
        f"ffn {model.ffn}",
        f"vocabulary {model.vocab}",
        "tied" if model.tied else "untied",
        f"context {recipe.data.context}",
        f"batch {train.batch}",
        train.precision,
        f"compile {train.compile}",
    ]
    if model.experts:
        parts.insert(4, f"{model.experts_per_token} of {model.experts} experts")
    return ", ".join(parts)
