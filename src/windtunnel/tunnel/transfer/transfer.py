"""Does the best learning rate stay where it is while the model grows? A grid of rates in
half-octaves at several widths and depths, by parametrization (paper section 3.3).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe
from windtunnel.results.study import Verdict, write_study
from windtunnel.results.transfer import (
    TRANSFER,
    DriftFound,
    Drifts,
    ParametrizationRates,
    SizeRate,
    TransferNumbers,
    TransferRow,
)
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.study import core_minutes, final_loss, ids, rows_at_end
from windtunnel.tunnel.transfer.bowl import Bowl, bowl, drift
from windtunnel.tunnel.transfer.design import Design

ALLOWED_DRIFT = 0.15  # octaves of lr an octave of width
# what a study needs to get a verdict
_WIDTHS = 3
_SPAN = 8
_STEPS = 400
_REACH = 2  # half-octaves measured on either side of the best rate
_FARTHEST = 14  # half-octaves from the first rate; further out no minimum is looked for


@dataclass(frozen=True)
class Cell:
    """One size of one parametrization."""

    parametrization: str
    size: Size

    def __str__(self) -> str:
        return f"{self.parametrization} {self.size}"


# which cell, how many half-octaves from the first rate, which seed
Key = tuple[Cell, int, int]


def transfer(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder."""
    grid = _Grid(lab, corpus, design, watch)
    chains = [chain(design, name) for name in design.parametrizations]
    best: dict[Cell, int] = {}
    for index, cells in enumerate(zip(*chains, strict=True)):
        # the grid begins where the neighbour's best rate was found: that of the width before, and
        # for a further depth that of the first width
        neighbour = index - 1 if 0 < index < len(design.widths) else 0
        begin = {
            cell: best[cells_of[neighbour]] if index else 0
            for cell, cells_of in zip(cells, chains, strict=True)
        }
        best |= grid.measure(begin)
    results = {
        name: grid.result(cells)
        for name, cells in zip(design.parametrizations, chains, strict=True)
    }
    numbers = TransferNumbers(
        tokens=design.tokens,
        batch=design.batch,
        seeds=tuple(map(design.seeds_of, design.parametrizations)),
        corpus=corpus.folder.name,
        parametrizations=results,
        core_minutes=core_minutes(grid.runs.values()),
    )
    verdict, summary = judge(design, results)
    return write_study(
        lab,
        TRANSFER,
        rows=grid.rows(),
        verdict=verdict,
        summary=summary,
        numbers=numbers,
        runs=ids(grid.runs.values()),
    )


def chain(design: Design, parametrization: str) -> list[Cell]:
    """The cells of a parametrization in the order of measuring: the widths at the first depth, then
    the further depths at the first width.
    """
    wide = [Size(width, design.depths[0]) for width in design.widths]
    deep = [Size(design.widths[0], depth) for depth in design.depths[1:]]
    return [Cell(parametrization, size) for size in (*wide, *deep)]


def judge(design: Design, results: Mapping[str, ParametrizationRates]) -> tuple[Verdict, str]:
    """The verdict on the first parametrization and one sentence. A study that is too small has
    none, and says so.
    """
    missing = []
    if len(design.widths) < _WIDTHS:
        missing.append(f"{_WIDTHS} widths")
    if max(design.widths) < _SPAN * min(design.widths):
        missing.append(f"a span of {_SPAN}x in width")
    if design.tokens // design.batch < _STEPS:
        missing.append(f"{_STEPS} steps")
    summary = _summary(results)
    if missing:
        return None, f"{summary}; too small for a verdict, which needs {', '.join(missing)}"
    return ("pass" if results[design.parametrizations[0]].passes else "fail"), summary


class _Grid:
    """The runs of the study so far and their losses, in the order in which they were asked for."""

    def __init__(self, lab: Path, corpus: Corpus, design: Design, watch: Watch) -> None:
        self.lab, self.corpus, self.design, self.watch = lab, corpus, design, watch
        self.runs: dict[Key, Run] = {}
        self.losses: dict[Key, float | None] = {}

    def measure(self, begin: Mapping[Cell, int]) -> dict[Cell, int]:
        """Measure one size of every parametrization from its step of the grid on: with one seed
        until the best rate has neighbours on either side, then with all seeds. Returns the best
        steps.
        """
        label = f"transfer: {', '.join(map(str, begin))}"
        asked = {cell: _around(step) for cell, step in begin.items()}
        while wanted := self._missing(asked):
            self._train(wanted, label)
            asked = {cell: around_best(self.first_seed(cell)) for cell in begin}
        repeats: list[Key] = []
        for cell, steps in asked.items():
            seeds = range(1, self.design.seeds_of(cell.parametrization))
            repeats += [(cell, step, seed) for step in sorted(steps) for seed in seeds]
        self._train(repeats, label)
        return {cell: _lowest(self.first_seed(cell)) for cell in begin}

    def _missing(self, asked: Mapping[Cell, Iterable[int]]) -> list[Key]:
        """What is asked for of the first seed and was not measured yet."""
        keys: list[Key] = []
        for cell, steps in asked.items():
            keys += [(cell, step, 0) for step in sorted(steps)]
        return [key for key in keys if key not in self.runs]

    def _train(self, wanted: Sequence[Key], label: str) -> None:
        recipes = [_recipe(self.corpus, self.design, *key) for key in wanted]
        found = fleet(self.lab, self.corpus, recipes, self.watch, label)
        for key, run in zip(wanted, found, strict=True):
            self.runs[key] = run
            self.losses[key] = final_loss(run)

    def first_seed(self, cell: Cell) -> dict[int, float | None]:
        """The losses of a cell's runs with the first seed, by step of the grid."""
        here = self._of(cell).items()
        return {step: loss for (step, seed), loss in here if seed == 0}

    def _of(self, cell: Cell) -> dict[tuple[int, int], float | None]:
        """All losses of a cell, by step and seed."""
        found = self.losses.items()
        return {(step, seed): loss for (at, step, seed), loss in found if at == cell}

    def rows(self) -> list[TransferRow]:
        """The study's table."""
        rows = []
        for (cell, step, _), run in sorted(self.runs.items(), key=_in_order):
            rows += rows_at_end(
                TransferRow,
                run,
                "run",
                parametrization=cell.parametrization,
                width=cell.size.width,
                depth=cell.size.depth,
                batch=self.design.batch,
                lr=self.design.rate(step),
            )
        return rows

    def result(self, cells: Sequence[Cell]) -> ParametrizationRates:
        """What the runs say of one parametrization, of whose cells the first is the smallest."""
        bowls = {cell: self._bowl(cell) for cell in cells}
        found = {cell: here for cell, here in bowls.items() if here}
        width, depth = self.design.widths[0], self.design.depths[0]
        wide = {c.size.width: here for c, here in found.items() if c.size.depth == depth}
        deep = {c.size.depth: here for c, here in found.items() if c.size.width == width}
        over_width = drift_over(wide)
        return ParametrizationRates(
            sizes=tuple(self._size_rate(cell, bowls[cell], bowls[cells[0]]) for cell in cells),
            drift=Drifts(width=over_width, depth=drift_over(deep)),
            passes=over_width is not None
            and len(wide) == len(self.design.widths)
            and within(over_width),
        )

    def _bowl(self, cell: Cell) -> Bowl | None:
        """In octaves of lr, through the points about the best rate that came to their end; None
        where these are too few or curve the wrong way.
        """
        near = around_best(self.first_seed(cell))
        steps, losses, seeds = [], [], []
        for (step, seed), loss in self._of(cell).items():
            if step in near and loss is not None:
                steps.append(step / 2)
                losses.append(loss)
                seeds.append(seed)
        # a constant for each seed, a slope, a curvature, and one more to tell the noise
        if len(losses) < self.design.seeds_of(cell.parametrization) + 3:
            return None
        return bowl(steps, losses, seeds)

    def _size_rate(self, cell: Cell, found: Bowl | None, smallest: Bowl | None) -> SizeRate:
        run = next(run for (at, _, _), run in self.runs.items() if at == cell)
        measured = [loss for loss in self._of(cell).values() if loss is not None]
        lr = interval = noise = regret = None
        if found is not None:
            # the bowl is over octaves, the grid in half-octaves
            lr, *ends = (self.design.rate(2 * x) for x in (found.vertex, *found.interval))
            interval, noise = (ends[0], ends[1]), found.noise
            regret = found.regret(smallest.vertex) if smallest else None
        return SizeRate(
            width=cell.size.width,
            depth=cell.size.depth,
            params=count(run.recipe.model).params,
            best_loss=min(measured, default=None),
            lr=lr,
            interval=interval,
            noise=noise,
            regret=regret,
        )


def _recipe(corpus: Corpus, design: Design, cell: Cell, step: int, seed: int) -> Recipe:
    lr = design.rate(step)
    return proxy(
        corpus,
        cell.size.width,
        cell.size.depth,
        design.tokens,
        name=f"{cell.parametrization}-{cell.size}-lr{lr:.2g}",
        seed=seed,
        model={"parametrization": cell.parametrization},
        optimizer={"lr": lr},
        train={"batch": design.batch},
    )


def around_best(losses: Mapping[int, float | None]) -> set[int]:
    """The steps that must be measured for the best one to have neighbours on either side. A loss of
    None is that of a run that diverged.
    """
    return {step for step in _around(_lowest(losses)) if abs(step) <= _FARTHEST}


def _around(step: int) -> set[int]:
    return set(range(step - _REACH, step + _REACH + 1))


def _lowest(losses: Mapping[int, float | None]) -> int:
    """The step with the lowest loss; the first one where every run diverged."""

    def height(step: int) -> float:
        loss = losses[step]
        return math.inf if loss is None else loss

    return min(losses, key=height)


def drift_over(bowls: Mapping[int, Bowl]) -> DriftFound | None:
    """The drift of the best rate over sizes, octave by octave; None of fewer than two."""
    if len(bowls) < 2:
        return None
    octaves = np.log2(np.array(list(bowls), float))
    return drift(octaves.tolist(), list(bowls.values()))


def within(found: DriftFound) -> bool:
    """Whether the whole interval lies inside of what is allowed."""
    low, high = found.interval
    return low >= -ALLOWED_DRIFT and high <= ALLOWED_DRIFT


def _summary(results: Mapping[str, ParametrizationRates]) -> str:
    parts = []
    for name, result in results.items():
        for axis, found in (("width", result.drift.width), ("depth", result.drift.depth)):
            if found:
                low, high = found.interval
                parts.append(f"{name} {found.slope:+.2f} [{low:+.2f}, {high:+.2f}] over {axis}")
    return "drift of the best lr in octaves an octave (90%): " + "; ".join(parts)


def _in_order(item: tuple[Key, Run]) -> tuple[str, int, int, int, int]:
    (cell, step, seed), _ = item
    return cell.parametrization, cell.size.depth, cell.size.width, step, seed
