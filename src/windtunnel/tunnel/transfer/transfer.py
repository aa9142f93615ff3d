"""Does the best learning rate stay where it is while the model grows? A grid of rates in
half-octaves at several widths and depths, by parametrization (paper section 3.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.fleet import fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.study import final, rows_at_end, training_seconds, write_study
from windtunnel.tunnel.transfer.bowl import Bowl, Drift, bowl, drift

ALLOWED_DRIFT = 0.15  # octaves of lr an octave of width
_WIDTHS, _SPAN, _STEPS = 3, 8, 400  # of a study that gets a verdict
_REACH = 2  # half-octaves measured on either side of the best rate
_FARTHEST = 14  # half-octaves from the first rate; further out no minimum is looked for


@dataclass(frozen=True)
class Size:
    parametrization: str
    width: int
    depth: int


@dataclass(frozen=True)
class Design:
    """What is measured: every width at the first depth, every further depth at the first width."""

    parametrizations: Sequence[str] = ("minicpm", "standard")
    widths: Sequence[int] = (32, 64, 128, 256)
    depths: Sequence[int] = (2, 8)
    tokens: int = 819_200
    batch: int = 2048
    seeds: Sequence[int] = (3, 2)  # of the points about the best rate, one number a parametrization
    lr: float = 0.01  # where the grid begins

    def seeds_of(self, parametrization: str) -> int:
        return dict(zip(self.parametrizations, self.seeds, strict=True))[parametrization]

    def chain(self, parametrization: str) -> list[Size]:
        sizes = [Size(parametrization, width, self.depths[0]) for width in self.widths]
        return sizes + [Size(parametrization, self.widths[0], depth) for depth in self.depths[1:]]

    def recipe(self, corpus: Corpus, size: Size, step: int, seed: int) -> Recipe:
        """`step` half-octaves from the first rate."""
        return proxy(
            corpus,
            size.width,
            size.depth,
            self.tokens,
            name=f"{size.parametrization}-{size.width}x{size.depth}-lr{self.rate(step):.2g}",
            seed=seed,
            model={"parametrization": size.parametrization},
            optimizer={"lr": self.rate(step)},
            train={"batch": self.batch},
        )

    def rate(self, step: float) -> float:
        return float(f"{self.lr * 2 ** (step / 2):.6g}")


def transfer(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder."""
    chains = [design.chain(p) for p in design.parametrizations]
    runs: dict[tuple[Size, int, int], Run] = {}
    best: dict[Size, int] = {}
    for index, sizes in enumerate(zip(*chains, strict=True)):
        beside = (
            0 if index >= len(design.widths) else index - 1
        )  # the neighbour where the grid begins
        begin = {
            size: best[chain[beside]] if index else 0
            for size, chain in zip(sizes, chains, strict=True)
        }
        best |= _measure(lab, corpus, design, begin, runs, watch)
    rows = [
        row
        for (size, step, _), run in sorted(runs.items(), key=_in_order)
        for row in rows_at_end(
            run,
            "run",
            parametrization=size.parametrization,
            width=size.width,
            depth=size.depth,
            batch=design.batch,
            lr=design.rate(step),
        )
    ]
    results = {
        p: _result(design, chain, runs)
        for p, chain in zip(design.parametrizations, chains, strict=True)
    }
    seconds = sum(training_seconds(run) for run in runs.values())
    numbers = {
        "tokens": design.tokens,
        "batch": design.batch,
        "seeds": list(design.seeds),
        "corpus": corpus.folder.name,
        "parametrizations": results,
        "core_minutes": round(seconds / 60, 1),
    }
    verdict, summary = judge(design, results)
    return write_study(lab, "transfer", rows, verdict, summary, numbers, runs.values())


def judge(design: Design, results: dict[str, Any]) -> tuple[Literal["pass", "fail"] | None, str]:
    """The verdict on the first parametrization and one sentence. A study that is too small has
    none, and says so.
    """
    missing = [
        text
        for text, short in (
            (f"{_WIDTHS} widths", len(design.widths) < _WIDTHS),
            (f"a span of {_SPAN}x in width", max(design.widths) < _SPAN * min(design.widths)),
            (f"{_STEPS} steps", design.tokens // design.batch < _STEPS),
        )
        if short
    ]
    if missing:
        return (
            None,
            f"{_summary(results)}; too small for a verdict, which needs {', '.join(missing)}",
        )
    return ("pass" if results[design.parametrizations[0]]["passes"] else "fail"), _summary(results)


def _measure(
    lab: Path,
    corpus: Corpus,
    design: Design,
    begin: dict[Size, int],
    runs: dict[tuple[Size, int, int], Run],
    watch: Watch,
) -> dict[Size, int]:
    """Measure one size of every parametrization from its step of the grid on: with one seed until
    the best rate has neighbours on either side, then with all seeds. Returns the best steps.
    """
    label = "transfer: " + ", ".join(f"{s.parametrization} {s.width}x{s.depth}" for s in begin)

    def train(wanted: list[tuple[Size, int, int]]) -> None:
        recipes = [design.recipe(corpus, *key) for key in wanted]
        runs.update(zip(wanted, fleet(lab, corpus, recipes, watch, label), strict=True))

    def losses(size: Size) -> dict[int, float]:
        return {
            step: _loss(run) for (s, step, seed), run in runs.items() if s == size and seed == 0
        }

    asked = {size: set(range(step - _REACH, step + _REACH + 1)) for size, step in begin.items()}
    while wanted := [
        (s, step, 0) for s in begin for step in sorted(asked[s]) if (s, step, 0) not in runs
    ]:
        train(wanted)
        asked = {size: around_best(losses(size)) for size in begin}
    train(
        [
            (s, step, seed)
            for s in begin
            for step in sorted(asked[s])
            for seed in range(1, design.seeds_of(s.parametrization))
        ]
    )
    return {size: min(found := losses(size), key=found.__getitem__) for size in begin}


def around_best(losses: dict[int, float]) -> set[int]:
    """The steps that must be measured for the best one to have neighbours on either side."""
    best = min(losses, key=losses.__getitem__)
    wanted = range(best - _REACH, best + _REACH + 1)
    return {step for step in wanted if abs(step) <= _FARTHEST}


def _loss(run: Run) -> float:
    validation = final(run)
    return math.inf if validation is None else validation.loss


def _result(
    design: Design, chain: Sequence[Size], runs: dict[tuple[Size, int, int], Run]
) -> dict[str, Any]:
    bowls = {size: _bowl(design, size, runs) for size in chain}
    widths = [size for size in chain if size.depth == design.depths[0] and bowls[size]]
    depths = [size for size in chain if size.width == design.widths[0] and bowls[size]]
    proxy_best = bowls[chain[0]]
    found = {
        "width": _drift_of([s.width for s in widths], [b for s in widths if (b := bowls[s])]),
        "depth": _drift_of([s.depth for s in depths], [b for s in depths if (b := bowls[s])]),
    }
    passes = (
        found["width"] is not None and len(widths) == len(design.widths) and within(found["width"])
    )
    return {
        "sizes": [_size_result(design, size, bowls[size], proxy_best, runs) for size in chain],
        "drift": {
            axis: d and {"slope": d.slope, "interval": d.interval} for axis, d in found.items()
        },
        "passes": passes,
    }


def _drift_of(sizes: Sequence[int], bowls: Sequence[Bowl]) -> Drift | None:
    return drift(np.log2(np.asarray(sizes, float)).tolist(), bowls) if len(bowls) > 1 else None


def within(found: Drift) -> bool:
    """Whether the whole interval lies inside of what is allowed."""
    return found.interval[0] >= -ALLOWED_DRIFT and found.interval[1] <= ALLOWED_DRIFT


def _bowl(design: Design, size: Size, runs: dict[tuple[Size, int, int], Run]) -> Bowl | None:
    """In octaves of lr, through the points about the best rate that every seed has and that did
    not diverge.
    """
    here = {(step, seed): _loss(run) for (s, step, seed), run in runs.items() if s == size}
    first = {step: loss for (step, seed), loss in here.items() if seed == 0}
    points = [
        (step, seed)
        for step, seed in here
        if step in around_best(first) and math.isfinite(here[step, seed])
    ]
    if len(points) < design.seeds_of(size.parametrization) + 3:
        return None
    return bowl(
        [step / 2 for step, _ in points], [here[p] for p in points], [seed for _, seed in points]
    )


def _size_result(
    design: Design,
    size: Size,
    found: Bowl | None,
    proxy_best: Bowl | None,
    runs: dict[tuple[Size, int, int], Run],
) -> dict[str, Any]:
    one = next(run for (s, _, _), run in runs.items() if s == size)
    losses = {(step, seed): _loss(run) for (s, step, seed), run in runs.items() if s == size}
    result: dict[str, Any] = {
        "width": size.width,
        "depth": size.depth,
        "params": count(one.recipe.model).params,
        "best_loss": min(losses.values()),
    }
    if found is None:
        return result | {"lr": None, "interval": None, "noise": None, "regret": None}
    octaves = [2 * found.vertex, 2 * found.interval[0], 2 * found.interval[1]]
    lr, low, high = (design.rate(step) for step in octaves)
    regret = found.regret(proxy_best.vertex) if proxy_best else None
    return result | {"lr": lr, "interval": [low, high], "noise": found.noise, "regret": regret}


def _summary(results: dict[str, Any]) -> str:
    parts = []
    for name, result in results.items():
        for axis, found in result["drift"].items():
            if found:
                low, high = found["interval"]
                parts.append(f"{name} {found['slope']:+.2f} [{low:+.2f}, {high:+.2f}] over {axis}")
    return "drift of the best lr in octaves an octave (90%): " + "; ".join(parts)


def _in_order(item: tuple[tuple[Size, int, int], Run]) -> tuple[Any, ...]:
    (size, step, seed), _ = item
    return size.parametrization, size.depth, size.width, step, seed
