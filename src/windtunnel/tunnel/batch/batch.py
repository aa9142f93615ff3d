"""Which batch needs the fewest tokens for a loss, and how it grows (paper section 3.2): a stem for
each batch, and branches that decay from it at several lengths. With the learning rate fixed, as the
paper has it, and scaled with the batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.shards import Corpus
from windtunnel.laws.batch import BATCH_LAWS, BatchFit, BatchLaw, Optima, fit_batch
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe
from windtunnel.results.batch import (
    BATCH,
    ArmFound,
    BatchNumbers,
    BatchRow,
    BatchSize,
    FittedLaw,
    LowestLoss,
    Regrets,
    SizeBatches,
    ThreeTermFound,
)
from windtunnel.results.study import Verdict, write_study
from windtunnel.scaling_recipe import batch_found
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.batch.design import Design
from windtunnel.tunnel.batch.regret import Fold, MeasuredSizes, three_term
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.study import core_minutes, final_loss, ids, rows_at_end
from windtunnel.tunnel.valley import LossGrid, Valley, optima_of, valleys

_EVALUATED = 8192  # tokens a source: every loss is compared on the same text
# what must have its best batch inside of those sampled for a law to count as measured
_ENOUGH_LENGTHS = 3
_ENOUGH_SIZES = 2


@dataclass(frozen=True)
class Branching:
    """One measured loss: a branch that leaves at `at` tokens and ends at `tokens`."""

    size: Size
    arm: str
    batch: int
    at: int
    tokens: int


def batch(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder."""
    runs, stems = _train(lab, corpus, design, watch)
    rows = []
    for one, run in runs.items():
        rows += rows_at_end(
            BatchRow,
            run,
            "branch",
            width=one.size.width,
            depth=one.size.depth,
            arm=one.arm,
            batch=one.batch,
            lr=design.rate(one.arm, one.batch),
            at=one.at,
        )
    params = {one.size: count(run.recipe.model).params for one, run in runs.items()}
    distinct = list({run.id: run for run in [*stems, *runs.values()]}.values())
    found = analyse(design, params, {one: final_loss(run) for one, run in runs.items()})
    numbers = found.model_copy(
        update={"corpus": corpus.folder.name, "core_minutes": core_minutes(distinct)}
    )
    verdict, summary = judge(numbers)
    return write_study(
        lab,
        BATCH,
        rows=rows,
        verdict=verdict,
        summary=summary,
        numbers=numbers,
        runs=ids(distinct),
    )


def stem_of(corpus: Corpus, design: Design, one: Branching) -> Recipe:
    """The stem that a branch leaves."""
    size, batch, lr = one.size, one.batch, design.rate(one.arm, one.batch)
    return proxy(
        corpus,
        size.width,
        size.depth,
        design.points[-1][0],
        name=f"{size}-b{batch}-lr{lr:.2g}",
        seed=design.seed,
        optimizer={"lr": lr},
        schedule={"decay": 0, "warmup": design.warmup},
        train={"batch": batch, "evaluate_tokens": _EVALUATED},
    )


def branches(corpus: Corpus, design: Design) -> dict[Branching, Branch]:
    """Every branch of the study, in the order of its table."""
    wanted = {}
    for size in design.sizes:
        for arm in design.arms:
            for batch in design.batches:
                for at, end in design.points:
                    one = Branching(size, arm, batch, at, end)
                    wanted[one] = Branch(stem_of(corpus, design, one), at, end - at)
    return wanted


def _train(
    lab: Path, corpus: Corpus, design: Design, watch: Watch
) -> tuple[dict[Branching, Run], list[Run]]:
    """The measured runs, and the stems. Runs that compile alike come one after the other: those
    of one width that take as many tokens through the model at once.
    """
    wanted = branches(corpus, design)
    stem = {one: stem_of(corpus, design, one) for one in wanted}
    alike: dict[tuple[int, int], list[Branching]] = {}
    for one in wanted:
        part = stem[one].train.micro_batch
        alike.setdefault((one.size.width, -part), []).append(one)  # large parts first
    runs: dict[Branching, Run] = {}
    stems: list[Run] = []
    for (width, _), together in sorted(alike.items()):
        # arms that agree on the rate of a batch share its stem
        rated = {(one.size, one.batch, design.rate(one.arm, one.batch)): one for one in together}
        own = [stem[one] for one in rated.values()]
        batches = ", ".join(map(str, sorted({one.batch for one in together})))
        label = f"batch: width {width}, {batches} tokens"
        asked = [*own, *(wanted[one] for one in together)]
        found = fleet(lab, corpus, asked, watch, label, BATCH)
        stems += found[: len(own)]
        runs.update(zip(together, found[len(own) :], strict=True))
    return {one: runs[one] for one in wanted}, stems


def analyse(
    design: Design, params: Mapping[Size, int], losses: Mapping[Branching, float | None]
) -> BatchNumbers:
    """The study's numbers, from the measured losses alone. A loss of None is that of a run that
    diverged.
    """
    arms = {}
    for arm in design.arms:
        arms[arm] = _arm(design, MeasuredSizes(_grids(design, losses, arm), params))
    first = arms[design.arms[0]]
    return BatchNumbers(
        sizes=tuple(
            BatchSize(width=size.width, depth=size.depth, params=params[size])
            for size in design.sizes
        ),
        batches=design.batches,
        lengths=tuple(end for _, end in design.points),
        lr=design.lr,
        laws=first.laws,
        chosen=first.chosen,
        arms=arms,
    )


def _grids(
    design: Design, losses: Mapping[Branching, float | None], arm: str
) -> dict[Size, LossGrid]:
    """The losses of an arm by size, batch and length, a diverged run's as nan."""
    batches = sorted(design.batches)
    ends = np.array([end for _, end in design.points], float)
    found = {}
    for size in design.sizes:
        rows = []
        for batch in batches:
            rows.append([losses[Branching(size, arm, batch, *point)] for point in design.points])
        # in an array of floats None is nan
        found[size] = LossGrid(np.array(batches, float), ends, np.array(rows, float))
    return found


def _arm(design: Design, measured: MeasuredSizes) -> ArmFound:
    """What one arm says."""
    every = valleys(list(measured.grids.values()))
    found = dict(zip(design.sizes, every.by_grid, strict=True))
    best = _best_batches(found, measured.params)
    laws = {}
    for name in BATCH_LAWS:
        fitted = _fit(name, best)
        if fitted is not None:
            laws[name] = fitted
    regret = Regrets(
        size=measured.held_out(best.optima, _sizes_left_out(design, measured, best)),
        longest=measured.held_out(best.optima, [_longest_left_out(design, measured, best)]),
    )
    three = three_term(measured.grids, measured.params)
    return ArmFound(
        noise=every.noise,
        skew=every.skew,
        flatness=every.flatness,
        sizes=tuple(_size(size, measured, found[size]) for size in design.sizes),
        laws={name: batch_found(fitted) for name, fitted in laws.items()},
        three_term=three and ThreeTermFound(**asdict(three), exponent=three.exponent),
        regret=regret,
        chosen=_chosen(laws, regret),
    )


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The best batches that lie inside of those sampled; the same as they might as well be; and
    the index of the size that each is of.
    """

    optima: Optima
    redrawn: list[Optima]
    size: NDArray[np.int64]


def _best_batches(found: Mapping[Size, Sequence[Valley]], params: Mapping[Size, int]) -> _Best:
    inside: list[Valley] = []
    sizes: list[int] = []
    counts: list[int] = []
    for index, (size, each) in enumerate(found.items()):
        for valley in each:
            if valley.where == "inside":
                inside.append(valley)
                sizes.append(index)
                counts.append(params[size])
    optima = optima_of(inside, counts)
    # (draws, best batches): of each draw all of them, so that errors that they share stay shared
    batches = np.array([valley.batches for valley in inside]).T
    losses = np.array([valley.losses for valley in inside]).T
    redrawn = []
    for batch, loss in zip(batches, losses, strict=True):
        redrawn.append(replace(optima, batch=batch, loss=loss))
    return _Best(optima=optima, redrawn=redrawn, size=np.array(sizes, int))


def _fit(name: str, best: _Best) -> BatchFit[BatchLaw] | None:
    """A law of that name through the best batches; None where they can't tell it."""
    try:
        return fit_batch(name, best.optima, best.redrawn)
    except ValueError:
        return None


def _sizes_left_out(design: Design, measured: MeasuredSizes, best: _Best) -> list[Fold]:
    """One size after the other left out, and the law tried at all of its lengths."""
    folds = []
    for index, size in enumerate(design.sizes):
        others = {other: here for other, here in measured.grids.items() if other != size}
        folds.append(Fold(kept=best.size != index, grids=others, tried=[(size, None)]))
    return folds


def _longest_left_out(design: Design, measured: MeasuredSizes, best: _Best) -> Fold:
    """The longest length left out, and the law tried there."""
    last = len(design.points) - 1
    shorter = {}
    for size, here in measured.grids.items():
        shorter[size] = LossGrid(here.batches, here.tokens[:last], here.loss[:, :last])
    return Fold(
        kept=best.optima.tokens <= design.points[last - 1][1],
        grids=shorter,
        tried=[(size, last) for size in design.sizes],
    )


def _chosen(laws: Iterable[str], regret: Regrets) -> str | None:
    """The law with the least regret on a size left out; with too few sizes for that, on the longest
    length left out.
    """
    for held_out in (regret.size, regret.longest):
        told = {}
        for name in laws:
            nats = held_out[name]
            if nats is not None:
                told[name] = nats
        if told:
            return min(told, key=told.__getitem__)
    return None


def _size(size: Size, measured: MeasuredSizes, found: Sequence[Valley]) -> SizeBatches:
    here = measured.grids[size]
    return SizeBatches(
        width=size.width,
        depth=size.depth,
        params=measured.params[size],
        levels=tuple(valley.told() for valley in found),
        best=tuple(
            LowestLoss(tokens=int(here.tokens[at]), loss=here.best(at)) for at in here.compared()
        ),
    )


def judge(numbers: BatchNumbers) -> tuple[Verdict, str]:
    """The verdict and one sentence: `pass` where enough lengths of enough sizes have their best
    batch inside of those sampled, else none.
    """
    main = next(iter(numbers.arms.values()))
    inside = [_inside(size) for size in main.sizes]
    total = sum(len(size.levels) for size in main.sizes)
    enough = sum(here >= _ENOUGH_LENGTHS for here in inside) >= _ENOUGH_SIZES
    passed = enough and main.chosen is not None
    parts = [f"{sum(inside)} of {total} best batches lie inside the sampled range"]
    if not passed:
        lacking = (
            f"too few to trust a law, which needs {_ENOUGH_LENGTHS} lengths of each of "
            f"{_ENOUGH_SIZES} sizes"
        )
        if sum(inside) < total:
            lacking += ": sample more batches on the side where the best ones fall outside"
        parts.append(lacking)
    for arm, found in numbers.arms.items():
        if found.chosen is not None:
            parts.append(f"lr {arm}: {_sentence(found, found.chosen)}")
    return ("pass" if passed else None), "; ".join(parts)


def formula(name: str, law: FittedLaw) -> str:
    """The law in one line, such as `bs = 1.75 D^0.50`: L is the loss, D tokens, N parameters."""
    return BATCH_LAWS[name].formula.format(**law.constants)


def _inside(size: SizeBatches) -> int:
    """At how many lengths its best batch lies inside of those sampled."""
    return sum(level.where == "inside" for level in size.levels)


def _sentence(found: ArmFound, name: str) -> str:
    regret = found.regret.size[name]
    if regret is None:
        regret = found.regret.longest[name]
    return f"{formula(name, found.laws[name])} ({regret:.4f} nats of regret where held out)"
