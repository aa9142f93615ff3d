"""The coordinate check: does everything that a model computes and learns keep its size as the
model grows?

A few steps at several widths and depths, the slope of log2 of each quantity on log2 of the size,
and a verdict against `theory`. It is necessary and not sufficient for a rate that transfers: only
training to the end shows that.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.model.shape import count
from windtunnel.recipe import ParametrizationName, Recipe, parse
from windtunnel.results.check import CHECK, CheckNumbers, CheckRow
from windtunnel.results.study import write_study
from windtunnel.train.loop import Watch
from windtunnel.tunnel.check import theory
from windtunnel.tunnel.check.probe import Reading, readings
from windtunnel.tunnel.check.theory import Axis

CLOSE, FAR = (
    0.1,
    0.2,
)  # how far a slope may lie from what the theory allows, and how far its interval may reach
_CONFIDENCE = 0.95
_VOCAB = 512  # of generated tokens
_TOO_WIDE = "the interval is too wide to tell: more seeds"
_NO_RULE = "no rule of the table is broken: the sizes are too small, or the rate too small or large for the steps"
_RULE = 0.02  # a factor of the table is measured without noise but for the draw of the init


@dataclass(frozen=True)
class Design:
    """Widths at `depth`, depths at `width`; seeds 0, 1, ...; read after each of `steps`."""

    parametrization: ParametrizationName = "minicpm"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (4, 8, 16)
    width: int = 64
    depth: int = 2
    seeds: int = 4
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 30)
    lr: float = 0.003
    eps: float = 1e-8
    head_size: int = 16
    context: int = 32
    embedding_as: Literal["vector", "matrix"] = "vector"
    tied: bool = True

    def recipe(self, width: int, depth: int, vocab: int) -> Recipe:
        """One window a step, at a constant rate; the least width and `depth` are the base."""
        model = {"width": width, "depth": depth, "heads": width // self.head_size, "vocab": vocab}
        model |= {"base_width": min(self.widths), "base_depth": self.depth, "tied": self.tied}
        model |= {"parametrization": self.parametrization, "embedding_as": self.embedding_as}
        values = {
            "name": f"check-{width}x{depth}",
            "model": model,
            "data": {"corpus": "check", "context": self.context},
            "optimizer": {"lr": self.lr, "eps": self.eps},
            "schedule": {"tokens": max(self.steps) * self.context, "warmup": 0, "decay": 0},
            "train": {"batch": self.context},
        }
        return parse(values, "the check's recipe")


@dataclass(frozen=True)
class Slope:
    """A quantity against an axis after t steps: the slope over seeds with its interval (None: not
    a number), the slopes the theory allows, and for a failure its probable causes.
    """

    axis: Axis
    quantity: str
    statistic: str
    t: int
    slope: float | None
    low: float | None
    high: float | None
    expected: tuple[float, float]
    verdict: Literal["pass", "fail"]
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """The readings of one size."""

    axis: Axis
    size: int
    recipe: Recipe
    readings: list[Reading]


def check(lab: Path, corpus: Corpus | None, design: Design, watch: Watch) -> Path:
    """Run the check and return its study's folder. Without a corpus the tokens are generated."""
    _refuse(design)
    batch = generated_window(design.context) if corpus is None else _window(corpus, design.context)
    points = measure(design, batch, _VOCAB if corpus is None else corpus.manifest.vocab, watch.show)
    slopes = [
        slope
        for axis in ("width", "depth")
        for slope in judge(points, axis, design.parametrization)
    ]
    failed = [slope for slope in slopes if slope.verdict == "fail"]
    numbers = {
        "design": asdict(design),
        "corpus": corpus.folder.name if corpus else None,
        "causes": {axis: causes_of(slopes, axis) for axis in ("width", "depth")},
        "quantities": [asdict(slope) for slope in slopes],
    }
    verdict = "fail" if failed else "pass"
    summary = _summary(design, len(failed), len(slopes), numbers["causes"])
    return write_study(
        lab,
        CHECK,
        rows=[CheckRow.model_validate(row) for row in _rows(points)],
        verdict=verdict,
        summary=summary,
        numbers=CheckNumbers.model_validate(numbers),
        runs=[],
    )


def measure(
    design: Design,
    batch: np.ndarray,
    vocab: int,
    show: Callable[[str, float, float | None, str], None] = lambda *_: None,
) -> list[Point]:
    """Every size of both axes; a size that stands on both is trained once."""
    by_width: list[tuple[Axis, int, int, int]] = [
        ("width", w, w, design.depth) for w in design.widths
    ]
    sizes = [*by_width, *(("depth", d, design.width, d) for d in design.depths)]
    work = [width**2 * depth + width * vocab for _, _, width, depth in sizes]
    done: dict[tuple[int, int], list[Reading]] = {}
    points = []
    for index, (axis, size, width, depth) in enumerate(sizes):
        show("check", sum(work[:index]), sum(work), f"width {width}, depth {depth}")
        recipe = design.recipe(width, depth, vocab)
        if (width, depth) not in done:
            done[width, depth] = readings(recipe, range(design.seeds), batch, design.steps)
        points.append(Point(axis, size, recipe, done[width, depth]))
    show("check", sum(work), sum(work), "")
    return points


def judge(points: Sequence[Point], axis: Axis, parametrization: ParametrizationName) -> list[Slope]:
    """The slope of everything the theory speaks of, with verdicts and causes."""
    here = [point for point in points if point.axis == axis]
    if len(here) < 2:
        return []
    sizes = [point.size for point in here]
    table = {(r.quantity, r.statistic, r.t): [r.values] for r in here[0].readings}
    for point in here[1:]:
        for r in point.readings:
            table[r.quantity, r.statistic, r.t].append(r.values)
    broken = _broken(table, sizes, theory.rules(axis, parametrization))
    result = []
    for (quantity, statistic, t), values in table.items():
        expected = theory.allowed(axis, parametrization, quantity, statistic, t)
        if expected is None or (statistic == "eps" and np.max(values) < theory.NEGLIGIBLE_EPS):
            continue
        slope, low, high = slope_of(sizes, values)
        good = passes(slope, low, high, expected)
        causes = () if good else _causes(broken, quantity, statistic, t, (low, high), expected)
        fields = (None, None, None) if np.isnan(slope) else (slope, low, high)
        result.append(
            Slope(
                axis, quantity, statistic, t, *fields, expected, "pass" if good else "fail", causes
            )
        )
    return result


def slope_of(sizes: Sequence[int], values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Slope of log2 on log2 and its 95% interval (Student's t over seeds). `values`: (sizes,
    seeds); what is zero at every size has slope 0, what is zero or not finite at some has none
    (NaN).
    """
    table = np.asarray(values, float)
    if not table.any():
        return 0.0, 0.0, 0.0
    if not (np.isfinite(table).all() and (table > 0).all()):
        return np.nan, np.nan, np.nan
    x = np.log2(sizes) - np.log2(sizes).mean()
    slopes = x @ np.log2(table) / (x @ x)
    mean, seeds = float(slopes.mean()), len(slopes)
    half = float(
        stats.t.ppf((1 + _CONFIDENCE) / 2, seeds - 1) * slopes.std(ddof=1) / np.sqrt(seeds)
    )
    return mean, mean - half, mean + half


def passes(slope: float, low: float, high: float, expected: tuple[float, float]) -> bool:
    """Whether a slope lies close to what is allowed, and its interval does not reach far from it.
    NaN does not pass.
    """
    close = expected[0] - CLOSE <= slope <= expected[1] + CLOSE
    return close and expected[0] - FAR <= low and high <= expected[1] + FAR


def causes_of(slopes: Sequence[Slope], axis: Axis) -> list[str]:
    """The causes of an axis' failures, each once, the most frequent first; what has no rule for a
    cause counts only where no rule is broken, since a broken rule carries everything else with
    it.
    """
    found = [cause for slope in slopes if slope.axis == axis for cause in slope.causes]
    named = [cause for cause in found if cause not in (_TOO_WIDE, _NO_RULE)] or found
    return sorted(dict.fromkeys(named), key=lambda cause: -found.count(cause))


def generated_window(context: int, vocab: int = _VOCAB, seed: int = 0) -> np.ndarray:
    """(1, context + 1) tokens with a Zipf distribution, every other one on average the follower
    of the one before, so that there is something to learn besides frequencies.
    """
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, vocab + 1)
    drawn = rng.choice(vocab, context + 1, p=chances / chances.sum())
    follower, follows = rng.permutation(vocab), rng.random(context + 1) < 0.5
    tokens = drawn.copy()
    for i in range(1, len(tokens)):
        tokens[i] = follower[tokens[i - 1]] if follows[i] else drawn[i]
    return tokens[None].astype(np.int64)


def _window(corpus: Corpus, context: int) -> np.ndarray:
    """The first window that a run of seed 0 reads."""
    recipe = Design(context=context).recipe(32, 2, corpus.manifest.vocab)
    return Windows(corpus, recipe.data, 0).read(0, context)


def _broken(
    table: dict[tuple[str, str, int], list[tuple[float, ...]]],
    sizes: Sequence[int],
    rules: dict[str, tuple[float, str]],
) -> dict[str, str]:
    """The factors of the table of roles that go otherwise than the theory has it, and how."""
    result = {}
    for name, (expected, fault) in rules.items():
        values = table.get((name, "rule", 0))
        slope = slope_of(sizes, values)[0] if values else expected
        if not abs(slope - expected) <= _RULE:
            result[name] = f"{fault} (slope {slope:+.2f}, expected {expected:+.2f})"
    return result


def _causes(
    broken: dict[str, str],
    quantity: str,
    statistic: str,
    t: int,
    interval: tuple[float, float],
    expected: tuple[float, float],
) -> tuple[str, ...]:
    """Broken rules that can act on the quantity: its own for updates, decay and eps; no rates
    before the first step. Decay and eps are too small to act on anything else.
    """
    if statistic == "rule":
        names = [quantity]
    elif statistic == "eps":
        names = [f"{quantity} eps"]
    elif statistic == "update":
        names = [f"{quantity} init", f"{quantity} lr"]
    else:
        names = [
            n for n in broken if not n.endswith((" decay", " eps")) and (t or not n.endswith(" lr"))
        ]
    found = tuple(broken[name] for name in names if name in broken)
    if found:
        return found
    if interval[0] <= expected[1] and expected[0] <= interval[1]:
        return (_TOO_WIDE,)
    return (_NO_RULE,)


def _refuse(design: Design) -> None:
    for name, sizes in (("widths", design.widths), ("depths", design.depths)):
        if len(set(sizes)) < 2 or min(sizes) < 1:
            raise InputError(
                f"--{name} {','.join(map(str, sizes))}: expected two or more different sizes, above zero"
            )
    for width in (*design.widths, design.width):
        if width % design.head_size:
            raise InputError(
                f"--widths: {width} is not a multiple of the head size, {design.head_size}"
            )
    if min(design.depths) < 2:
        raise InputError(f"--depths: expected at least 2, got {min(design.depths)}")
    if design.seeds < 3:
        raise InputError(f"--seeds {design.seeds}: expected at least 3, for an interval")


def _rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    rows = []
    for point in points:
        counts = count(point.recipe.model)
        sizes = {"params": counts.params, "params_total": counts.params_total, "kind": "check"}
        for r in point.readings:
            where = {
                "tokens": r.t * point.recipe.train.batch,
                "axis": point.axis,
                "size": point.size,
                "t": r.t,
            }
            what = {"quantity": r.quantity, "statistic": r.statistic}
            rows += [
                sizes | where | what | {"seed": seed, "value": value}
                for seed, value in enumerate(r.values)
            ]
    return rows


def _summary(design: Design, failed: int, judged: int, causes: dict[str, list[str]]) -> str:
    sizes = f"widths {min(design.widths)} to {max(design.widths)} and depths {min(design.depths)} to {max(design.depths)}"
    if not failed:
        return f"{design.parametrization} passes over {sizes}: {judged} slopes, none out of what the theory allows"
    named = "; ".join(f"{axis}: {', '.join(faults)}" for axis, faults in causes.items() if faults)
    return f"{design.parametrization} fails over {sizes}: {failed} of {judged} slopes; {named}"
