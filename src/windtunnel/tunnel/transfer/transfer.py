"""Does the best learning rate stay where it is while the model grows (paper section 3.3), and where
does it go with the length and the batch?
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.laws.rate import BestRates, RateLaw, fit_rate
from windtunnel.model.shape import count
from windtunnel.recipe import PARAMETRIZATIONS, Model
from windtunnel.results.study import Verdict, write_study
from windtunnel.results.transfer import (
    TRANSFER,
    DriftFound,
    Drifts,
    ParametrizationRates,
    SizeRate,
    TransferNumbers,
)
from windtunnel.scaling_recipe import batch_found, rate_found
from windtunnel.train.loop import Watch
from windtunnel.tunnel.study import core_minutes, ids
from windtunnel.tunnel.transfer.batches import batch_law, best_batches
from windtunnel.tunnel.transfer.bowl import Bowl, bowl, drift
from windtunnel.tunnel.transfer.design import Design
from windtunnel.tunnel.transfer.grid import Cell, Grid, around_best, chain
from windtunnel.tunnel.valley import Valley

ALLOWED_DRIFT = 0.15  # octaves of lr an octave of width
# What the law's rate may cost anywhere, nats a token: about as much as seeds differ.
ALLOWED_REGRET = 0.01
# what a study needs to get a verdict
_STEPS = 400
_WIDTHS, _SPAN = 3, 8
# and one of a single size, which asks for the law of length and batch alone
_LENGTHS, _LENGTH_SPAN = 3, 4

# by cell and length; None where there is no minimum to speak of
Bowls = dict[tuple[Cell, int], Bowl | None]


def transfer(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder."""
    grid = Grid(lab, corpus, design, watch)
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
        name: rates_of(grid, cells)
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


def judge(design: Design, results: Mapping[str, ParametrizationRates]) -> tuple[Verdict, str]:
    """The verdict on the first parametrization and one sentence: whether its best rate stays where
    it is over the width, or in a study of a single size, whether its law gives good rates for every
    length and batch. A study that is too small has none, and says so.
    """
    first, summary = results[design.parametrizations[0]], _summary(results)
    passes = first.passes
    if design.one_size:
        passes = _follows(first)
        if (most := _highest_regret(first)) is not None:
            summary += f"; following it costs at most {most:.4f} nats/token where it was measured"
    if missing := _missing(design):
        return None, f"{summary}; too small for a verdict, which needs {', '.join(missing)}"
    return ("pass" if passes else "fail"), summary


def _missing(design: Design) -> list[str]:
    """What the study's question needs and the design has not."""
    missing = []
    if design.one_size:
        if len(design.lengths) < _LENGTHS:
            missing.append(f"{_LENGTHS} lengths")
        if design.longest < _LENGTH_SPAN * design.shortest:
            missing.append(f"a span of {_LENGTH_SPAN}x in length")
    else:
        if len(design.widths) < _WIDTHS:
            missing.append(f"{_WIDTHS} widths")
        if max(design.widths) < _SPAN * min(design.widths):
            missing.append(f"a span of {_SPAN}x in width")
    if design.longest // design.batches[0] < _STEPS:
        missing.append(f"{_STEPS} steps")
    return missing


def _follows(rates: ParametrizationRates) -> bool:
    """Whether the law's rate is good at every length and batch."""
    found = [size.regret_of_law for size in rates.sizes]
    return all(regret is not None and regret <= ALLOWED_REGRET for regret in found)


def _highest_regret(rates: ParametrizationRates) -> float | None:
    found = [size.regret_of_law for size in rates.sizes if size.regret_of_law is not None]
    return max(found, default=None)


def rates_of(grid: Grid, cells: Sequence[Cell]) -> ParametrizationRates:
    """What the runs say of one parametrization, of whose cells the first is the smallest."""
    design = grid.design
    bowls: Bowls = {}
    for cell in cells:
        for tokens in grid.lengths:
            bowls[cell, tokens] = _bowl(grid, cell, tokens)
    width, depth, batch = design.widths[0], design.depths[0], design.batches[0]
    wide, deep = {}, {}
    for (cell, tokens), found in bowls.items():
        if found and tokens == grid.lengths[-1] and cell.batch == batch:
            if cell.size.depth == depth:
                wide[cell.size.width] = found
            if cell.size.width == width:
                deep[cell.size.depth] = found
    law = _law(grid, bowls)
    found = _best_batches(grid, cells, bowls)
    batches = batch_law(found, design.batches, count(grid.model(cells[0])).params)
    first = bowls[cells[0], grid.lengths[0]]
    sizes = []
    for (cell, tokens), here in bowls.items():
        sizes.append(_size_rate(grid, cell, tokens, here, first, law))
    over_width = drift_over(wide)
    return ParametrizationRates(
        sizes=tuple(sizes),
        drift=Drifts(width=over_width, depth=drift_over(deep)),
        law=law and rate_found(law),
        best_batches=tuple(valley.told() for valley in found),
        batch_law=batches and batch_found(batches),
        passes=over_width is not None and len(wide) == len(design.widths) and within(over_width),
    )


def _bowl(grid: Grid, cell: Cell, tokens: int) -> Bowl | None:
    """In octaves of lr, through the points about the best rate that came to their end; None where
    these are too few or curve the wrong way.
    """
    near = around_best(grid.first_seed(cell, tokens))
    steps, losses, seeds = [], [], []
    for (step, seed), loss in grid.losses(cell, tokens).items():
        if step in near and loss is not None:
            steps.append(step / 2)
            losses.append(loss)
            seeds.append(seed)
    # a constant for each seed, a slope, a curvature, and one more to tell the noise
    if len(losses) < grid.design.seeds_of(cell.parametrization) + 3:
        return None
    return bowl(steps, losses, seeds)


def _best_batches(grid: Grid, cells: Sequence[Cell], bowls: Bowls) -> list[Valley]:
    """Of the first size, which is measured with every batch."""
    alike = [cell for cell in cells if cell.size == cells[0].size]
    losses = []
    for cell in alike:
        losses.append([_lowest_loss(grid, cell, at, bowls[cell, at]) for at in grid.lengths])
    return best_batches([cell.batch for cell in alike], grid.lengths, losses)


def _lowest_loss(grid: Grid, cell: Cell, tokens: int, found: Bowl | None) -> float:
    """Over the rate, the mean over seeds: of the bowl, or where it is too flat for one, of the
    rates that were run; nan where all diverged.
    """
    if found:
        return found.loss
    by_rate: dict[int, list[float]] = {}
    for (step, _), loss in grid.losses(cell, tokens).items():
        if loss is not None:
            by_rate.setdefault(step, []).append(loss)
    return min((fmean(losses) for losses in by_rate.values()), default=math.nan)


def _law(grid: Grid, bowls: Bowls) -> RateLaw | None:
    """Through the lowest points of all bowls."""
    found = [(cell, tokens, here) for (cell, tokens), here in bowls.items() if here]
    if not found:
        return None
    best = BestRates(
        lr=np.array([grid.design.rate(2 * here.vertex) for _, _, here in found]),
        params=np.array([count(grid.model(cell)).params for cell, _, _ in found], float),
        tokens=np.array([tokens for _, tokens, _ in found], float),
        batch=np.array([cell.batch for cell, _, _ in found], float),
        # bowls are over octaves
        error=np.array([here.spread * math.log(2) for _, _, here in found]),
    )
    first, _, _ = found[0]
    return fit_rate(best, expected_power(grid.model(first)))


def _size_rate(
    grid: Grid,
    cell: Cell,
    tokens: int,
    found: Bowl | None,
    first: Bowl | None,
    law: RateLaw | None,
) -> SizeRate:
    measured = [loss for loss in grid.losses(cell, tokens).values() if loss is not None]
    params = count(grid.model(cell)).params
    lr = interval = noise = regret = of_law = None
    if found is not None:
        # the bowl is over octaves, the grid in half-octaves
        lr, *ends = (grid.design.rate(2 * x) for x in (found.vertex, *found.interval))
        interval, noise = (ends[0], ends[1]), found.noise
        regret = found.regret(first.vertex) if first else None
        if law is not None:
            by_law = law.at(params, tokens, cell.batch)
            of_law = found.regret(math.log2(by_law / grid.design.lr))
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
    said = []
    for name, result in results.items():
        drifts = []
        for axis, found in (("width", result.drift.width), ("depth", result.drift.depth)):
            if found:
                low, high = found.interval
                moved = f"{found.slope:+.2f} [{low:+.2f}, {high:+.2f}]"
                drifts.append(f"by {moved} octaves for an octave of {axis}")
        told = [f"moves {' and '.join(drifts)} (90% interval)"] if drifts else []
        told += [f"goes as {result.law.powers}"] if result.law else []
        which = " and ".join(told) or "was found for too few sizes to say how it moves"
        said.append(f"with {name} the best rate {which}")
    return "; ".join(said)
