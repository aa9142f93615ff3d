"""What a scaling study costs before it is run: FLOPs, tokens and core-hours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from windtunnel.data.shards import Corpus
from windtunnel.laws import laptop
from windtunnel.model.shape import Counts, count, flops_per_token
from windtunnel.results.dry_run import NOTHING, Cost, Speed
from windtunnel.results.scaling import ScalingNumbers
from windtunnel.results.study import StudyResult
from windtunnel.train.run import Run, open_run
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.chain import Chain
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.study import training_seconds

_FEWEST_STEPS = 10  # of a run that tells a speed
_FEWEST_RUNS = 10  # that tell a machine's speed


@dataclass(frozen=True, kw_only=True)
class SizeCounts:
    """What a size of the tunnel's model holds and costs."""

    depth: int
    counts: Counts
    flops: int  # a token, in training

    @property
    def params(self) -> dict[str, int]:
        """Parameters, by every count."""
        return vars(self.counts)


def counts_of(corpus: Corpus, size: Size) -> SizeCounts:
    """Raises InputError for a width without whole heads."""
    recipe = proxy(corpus, size.width, size.depth)
    return SizeCounts(
        depth=size.depth,
        counts=count(recipe.model),
        flops=flops_per_token(recipe.model, recipe.data.context),
    )


def cost_of(speed: Speed, size: SizeCounts, tokens: int, steps: float) -> Cost:
    """Of training so many tokens in so many steps."""
    flops = size.flops * tokens
    beside = size.depth * (speed.token * tokens + speed.step * steps)
    seconds = speed.flop * flops + beside
    return Cost(flops=flops, tokens=tokens, core_hours=seconds / 3600)


def fit_cost(design: Design, chain: Chain, sizes: Mapping[Size, SizeCounts], speed: Speed) -> Cost:
    """Of the stems and branches that a law is fitted to."""
    total = NOTHING
    for size, _ in design.stems:
        own = chain.first(design.points_of(size))
        total += cost_of(speed, sizes[size], own.trained, own.steps)
    return total


def speed_of(lab: Path, study: StudyResult[ScalingNumbers] | None) -> Speed:
    """As the runs of an earlier study went on this machine, or at laptop scale."""
    folders = [lab / "runs" / run for run in (study.runs if study else ())]
    runs = [open_run(folder) for folder in folders if (folder / "run.json").exists()]
    rows = [row for run in runs if (row := _row(run))]
    if len(rows) < _FEWEST_RUNS:
        return Speed(
            flop=laptop.SECONDS_A_FLOP,
            token=laptop.SECONDS_A_TOKEN,
            step=laptop.SECONDS_A_STEP,
            origin=laptop.ORIGIN,
        )
    table = np.array(rows)
    # Least squares of the errors over the root of the seconds: a run counts by its length, since it
    # is a study's sum that shall come out right.
    root = np.sqrt(table[:, 3])
    (flop, token, step), _ = nnls(table[:, :3] / root[:, None], root)
    return Speed(
        flop=float(flop),
        token=float(token),
        step=float(step),
        origin="measured in the lab's scaling study",
    )


def _row(run: Run) -> tuple[float, float, float, float] | None:
    """(FLOPs, tokens times depth, steps times depth, seconds) of what the run itself trained; None
    where it trained too little.
    """
    recipe = run.recipe
    steps = len(run.steps())
    if steps < _FEWEST_STEPS:
        return None
    tokens = steps * recipe.train.batch
    flops = flops_per_token(recipe.model, recipe.data.context) * tokens
    depth = recipe.model.depth
    return flops, depth * tokens, depth * steps, training_seconds(run)
