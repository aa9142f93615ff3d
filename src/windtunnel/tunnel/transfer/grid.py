"""The runs of a transfer study: a grid of rates in half-octaves about the best one of every length,
one stem a rate, with a branch at every length.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.quantities import about
from windtunnel.recipe import PAPER_DECAY, Model, Recipe
from windtunnel.results.transfer import TRANSFER, TransferRow
from windtunnel.scaling_recipe import Settings, searched_settings
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy, stem_warmup
from windtunnel.tunnel.study import final_loss, rows_at_end
from windtunnel.tunnel.transfer.design import Design

_REACH = 2  # half-octaves measured on either side of the best rate
_FARTHEST = 14  # half-octaves from the first rate; further out no minimum is looked for


@dataclass(frozen=True)
class Cell:
    """One size of one parametrization, with one batch."""

    parametrization: str
    size: Size
    batch: int

    def __str__(self) -> str:
        return f"{self.parametrization} {self.size} batch {self.batch}"


# which cell, how many half-octaves from the first rate, which seed
Key = tuple[Cell, int, int]
Losses = Mapping[int, float | None]  # by step of the grid; None: diverged


def chain(design: Design, parametrization: str) -> list[Cell]:
    """The cells of a parametrization in the order of measuring: the widths at the first depth, then
    the further depths at the first width, then the further batches at both.
    """
    batch = design.batches[0]
    first = Size(design.widths[0], design.depths[0])
    wide = [Size(width, design.depths[0]) for width in design.widths]
    deep = [Size(design.widths[0], depth) for depth in design.depths[1:]]
    cells = [Cell(parametrization, size, batch) for size in (*wide, *deep)]
    return cells + [Cell(parametrization, first, other) for other in design.batches[1:]]


class Grid:
    """The runs of the study so far and their losses, in the order in which they were asked for."""

    def __init__(self, lab: Path, corpus: Corpus, design: Design, watch: Watch) -> None:
        self.lab, self.corpus, self.design, self.watch = lab, corpus, design, watch
        self.lengths = sorted(design.lengths)
        self.settings = searched_settings(lab, corpus.folder.name)
        self.trained: list[Run] = []
        # by key, one for each length, from the shortest
        self.runs: dict[Key, list[Run]] = {}
        self._losses: dict[Key, list[float | None]] = {}

    def measure(self, begin: Mapping[Cell, int]) -> dict[Cell, int]:
        """Measure one size of every parametrization from its step of the grid on: with one seed
        until the best rate of every length has neighbours on either side, then with all seeds.
        Returns the best steps of the longest.
        """
        label = f"transfer: {', '.join(map(str, begin))}"
        asked = {cell: _around(step) for cell, step in begin.items()}
        while wanted := self._missing(asked):
            self._train(wanted, label)
            asked = {cell: self._around_best(cell) for cell in begin}
        repeats: list[Key] = []
        for cell, steps in asked.items():
            seeds = range(1, self.design.seeds_of(cell.parametrization))
            repeats += product([cell], sorted(steps), seeds)
        self._train(repeats, label)
        return {cell: _lowest(self.first_seed(cell, self.lengths[-1])) for cell in begin}

    def _around_best(self, cell: Cell) -> set[int]:
        """What must be measured for the best step of every length to have neighbours."""
        steps: set[int] = set()
        for tokens in self.lengths:
            steps |= around_best(self.first_seed(cell, tokens))
        return steps

    def _missing(self, asked: Mapping[Cell, Iterable[int]]) -> list[Key]:
        """What is asked for of the first seed and was not measured yet."""
        keys: list[Key] = []
        for cell, steps in asked.items():
            keys += [(cell, step, 0) for step in sorted(steps)]
        return [key for key in keys if key not in self.runs]

    def _train(self, wanted: Sequence[Key], label: str) -> None:
        stems = [_stem(self.corpus, self.design, self.settings, *key) for key in wanted]
        branches: list[Branch] = []
        for stem in stems:
            branches += _branches(stem, self.lengths)
        found = fleet(self.lab, self.corpus, [*stems, *branches], self.watch, label, TRANSFER)
        ends = iter(found[len(stems) :])
        for key in wanted:
            self.runs[key] = list(islice(ends, len(self.lengths)))
            self._losses[key] = [final_loss(run) for run in self.runs[key]]
        # branches that a failed stem never came to all come back as that stem
        self.trained = list({run.id: run for run in (*self.trained, *found)}.values())

    def first_seed(self, cell: Cell, tokens: int) -> dict[int, float | None]:
        """The losses of a cell's runs of a length with the first seed, by step of the grid."""
        here = self.losses(cell, tokens).items()
        return {step: loss for (step, seed), loss in here if seed == 0}

    def losses(self, cell: Cell, tokens: int) -> dict[tuple[int, int], float | None]:
        """All losses of a cell at a length, by step and seed."""
        index = self.lengths.index(tokens)
        found = self._losses.items()
        return {(step, seed): losses[index] for (at, step, seed), losses in found if at == cell}

    def model(self, cell: Cell) -> Model:
        """Of a cell's runs."""
        runs = (runs[0] for (at, _, _), runs in self.runs.items() if at == cell)
        return next(runs).recipe.model

    def rows(self) -> list[TransferRow]:
        """The study's table."""
        rows = []
        for (cell, step, _), runs in sorted(self.runs.items(), key=_in_order):
            for run in {run.id: run for run in runs}.values():
                rows += rows_at_end(
                    TransferRow,
                    run,
                    "branch",
                    parametrization=cell.parametrization,
                    width=cell.size.width,
                    depth=cell.size.depth,
                    batch=cell.batch,
                    lr=self.design.rate(step),
                )
        return rows


def _stem(
    corpus: Corpus, design: Design, settings: Settings, cell: Cell, step: int, seed: int
) -> Recipe:
    lr = design.rate(step)
    stem = proxy(
        corpus,
        cell.size.width,
        cell.size.depth,
        _leaves(design.longest, cell.batch),
        name=f"{cell.parametrization}-{cell.size}-lr{lr:.2g}",
        seed=seed,
        model={"parametrization": cell.parametrization},
        optimizer={"lr": lr},
        schedule={
            "decay": 0,
            "warmup": max(cell.batch, stem_warmup(design.shortest, design.longest)),
        },
        train={"batch": cell.batch},
    )
    return stem.change(**settings)


def _branches(stem: Recipe, lengths: Iterable[int]) -> list[Branch]:
    """One for each length, in whole steps."""
    found = []
    for tokens in lengths:
        batch = stem.train.batch
        at = _leaves(tokens, batch)
        decay = max(batch, tokens - tokens % batch - at)
        name = f"{stem.name}-{about(tokens)}"
        shape, floor = PAPER_DECAY.shape, PAPER_DECAY.floor
        found.append(Branch(stem, at, decay, shape=shape, floor=floor, name=name))
    return found


def _leaves(tokens: int, batch: int) -> int:
    """Where a branch of so many tokens leaves its stem, in whole steps of the batch; at the
    earliest after two.
    """
    return max(2, round((1 - PAPER_DECAY.share) * tokens / batch)) * batch


def around_best(losses: Losses) -> set[int]:
    """The steps that must be measured for the best one to have neighbours on either side. A loss of
    None is that of a run that diverged.
    """
    return {step for step in _around(_lowest(losses)) if abs(step) <= _FARTHEST}


def _around(step: int) -> set[int]:
    return set(range(step - _REACH, step + _REACH + 1))


def _lowest(losses: Losses) -> int:
    """The step with the lowest loss; the first one where every run diverged."""

    def height(step: int) -> float:
        loss = losses[step]
        return math.inf if loss is None else loss

    return min(losses, key=height)


def _in_order(item: tuple[Key, list[Run]]) -> tuple[str, int, int, int, int, int]:
    (cell, step, seed), _ = item
    return cell.parametrization, cell.size.depth, cell.size.width, cell.batch, step, seed
