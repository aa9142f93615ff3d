"""How the loss falls with size and data, at a cost that grows with the data and not with the
number of points: one stem a size, and branches that decay from it at many lengths (paper section
4.5). Makes the table that laws are fitted to.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.batch import ByTokens
from windtunnel.model.shape import count, flops_per_token
from windtunnel.quantities import Length, about
from windtunnel.recipe import DecayShapeName, Recipe
from windtunnel.results.scaling import SCALING, ScalingNumbers, ScalingRow
from windtunnel.results.study import write_study
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.fitted import fitted
from windtunnel.tunnel.study import final, ids, rows_at_end, training_seconds

# What a law needs of its table; a smaller study gets no verdict.
FEWEST_SIZES, SMALLEST_SPAN, FEWEST_STEPS, HIGHEST_COST = 5, 16, 400, 0.4
# share of the geometric mean of the shortest and the longest length: a stem has one for all of
# them
_WARMUP = 0.02
_LR_BATCH = 2048  # the batch that `lr` is meant for where it changes with the batch


LrWithBatch = Literal["fixed", "sqrt"]


@dataclass(frozen=True)
class Size:
    width: int
    depth: int

    def __str__(self) -> str:
        return f"{self.width}x{self.depth}"


@dataclass(frozen=True)
class BatchLaw:
    """The batch of a run by its tokens: that of a law, as a power of two, so that every batch
    divides the next one.
    """

    law: ByTokens
    origin: str
    smallest: int = 512

    def batch(self, tokens: float) -> int:
        return max(self.smallest, 2 ** round(math.log2(self.law.predict(tokens))))

    def border(self, batch: int) -> float:
        """Tokens at which `batch` has become as wrong as twice that batch."""
        return self.law.tokens(batch * math.sqrt(2)) if self.law.p > 0 else math.inf


LAPTOP_BATCH = BatchLaw(laptop.BATCH_LAW, laptop.ORIGIN)


@dataclass(frozen=True)
class Design:
    """What is measured. `points` lengths from `shortest` to `longest`, evenly spaced in the
    logarithm; the decay is a part of the length. `batch` 0: by the law of batches, growing along
    the way. The smallest `repeated` sizes have `seeds` seeds each, the others one.

    By default the audit run is 4.5 times larger than the largest size and twice as long, and
    takes nine or ten minutes of one core.
    """

    sizes: Sequence[Size] = (Size(16, 2), Size(32, 2), Size(48, 3), Size(64, 4), Size(96, 4))
    shortest: int = 240_000
    longest: int = 1_920_000
    points: int = 7
    decay: float = 0.1
    shape: DecayShapeName = "exponential"
    floor: float = 0.1
    batch: int = 0
    lr: float = 0.01
    lr_with_batch: LrWithBatch = "fixed"
    seeds: int = 2
    repeated: int = 2
    audit: Size | None = Size(256, 3)
    audit_tokens: int = 3_840_000

    @property
    def lengths(self) -> list[int]:
        return [round(length) for length in np.geomspace(self.shortest, self.longest, self.points)]

    @property
    def stems(self) -> list[tuple[Size, int]]:
        """(size, seed) of each stem."""
        by_size = sorted(self.sizes, key=lambda size: size.width**2 * size.depth)
        return [
            (size, seed)
            for i, size in enumerate(by_size)
            for seed in range(self.seeds if i < self.repeated else 1)
        ]

    def rate(self, batch: int) -> float:
        return self.lr * math.sqrt(batch / _LR_BATCH) if self.lr_with_batch == "sqrt" else self.lr


@dataclass(frozen=True)
class Segment:
    """A stretch of a stem with one batch."""

    begin: int
    end: int
    batch: int


@dataclass(frozen=True)
class Point:
    """A branch: it leaves a segment of the stem at `at` tokens and decays over `decay` tokens."""

    segment: int
    at: int
    decay: int

    @property
    def tokens(self) -> int:
        return self.at + self.decay


@dataclass(frozen=True)
class Chain:
    """A stem, whose batch grows along the way, and where it is left. The same for every size."""

    segments: list[Segment]
    points: list[Point]

    @property
    def trained(self) -> int:
        """Tokens trained: the stem once, and every decay."""
        return self.segments[-1].end + sum(point.decay for point in self.points)

    @property
    def retrained(self) -> int:
        """Tokens of training each point from scratch, as a cosine schedule needs it."""
        return sum(point.tokens for point in self.points)

    @property
    def fewest_steps(self) -> int:
        """Of the shortest branch, from the stem's beginning."""
        return self.points[0].tokens // self.segments[0].batch


def scaling(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder. Raises InputError for a design
    that can't be laid out: lengths shorter than a few steps, or so near to each other that two
    would be one.
    """
    law = BatchLaw(ByTokens(design.batch, 0.0), "given") if design.batch else batch_law(lab, corpus)
    chain = lay_out(design, law)
    audit = [_audit(corpus, design, law, design.audit)] if design.audit else []
    wanted = {
        (size, seed): _wanted(corpus, design, chain, size, seed) for size, seed in design.stems
    }
    runs = iter(fleet(lab, corpus, [*audit, *itertools.chain(*wanted.values())], watch, "scaling"))
    audited = list(itertools.islice(runs, len(audit)))
    stems = {key: list(itertools.islice(runs, len(asked))) for key, asked in wanted.items()}
    branches = {key: _distinct(found[len(chain.segments) :]) for key, found in stems.items()}
    rows = [
        row
        for key, found in branches.items()
        for run in found
        for row in _rows(run, "branch", key[0], stem=stems[key][0].id)
    ]
    rows += [
        row for run in audited if design.audit for row in _rows(run, "audit", design.audit, stem="")
    ]
    trained = _distinct([run for found in stems.values() for run in found])
    numbers = _numbers(design, chain, law, branches, trained, corpus)
    numbers["audit"] = _audit_numbers(audited[0], numbers) if audited else None
    table = [row.model_dump() for row in rows]
    numbers["law"] = fitted(table, numbers["seed_sd"], numbers["audit"])
    failed = sum(final(run) is None for run in trained + audited)
    verdict, summary = judge(numbers, failed)
    return write_study(
        lab,
        SCALING,
        rows=rows,
        verdict=verdict,
        summary=summary,
        numbers=ScalingNumbers.model_validate(numbers),
        runs=ids(trained + audited),
    )


def batch_law(lab: Path, corpus: Corpus) -> BatchLaw:
    """What the lab's batch study found on this corpus, or the laptop-scale law where it has
    none.
    """
    file = lab / "studies" / "batch" / "result.json"
    if not file.exists():
        return LAPTOP_BATCH
    try:
        numbers = json.loads(file.read_text())["numbers"]
        law = numbers["laws"].get("tokens")
        if law is None or numbers.get("corpus", corpus.folder.name) != corpus.folder.name:
            return LAPTOP_BATCH
        return BatchLaw(ByTokens(float(law["c"]), float(law["p"])), "the lab's batch study")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not the result of a batch study: {error!r}") from None


def lay_out(design: Design, law: BatchLaw) -> Chain:
    """Where the batch changes and where branches leave, in whole steps. Raises InputError."""
    wanted = [round((1 - design.decay) * length) for length in design.lengths]
    batch, begin, last = design.batch or law.batch(wanted[0]), 0, wanted[-1]
    segments: list[Segment] = []
    while (border := law.border(batch)) + 2 * batch <= last:
        end = int(border) - int(border) % (2 * batch)
        segments.append(Segment(begin, end, batch))
        batch, begin = 2 * batch, end
    segments.append(Segment(begin, last - last % batch, batch))
    points = []
    for length, at in zip(design.lengths, wanted, strict=True):
        index = max(
            i for i, segment in enumerate(segments) if at >= segment.begin + segment.batch or i == 0
        )
        step = segments[index].batch
        at = min(at - at % step, segments[index].end)
        points.append(Point(index, at, max(step, round((length - at) / step) * step)))
    ends = [point.at for point in points]
    if len(set(ends)) < len(ends) or ends[0] <= _warmup(design):
        raise InputError(
            f"lengths {', '.join(map(about, design.lengths))}: in steps of {segments[0].batch} to {batch} tokens, and "
            f"after {about(_warmup(design))} tokens of warm-up, they must differ by a step or more"
        )
    return Chain(segments, points)


def _warmup(design: Design) -> int:
    return round(_WARMUP * math.sqrt(design.shortest * design.longest))


def _wanted(
    corpus: Corpus, design: Design, chain: Chain, size: Size, seed: int
) -> list[Recipe | Branch]:
    """The stem's segments, and then its branches."""
    first = chain.segments[0]
    stems: list[Recipe | Branch] = [
        proxy(
            corpus,
            size.width,
            size.depth,
            first.end,
            name=f"{size}-stem",
            seed=seed,
            optimizer={"lr": design.rate(first.batch)},
            schedule={"warmup": _warmup(design), "decay": 0},
            train={"batch": first.batch},
        )
    ]
    for segment in chain.segments[1:]:
        name = f"{size}-stem-batch{segment.batch}"
        stems.append(
            Branch(
                stems[-1],
                segment.begin,
                0,
                tokens=segment.end,
                batch=segment.batch,
                lr=design.rate(segment.batch),
                name=name,
            )
        )
    branches = [
        Branch(
            stems[point.segment],
            point.at,
            point.decay,
            shape=design.shape,
            floor=design.floor,
            name=f"{size}-{about(point.tokens)}",
        )
        for point in chain.points
    ]
    return [*stems, *branches]


def _audit(corpus: Corpus, design: Design, law: BatchLaw, size: Size) -> Recipe:
    """A larger and longer run from scratch, with one batch, as a plan's run would be."""
    batch = design.batch or law.batch(design.audit_tokens)
    return proxy(
        corpus,
        size.width,
        size.depth,
        design.audit_tokens,
        name=f"{size}-audit",
        optimizer={"lr": design.rate(batch)},
        train={"batch": batch},
        schedule={
            "decay": Length(share=design.decay),
            "decay_shape": design.shape,
            "floor": design.floor,
        },
    )


def _rows(run: Run, kind: str, size: Size, stem: str) -> list[ScalingRow]:
    recipe = run.recipe
    return rows_at_end(
        ScalingRow,
        run,
        kind,
        params_with_head=count(recipe.model).params_with_head,
        width=size.width,
        depth=size.depth,
        batch=recipe.train.batch,
        lr=recipe.optimizer.lr,
        stem=stem,
    )


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """Each run once: branches that a failed stem never came to all come back as that stem."""
    return list({run.id: run for run in runs}.values())


def _numbers(
    design: Design,
    chain: Chain,
    law: BatchLaw,
    branches: dict[tuple[Size, int], list[Run]],
    trained: Sequence[Run],
    corpus: Corpus,
) -> dict[str, Any]:
    losses = {
        (size, run.recipe.total_tokens, seed): score.loss
        for (size, seed), found in branches.items()
        for run in found
        if (score := final(run))
    }
    noise, freedom = pooled_sd(
        [
            [loss for (s, t, _), loss in losses.items() if (s, t) == key]
            for key in dict.fromkeys((s, t) for s, t, _ in losses)
        ]
    )
    sizes = [
        _size_numbers(size, chain, found, losses)
        | {"seeds": sum(key[0] == size for key in branches)}
        for (size, seed), found in branches.items()
        if seed == 0
    ]
    flops, cosine = (
        sum(size[key] * size["seeds"] for size in sizes) for key in ("flops", "flops_cosine")
    )
    totals = [size["params_total"] for size in sizes]
    longest = max(
        *(point.tokens for point in chain.points), design.audit_tokens if design.audit else 0
    )
    return {
        "corpus": corpus.folder.name,
        "lengths": [point.tokens for point in chain.points],
        "decay": design.decay,
        "shape": design.shape,
        "floor": design.floor,
        "batch": {
            "origin": law.origin,
            "c": law.law.c,
            "p": law.law.p,
            "segments": [vars(s) for s in chain.segments],
        },
        "cost": {
            "flops": flops,
            "flops_cosine": cosine,
            "ratio": flops / cosine,
            "tokens": chain.trained * len(branches),
            "tokens_cosine": chain.retrained * len(branches),
            "core_minutes": round(sum(map(training_seconds, trained)) / 60, 1),
        },
        "sizes": sizes,
        "span": max(totals) / min(totals),
        "fewest_steps": chain.fewest_steps,
        "epochs": longest / sum(source.train.tokens for source in corpus.sources.values()),
        "seed_sd": noise,
        "seed_freedom": freedom,
    }


def _size_numbers(
    size: Size, chain: Chain, found: Sequence[Run], losses: dict[tuple[Size, int, int], float]
) -> dict[str, Any]:
    model, context = found[0].recipe.model, found[0].recipe.data.context
    here = {tokens: loss for (s, tokens, seed), loss in losses.items() if s == size and seed == 0}
    doublings = math.log2(max(here) / min(here)) if len(here) > 1 else 0.0
    each = flops_per_token(model, context)
    return {
        "size": str(size),
        **vars(count(model)),
        "flops": each * chain.trained,
        "flops_cosine": each * chain.retrained,
        "first_loss": here[min(here)] if here else None,
        "last_loss": here[max(here)] if here else None,
        "gain_per_doubling": (here[min(here)] - here[max(here)]) / doublings if doublings else None,
    }


def _audit_numbers(run: Run, numbers: dict[str, Any]) -> dict[str, Any]:
    """With how many times it is larger and longer than anything in the fit."""
    score, counts, recipe = final(run), count(run.recipe.model), run.recipe
    beyond = {
        key: getattr(counts, key) / max(size[key] for size in numbers["sizes"])
        for key in ("params", "params_with_head", "params_total")
    }
    beyond["tokens"] = recipe.total_tokens / max(numbers["lengths"])
    return {
        "run": run.id,
        **vars(counts),
        "tokens": recipe.total_tokens,
        "batch": recipe.train.batch,
        "flops": flops_per_token(recipe.model, recipe.data.context) * recipe.total_tokens,
        "core_minutes": round(training_seconds(run) / 60, 1),
        "beyond": beyond,
        "loss": score and score.loss,
    }


def pooled_sd(groups: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Standard deviation within groups of repeated measurements, and its degrees of freedom; None
    without repeats.
    """
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None, 0
    squares = sum(float(((np.asarray(group) - np.mean(group)) ** 2).sum()) for group in groups)
    return math.sqrt(squares / freedom), freedom


def judge(numbers: dict[str, Any], failed: int) -> tuple[Literal["pass", "fail"] | None, str]:
    """The verdict and one sentence. A study that is smaller than what a law needs has none, and
    says so.
    """
    cost, sizes = numbers["cost"], numbers["sizes"]
    missing = [
        text
        for text, short in (
            (f"{FEWEST_SIZES} sizes", len(sizes) < FEWEST_SIZES),
            (f"a span of {SMALLEST_SPAN}x in parameters", numbers["span"] < SMALLEST_SPAN),
            (
                f"{FEWEST_STEPS} steps at the shortest length",
                numbers["fewest_steps"] < FEWEST_STEPS,
            ),
            (f"a cost of at most {HIGHEST_COST}x of retraining", cost["ratio"] > HIGHEST_COST),
            ("a corpus that no run reads more than once", numbers["epochs"] > 1),
        )
        if short
    ]
    noise = (
        f"; seeds differ by {numbers['seed_sd']:.4f} (SD)" if numbers["seed_sd"] is not None else ""
    )
    audit, said = numbers["audit"], numbers["law"]["audit"]
    checked = (
        f"; audit run of {about(audit['params_total'])} parameters and {about(audit['tokens'])} tokens: "
        f"{'diverged' if audit['loss'] is None else format(audit['loss'], '.4f')}"
        if audit
        else ""
    )
    if said:
        low, high = said["interval90"]
        checked += f", predicted {said['predicted']:.4f}, 90% [{low:.3f}, {high:.3f}]"
        checked += "" if said["error"] is None else f", {said['error']:+.2%} off"
    losses = [
        size[key] for size in sizes for key in ("first_loss", "last_loss") if size[key] is not None
    ]
    summary = (
        f"{len(sizes)} sizes over {numbers['span']:.1f}x, {len(numbers['lengths'])} lengths from "
        f"{about(numbers['lengths'][0])} to {about(numbers['lengths'][-1])} tokens, at {cost['ratio']:.3f} of what "
        f"cosine runs from scratch would cost; loss from {max(losses, default=math.nan):.3f} to "
        f"{min(losses, default=math.nan):.3f}{noise}{checked}"
    )
    if failed:
        return "fail", f"{summary}; {failed} runs diverged"
    if missing:
        return None, f"{summary}; too small for a verdict, which needs {', '.join(missing)}"
    if said and said["inside90"] is False:
        return "fail", f"{summary}: outside of the interval"
    return "pass", summary
