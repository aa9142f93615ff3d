"""How fast this machine trains a recipe: the loop's own step, timed on random tokens."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Recipe
from windtunnel.train.device import choose_engine, synchronize
from windtunnel.train.objective import accumulate
from windtunnel.train.optimizer import AdamW


def training_step(recipe: Recipe) -> Callable[[np.ndarray], None]:
    """A fresh model with one step of the loop: same objective, optimiser and engine. Takes (windows, context + 1)."""
    engine = choose_engine(recipe)
    model = Decoder(recipe.model, recipe.data.context, recipe.seed).to(engine.device)
    optimizer = AdamW(model, [recipe])
    if engine.compiled:
        model.compile_parts()
        optimizer.compile_parts()

    def step(batch: np.ndarray) -> None:
        accumulate(model, batch, engine, None)
        optimizer.step(1.0)
        synchronize(engine.torch_device)

    return step


def tokens_per_second(recipe: Recipe, seconds: float = 3.0) -> float:
    """Median over `seconds` of steps, after the first ones have compiled what there is to compile."""
    step = training_step(recipe)
    shape = recipe.train.batch // recipe.data.context, recipe.data.context + 1
    batch = np.random.default_rng(0).integers(0, recipe.model.vocab, shape)
    for _ in range(2):
        step(batch)
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        step(batch)
        times.append(time.perf_counter() - start)
    return recipe.train.batch / statistics.median(times)
