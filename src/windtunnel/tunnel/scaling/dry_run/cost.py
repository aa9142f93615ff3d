"""What a scaling study costs before it is run: FLOPs, tokens and core-hours; and budgets as
people type them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import Counts, count, flops_per_token
from windtunnel.quantities import parse_tokens
from windtunnel.train.run import Run, open_run
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.scaling import Chain, Design, Size
from windtunnel.tunnel.study import training_seconds

Unit = Literal["FLOPs", "core-hours", "tokens"]
_HOURS = {"h": 1.0, "min": 1 / 60}
_BUDGET = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*(h|min)?", re.IGNORECASE)
_FEWEST = 10  # steps of a run that tells a speed


@dataclass(frozen=True)
class Cost:
    """Of training; evaluations and start-up are not in it."""

    flops: float
    tokens: float
    core_hours: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops, self.tokens + other.tokens, self.core_hours + other.core_hours
        )


NOTHING = Cost(0, 0, 0)


@dataclass(frozen=True)
class Budget:
    """What a whole study may cost, audit run included."""

    amount: float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.amount:.3g} {self.unit}"

    def covers(self, cost: Cost) -> bool:
        return self.share(cost) <= 1

    def share(self, cost: Cost) -> float:
        """Of the budget, that the cost is."""
        spent = {"FLOPs": cost.flops, "core-hours": cost.core_hours, "tokens": cost.tokens}[
            self.unit
        ]
        return spent / self.amount


def parse_budget(text: str) -> Budget:
    """`1e14` is FLOPs, `2h` and `90min` are hours of one core, `20M` is tokens. Raises
    InputError.
    """
    match = _BUDGET.fullmatch(text.strip())
    try:
        if match is None:
            found = Budget(parse_tokens(text), "tokens")
        elif match[2]:
            found = Budget(float(match[1]) * _HOURS[match[2].lower()], "core-hours")
        else:
            found = Budget(float(match[1]), "FLOPs")
    except ValueError:
        found = Budget(0, "FLOPs")
    except InputError:
        found = Budget(0, "tokens")
    if not 0 < found.amount < np.inf:
        raise InputError(
            f"{text!r} is not a budget; expected FLOPs such as 1e14, core-hours such as 2h, tokens as 20M"
        )
    return found


@dataclass(frozen=True)
class Shape:
    """What a size of the tunnel's model holds and costs."""

    depth: int
    counts: Counts
    flops: int  # a token, in training

    @property
    def params(self) -> dict[str, int]:
        """By every count."""
        return vars(self.counts)


def shape_of(corpus: Corpus, size: Size) -> Shape:
    """Raises InputError for a width without whole heads."""
    recipe = proxy(corpus, size.width, size.depth)
    return Shape(
        size.depth, count(recipe.model), flops_per_token(recipe.model, recipe.data.context)
    )


@dataclass(frozen=True)
class Speed:
    """Seconds of one core: for each FLOP, and beside the matrix products for each token and each
    step of each layer.
    """

    flop: float
    token: float
    step: float
    origin: str

    def cost(self, shape: Shape, tokens: float, steps: float) -> Cost:
        """Of training this many tokens in this many steps."""
        flops = shape.flops * tokens
        seconds = self.flop * flops + shape.depth * (self.token * tokens + self.step * steps)
        return Cost(flops, tokens, seconds / 3600)


# Through 41 runs of widths 16 to 256, depths 2 to 4, batches of 512 to 2048 tokens, two at once
# on two cores.
_STATED = Speed(8.9e-12, 8.8e-7, 2.05e-2, "measured at laptop scale")


def speed_of(lab: Path, result: dict[str, Any] | None) -> Speed:
    """As the runs of an earlier study (its result.json) went on this machine, or at laptop
    scale.
    """
    folders = [lab / "runs" / run for run in (result or {}).get("runs", [])]
    runs = [open_run(folder) for folder in folders if (folder / "run.json").exists()]
    rows = [row for run in runs if (row := _row(run))]
    if len(rows) < _FEWEST:
        return _STATED
    table = np.array(rows)
    columns, root = (
        table[:, :3],
        np.sqrt(table[:, 3]),
    )  # a run counts by its length: a study's sum shall be right
    (flop, token, step), _ = nnls(columns / root[:, None], root)
    return Speed(float(flop), float(token), float(step), "measured in the lab's scaling study")


def _row(run: Run) -> tuple[float, float, float, float] | None:
    """(FLOPs, tokens times depth, steps times depth, seconds) of what the run itself trained."""
    steps = len(run.steps())
    recipe = run.recipe
    tokens = steps * recipe.train.batch
    flops = flops_per_token(recipe.model, recipe.data.context) * tokens
    depth = recipe.model.depth
    return (
        (flops, depth * tokens, depth * steps, training_seconds(run)) if steps >= _FEWEST else None
    )


def fit_cost(design: Design, chain: Chain, shapes: Mapping[Size, Shape], speed: Speed) -> Cost:
    """Of the stems and branches that a law is fitted to."""
    steps = sum((s.end - s.begin) / s.batch for s in chain.segments)
    steps += sum(point.decay / chain.segments[point.segment].batch for point in chain.points)
    total = NOTHING
    for size, _ in design.stems:
        total += speed.cost(shapes[size], chain.trained, steps)
    return total
