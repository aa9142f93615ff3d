"""The coordinate check: does everything that a model computes and learns keep its size as the
model grows?

A few steps at several widths and depths, the slope of log2 of each quantity on log2 of the size,
and a verdict against `theory`. It is necessary and not sufficient for a rate that transfers: only
training to the end shows that.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe, parse
from windtunnel.results.check import (
    CHECK,
    Axis,
    Causes,
    CheckedDesign,
    CheckNumbers,
    CheckRow,
    Slope,
)
from windtunnel.results.study import write_study
from windtunnel.train.loop import Watch
from windtunnel.tunnel.check.design import Design
from windtunnel.tunnel.check.judge import SizeReadings, causes_of, judge
from windtunnel.tunnel.check.probe import Reading, readings

_VOCAB = 512  # of generated tokens
_FEWEST_SEEDS = 3  # for an interval
_FOLLOWS = 0.5  # share of generated tokens that follow from the one before

# a size on an axis: the axis, where it stands on it, its width and its depth
_Size = tuple[Axis, int, int, int]


def check(lab: Path, corpus: Corpus | None, design: Design, watch: Watch) -> Path:
    """Run the check and return its study's folder. Without a corpus the tokens are generated.
    Raises InputError for a design that gives no slope.
    """
    _refuse(design)
    if corpus is None:
        window, vocab = generated_window(design.context), _VOCAB
    else:
        window, vocab = _first_window(corpus, design.context), corpus.manifest.vocab
    sizes = measure(design, window, vocab, watch.show)
    by_width = judge(sizes, "width", design.parametrization, design.optimizer)
    by_depth = judge(sizes, "depth", design.parametrization, design.optimizer)
    slopes = [*by_width, *by_depth]
    failed = any(slope.verdict == "fail" for slope in slopes)
    causes = Causes(width=causes_of(by_width, "width"), depth=causes_of(by_depth, "depth"))
    numbers = CheckNumbers(
        design=CheckedDesign(**asdict(design)),
        corpus=corpus.folder.name if corpus else None,
        causes=causes,
        quantities=tuple(slopes),
    )
    return write_study(
        lab,
        CHECK,
        rows=_rows(sizes),
        verdict="fail" if failed else "pass",
        summary=_summary(design, slopes, causes),
        numbers=numbers,
        runs=[],
    )


def measure(
    design: Design,
    window: np.ndarray,
    vocab: int,
    show: Callable[[str, float, float | None, str], None] = lambda *_: None,
) -> list[SizeReadings]:
    """Every size of both axes; a size that stands on both is trained once. `window`: (1, context +
    1) tokens, which are learnt and read.
    """
    sizes: list[_Size] = []
    for width in design.widths:
        sizes.append(("width", width, width, design.depth))
    for depth in design.depths:
        sizes.append(("depth", depth, design.width, depth))
    # about what each takes, for the bar
    work = [width**2 * depth + width * vocab for _, _, width, depth in sizes]
    done: dict[tuple[int, int], list[Reading]] = {}
    found = []
    for index, (axis, size, width, depth) in enumerate(sizes):
        show("check", sum(work[:index]), sum(work), f"width {width}, depth {depth}")
        recipe = recipe_of(design, width, depth, vocab)
        if (width, depth) not in done:
            done[width, depth] = readings(recipe, range(design.seeds), window, design.steps)
        read = done[width, depth]
        found.append(SizeReadings(axis=axis, size=size, recipe=recipe, readings=read))
    show("check", sum(work), sum(work), "")
    return found


def recipe_of(design: Design, width: int, depth: int, vocab: int) -> Recipe:
    """One window a step, at a constant rate; the least width and the design's depth are the
    base.
    """
    values = {
        "name": f"check-{width}x{depth}",
        "model": {
            "width": width,
            "depth": depth,
            "heads": width // design.head_size,
            "vocab": vocab,
            "base_width": min(design.widths),
            "base_depth": design.depth,
            "tied": design.tied,
            "parametrization": design.parametrization,
            "embedding_as": design.embedding_as,
        },
        "data": {"corpus": "check", "context": design.context},
        "optimizer": {"kind": design.optimizer, "lr": design.lr, "eps": design.eps},
        "schedule": {"tokens": max(design.steps) * design.context, "warmup": 0, "decay": 0},
        "train": {"batch": design.context},
    }
    return parse(values, "the check's recipe")


def generated_window(context: int, vocab: int = _VOCAB, seed: int = 0) -> np.ndarray:
    """(1, context + 1) tokens with a Zipf distribution, every other one on average the follower
    of the one before, so that there is something to learn besides frequencies.
    """
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, vocab + 1)
    drawn = rng.choice(vocab, context + 1, p=chances / chances.sum())
    follower = rng.permutation(vocab)
    follows = rng.random(context + 1) < _FOLLOWS
    tokens = drawn.copy()
    # one by one: a follower may itself be followed
    for i in range(1, len(tokens)):
        tokens[i] = follower[tokens[i - 1]] if follows[i] else drawn[i]
    return tokens[None].astype(np.int64)


def _first_window(corpus: Corpus, context: int) -> np.ndarray:
    """The first window that a run of seed 0 reads."""
    recipe = recipe_of(Design(context=context), width=32, depth=2, vocab=corpus.manifest.vocab)
    return Windows(corpus, recipe.data, 0).read(0, context)


def _refuse(design: Design) -> None:
    """Raise InputError for a design that gives no slope."""
    for name, sizes in (("widths", design.widths), ("depths", design.depths)):
        if len(set(sizes)) < 2 or min(sizes) < 1:
            raise InputError(
                f"--{name} {','.join(map(str, sizes))}: expected two or more different sizes, "
                "above zero"
            )
    for width in (*design.widths, design.width):
        if width % design.head_size:
            raise InputError(
                f"--widths: {width} is not a multiple of the head size, {design.head_size}"
            )
    if min(design.depths) < 2:
        raise InputError(f"--depths: expected at least 2, got {min(design.depths)}")
    if design.seeds < _FEWEST_SEEDS:
        raise InputError(
            f"--seeds {design.seeds}: expected at least {_FEWEST_SEEDS}, for an interval"
        )


def _rows(sizes: Sequence[SizeReadings]) -> list[CheckRow]:
    rows = []
    for one in sizes:
        counts = count(one.recipe.model)
        for reading in one.readings:
            for seed, value in enumerate(reading.values):
                rows.append(
                    CheckRow(
                        params=counts.params,
                        params_total=counts.params_total,
                        tokens=reading.t * one.recipe.train.batch,
                        seed=seed,
                        kind="check",
                        axis=one.axis,
                        size=one.size,
                        t=reading.t,
                        quantity=reading.quantity,
                        statistic=reading.statistic,
                        value=value,
                    )
                )
    return rows


def _summary(design: Design, slopes: Sequence[Slope], causes: Causes) -> str:
    failed = sum(slope.verdict == "fail" for slope in slopes)
    checked = design.parametrization
    if design.optimizer != "adamw":
        checked += f" with {design.optimizer}"
    sizes = (
        f"widths {min(design.widths)} to {max(design.widths)} and depths {min(design.depths)} to "
        f"{max(design.depths)}"
    )
    if not failed:
        return f"{checked} passes over {sizes}: all {len(slopes)} slopes are what the theory allows"
    named = "; ".join(f"{axis}: {', '.join(faults)}" for axis, faults in causes if faults)
    return (
        f"{checked} fails over {sizes}: {failed} of {len(slopes)} slopes are not "
        f"what the theory allows; {named}"
    )
