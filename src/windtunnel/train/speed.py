"""How fast this machine trains a recipe, alone or as members: the loop's own step, timed on random tokens."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from windtunnel.recipe import Recipe
from windtunnel.train.device import choose_engine, synchronize
from windtunnel.train.step import Step


def training_step(recipe: Recipe, members: int = 1) -> Callable[[np.ndarray], None]:
    """A fresh model, or as many members, with one step of the loop: same objective, optimiser and engine. Takes
    (windows, context + 1), or (P, windows, context + 1) with members."""
    recipes = [recipe.change(seed=recipe.seed + member) for member in range(members)]
    made = Step(recipes, choose_engine(recipe, members))

    def step(batch: np.ndarray) -> None:
        made.gradient(batch)
        made.update([1.0] * members)
        synchronize(made.engine.torch_device)

    return step


def tokens_per_second(recipe: Recipe, seconds: float = 3.0, members: int = 1) -> float:
    """Of all members together: median over `seconds` of steps, after the first ones have compiled what there is to
    compile."""
    step, batch = training_step(recipe, members), random_batch(recipe, members)
    for _ in range(5):
        step(batch)
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        step(batch)
        times.append(time.perf_counter() - start)
    return members * recipe.train.batch / statistics.median(times)


def random_batch(recipe: Recipe, members: int = 1, seed: int = 0) -> np.ndarray:
    """What `training_step` takes."""
    shape = (recipe.train.batch // recipe.data.context, recipe.data.context + 1)
    lead = () if members == 1 else (members,)
    return np.random.default_rng(seed).integers(0, recipe.model.vocab, (*lead, *shape))
