"""Does the best learning rate stay where it is while the model grows (paper section 3.3), and where
does it go with the length and the batch? A grid of rates in half-octaves: one stem a rate, with a
branch at every length.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.laws.rate import BestRates, RateLaw, fit_rate
from windtunnel.model.shape import count
from windtunnel.quantities import about
from windtunnel.recipe import PARAMETRIZATIONS, Model, Recipe
from windtunnel.results.rate import RateFound
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
from windtunnel.scaling_recipe import Settings, rate_found, searched_settings
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import DECAY, DECAY_SHAPE, FLOOR, proxy, stem_warmup
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
    """One size of one parametrization, with one batch."""

    parametrization: str
    size: Size
    batch: int

    def __str__(self) -> str:
        return f"{self.parametrization} {self.size} batch {self.batch}"


# which cell, how many half-octaves from the first rate, which seed
Key = tuple[Cell, int, int]
Losses = Mapping[int, float | None]  # by step of the grid; None: diverged


def transfer(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder."""
    grid = _Grid(lab, corpus, design, watch)
    chains = [chain(design, name) for name in design.parametrizations]
    best: dict[Cell, int] = {}
    for index, cells in enumerate(zip(*chains, strict=True)):
        # the grid begins where the neighbour's best rate was found: that of the width before, and
        # for a further depth or batch that of the first width
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
        tokens=design.longest,
        batch=design.batches[0],
        lengths=tuple(sorted(design.lengths)),
        batches=design.batches,
        seeds=tuple(map(design.seeds_of, design.parametrizations)),
        corpus=corpus.folder.name,
        settings=grid.settings,
        parametrizations=results,
        core_minutes=core_minutes(grid.trained),
    )
    verdict, summary = judge(design, results)
    return write_study(
        lab,
        TRANSFER,
        rows=grid.rows(),
        verdict=verdict,
        summary=summary,
        numbers=numbers,
        runs=ids(grid.trained),
    )


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


def judge(design: Design, results: Mapping[str, ParametrizationRates]) -> tuple[Verdict, str]:
    """The verdict on the first parametrization and one sentence. A study that is too small has
    none, and says so.
    """
    missing = []
    if len(design.widths) < _WIDTHS:
        missing.append(f"{_WIDTHS} widths")
    if max(design.widths) < _SPAN * min(design.widths):
        missing.append(f"a span of {_SPAN}x in width")
    if design.longest // design.batches[0] < _STEPS:
        missing.append(f"{_STEPS} steps")
    summary = _summary(results)
    if missing:
        return None, f"{summary}; too small for a verdict, which needs {', '.join(missing)}"
    return ("pass" if results[design.parametrizations[0]].passes else "fail"), summary


class _Grid:
    """The runs of the study so far and their losses, in the order in which they were asked for."""

    def __init__(self, lab: Path, corpus: Corpus, design: Design, watch: Watch) -> None:
        self.lab, self.corpus, self.design, self.watch = lab, corpus, design, watch
        self.lengths = sorted(design.lengths)
        self.settings = searched_settings(lab, corpus.folder.name)
        self.trained: list[Run] = []
        # a branch for each length, from the shortest
        self.runs: dict[Key, list[Run]] = {}

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
            repeats += [(cell, step, seed) for step in sorted(steps) for seed in seeds]
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
        found = fleet(self.lab, self.corpus, [*stems, *branches], self.watch, label)
        ends = iter(found[len(stems) :])
        for key in wanted:
            self.runs[key] = list(islice(ends, len(self.lengths)))
        # branches that a failed stem never came to all come back as that stem
        self.trained = list({run.id: run for run in (*self.trained, *found)}.values())

    def first_seed(self, cell: Cell, tokens: int) -> dict[int, float | None]:
        """The losses of a cell's runs of a length with the first seed, by step of the grid."""
        here = self._losses(cell, tokens).items()
        return {step: loss for (step, seed), loss in here if seed == 0}

    def _losses(self, cell: Cell, tokens: int) -> dict[tuple[int, int], float | None]:
        """All losses of a cell at a length, by step and seed."""
        index = self.lengths.index(tokens)
        return {
            (step, seed): final_loss(runs[index])
            for (at, step, seed), runs in self.runs.items()
            if at == cell
        }

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

    def result(self, cells: Sequence[Cell]) -> ParametrizationRates:
        """What the runs say of one parametrization, of whose cells the first is the smallest."""
        bowls = {(c, tokens): self._bowl(c, tokens) for c in cells for tokens in self.lengths}
        width, depth, batch = self.design.widths[0], self.design.depths[0], self.design.batches[0]
        wide, deep = {}, {}
        for (cell, tokens), found in bowls.items():
            if found and tokens == self.lengths[-1] and cell.batch == batch:
                if cell.size.depth == depth:
                    wide[cell.size.width] = found
                if cell.size.width == width:
                    deep[cell.size.depth] = found
        law = self._law(bowls)
        first = bowls[cells[0], self.lengths[0]]
        over_width = drift_over(wide)
        return ParametrizationRates(
            sizes=tuple(
                self._size_rate(cell, tokens, here, first, law)
                for (cell, tokens), here in bowls.items()
            ),
            drift=Drifts(width=over_width, depth=drift_over(deep)),
            law=law and rate_found(law),
            passes=over_width is not None
            and len(wide) == len(self.design.widths)
            and within(over_width),
        )

    def _law(self, bowls: Mapping[tuple[Cell, int], Bowl | None]) -> RateLaw | None:
        """Through the lowest points of all bowls."""
        found = [(cell, tokens, here) for (cell, tokens), here in bowls.items() if here]
        if not found:
            return None
        best = BestRates(
            lr=np.array([self.design.rate(2 * here.vertex) for _, _, here in found]),
            params=np.array([self._params(cell) for cell, _, _ in found], float),
            tokens=np.array([tokens for _, tokens, _ in found], float),
            batch=np.array([cell.batch for cell, _, _ in found], float),
            # bowls are over octaves
            error=np.array([here.spread * math.log(2) for _, _, here in found]),
        )
        return fit_rate(best, expected_power(self._model(found[0][0])))

    def _params(self, cell: Cell) -> int:
        return count(self._model(cell)).params

    def _model(self, cell: Cell) -> Model:
        runs = (runs[0] for (at, _, _), runs in self.runs.items() if at == cell)
        return next(runs).recipe.model

    def _bowl(self, cell: Cell, tokens: int) -> Bowl | None:
        """In octaves of lr, through the points about the best rate that came to their end; None
        where these are too few or curve the wrong way.
        """
        near = around_best(self.first_seed(cell, tokens))
        steps, losses, seeds = [], [], []
        for (step, seed), loss in self._losses(cell, tokens).items():
            if step in near and loss is not None:
                steps.append(step / 2)
                losses.append(loss)
                seeds.append(seed)
        # a constant for each seed, a slope, a curvature, and one more to tell the noise
        if len(losses) < self.design.seeds_of(cell.parametrization) + 3:
            return None
        return bowl(steps, losses, seeds)

    def _size_rate(
        self, cell: Cell, tokens: int, found: Bowl | None, first: Bowl | None, law: RateLaw | None
    ) -> SizeRate:
        measured = [loss for loss in self._losses(cell, tokens).values() if loss is not None]
        params = self._params(cell)
        lr = interval = noise = regret = of_law = None
        if found is not None:
            # the bowl is over octaves, the grid in half-octaves
            lr, *ends = (self.design.rate(2 * x) for x in (found.vertex, *found.interval))
            interval, noise = (ends[0], ends[1]), found.noise
            regret = found.regret(first.vertex) if first else None
            if law is not None:
                by_law = law.at(params, tokens, cell.batch)
                of_law = found.regret(math.log2(by_law / self.design.lr))
        return SizeRate(
            width=cell.size.width,
            depth=cell.size.depth,
            params=params,
            tokens=tokens,
            batch=cell.batch,
            best_loss=min(measured, default=None),
            lr=lr,
            interval=interval,
            noise=noise,
            regret=regret,
            regret_of_law=of_law,
        )


def expected_power(model: Model) -> float:
    """Of the parameters, with which the best base rate should go by theory: 0 where the rules of
    the parametrization give matrices the share of it that theory asks for.
    """
    record = PARAMETRIZATIONS[model.parametrization]
    wider = model.model_copy(update={"width": 2 * model.width})
    rates = [record.rules(each)["matrix"].lr for each in (model, wider)]
    power = record.width_slopes["matrix lr"] - math.log2(rates[1] / rates[0])
    return power / 2  # parameters go as the square of the width


def _stem(
    corpus: Corpus, design: Design, settings: Settings, cell: Cell, step: int, seed: int
) -> Recipe:
    lr = design.rate(step)
    return proxy(
        corpus,
        cell.size.width,
        cell.size.depth,
        _leaves(design.longest, cell.batch),
        name=f"{cell.parametrization}-{cell.size}-lr{lr:.2g}",
        seed=seed,
        model={"parametrization": cell.parametrization, **settings.get("model", {})},
        optimizer={"lr": lr, **settings.get("optimizer", {})},
        schedule={
            "decay": 0,
            "warmup": max(cell.batch, stem_warmup(design.shortest, design.longest)),
        },
        train={"batch": cell.batch},
    )


def _branches(stem: Recipe, lengths: Iterable[int]) -> list[Branch]:
    """One for each length, in whole steps."""
    found = []
    for tokens in lengths:
        batch = stem.train.batch
        at = _leaves(tokens, batch)
        decay = max(batch, tokens - tokens % batch - at)
        name = f"{stem.name}-{about(tokens)}"
        found.append(Branch(stem, at, decay, shape=DECAY_SHAPE, floor=FLOOR, name=name))
    return found


def _leaves(tokens: int, batch: int) -> int:
    """Where a branch of so many tokens leaves its stem, in whole steps of the batch; at the
    earliest after two.
    """
    return max(2, round((1 - DECAY) * tokens / batch)) * batch


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
    drifts, laws = [], []
    for name, result in results.items():
        for axis, found in (("width", result.drift.width), ("depth", result.drift.depth)):
            if found:
                low, high = found.interval
                drifts.append(f"{name} {found.slope:+.2f} [{low:+.2f}, {high:+.2f}] over {axis}")
        if result.law:
            laws.append(f"{name} as {power_law(result.law)}")
    text = f"drift of the best lr in octaves an octave (90%): {'; '.join(drifts) or 'none found'}"
    return f"{text}; the best lr goes {', '.join(laws)}" if laws else text


def power_law(law: RateFound) -> str:
    """Its powers in words."""
    return f"N^{law.by_params:.2f} D^{law.by_tokens:.2f} B^{law.by_batch:.2f}"


def _in_order(item: tuple[Key, list[Run]]) -> tuple[str, int, int, int, int, int]:
    (cell, step, seed), _ = item
    return cell.parametrization, cell.size.depth, cell.size.width, cell.batch, step, seed
