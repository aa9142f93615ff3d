"""How fast this machine trains a recipe, alone or as members: the loop's own step, timed on
random tokens.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from windtunnel.recipe import Recipe
from windtunnel.train.device import choose_engine, synchronize
from windtunnel.train.step import Step

_ROUNDS = 9
_WARM_UP = 5  # steps: they compile what there is to compile, and capture it


def training_step(recipe: Recipe, members: int = 1) -> Callable[[np.ndarray], None]:
    """A fresh model, or as many members, with one step of the loop: same objective, optimiser and
    engine. Takes (windows, context + 1), or (P, windows, context + 1) with members.
    """
    recipes = [recipe.change(seed=recipe.seed + member) for member in range(members)]
    made = Step(recipes, choose_engine(recipe, members))

    def step(batch: np.ndarray) -> None:
        made.gradient(batch)
        # at the peak rate: what a step costs does not depend on it
        made.update([1.0] * members)
        synchronize(torch.device(made.engine.device))

    return step


def timed_step(recipe: Recipe, members: int = 1) -> Callable[[Callable[[], float]], float]:
    """A step on random tokens, warmed up, that gives its seconds by the clock it is called with."""
    step, batch = training_step(recipe, members), random_batch(recipe, members)
    for _ in range(_WARM_UP):
        step(batch)

    def timed(clock: Callable[[], float]) -> float:
        start = clock()
        step(batch)
        return clock() - start

    return timed


def tokens_per_second(recipe: Recipe, seconds: float = 3.0, threads: int = 0) -> float:
    """Median over `seconds` of steps, after the first ones have compiled what there is to
    compile. `threads`: of a CPU; 0 for those that this process has. A worker of a fleet has one,
    and finds on the disk what was compiled for one.
    """
    with _of_threads(threads or torch.get_num_threads()):
        step = timed_step(recipe)
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(step(time.perf_counter))
    return recipe.train.batch / statistics.median(times)


@contextmanager
def _of_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def speedups(
    recipe: Recipe, most: int, stop: Callable[[], bool] = lambda: False
) -> dict[int, float]:
    """How many times as fast members train together as one after the other, by their number:
    `most` of them, and a quarter as long as fewer are faster.

    Each number is compiled anew, so few are tried. Steps of one model and of the members
    alternate; a CPU's time is that of this process, so what else runs there counts little. What
    the device's memory does not hold is left out.
    """
    found, alone, members = {1: 1.0}, timed_step(recipe), most
    clock = time.process_time if choose_engine(recipe).device == "cpu" else time.perf_counter
    while members > 1 and not stop():
        try:
            together = timed_step(recipe, members)
        except torch.OutOfMemoryError:
            members //= 4
            continue
        ratios = [members * alone(clock) / together(clock) for _ in range(_ROUNDS)]
        found[members] = round(statistics.median(ratios), 3)
        # by quarters while fewer are faster; where together is slower than alone, fewer may help
        members = members // 4 if found[members] == max(found.values()) or found[members] < 1 else 1
    return found


def random_batch(recipe: Recipe, members: int = 1, seed: int = 0) -> np.ndarray:
    """What `training_step` takes."""
    shape = (recipe.train.batch // recipe.data.context, recipe.data.context + 1)
    lead = () if members == 1 else (members,)
    return np.random.default_rng(seed).integers(0, recipe.model.vocab, (*lead, *shape))
