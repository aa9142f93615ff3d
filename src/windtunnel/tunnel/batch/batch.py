"""Which batch needs the fewest tokens for a loss, and how it grows (paper section 3.2). Twice:
the paper's way, a run a batch, and from the checkpoints of one run; with the rate fixed, as the
paper has it, and scaled with the batch.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.batch import BATCH_LAWS, BatchFit, Optima, fit_batch
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.batch.contours import (
    LEAST_BATCHES,
    Form,
    Surface,
    Valley,
    better_form,
    lowest_losses,
    noise_of,
    valleys,
)
from windtunnel.tunnel.batch.regret import Fold, Size, held_out, regret_of, three_term
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.study import final, rows_at_end, training_seconds, write_study

Arm = Literal[
    "fixed", "sqrt"
]  # the rate: one for all batches, or times the root of batch / the trunk's batch
ARMS: tuple[Arm, ...] = get_args(Arm)

_EVALUATED = 8192  # tokens a source: every loss is compared on the same text
_WARMUP = 0.02
_LEAST_ERROR = 1e-3  # of a log batch: points without noise would weigh without end
_ENOUGH_LEVELS, _ENOUGH_SIZES = 3, 2  # with a vertex inside, for a law to count as measured


@dataclass(frozen=True)
class Point:
    """One measured loss: of a size's run with a batch all the way (`full`), or of one that took
    up the batch at `at` tokens of the trunk.
    """

    way: Literal["full", "trunk"]
    size: Size
    arm: Arm
    batch: int
    at: int
    tokens: int


@dataclass(frozen=True)
class Design:
    """What is measured. At the default sizes and lengths: 35M tokens, about 14 minutes on 2
    cores.
    """

    sizes: Sequence[Size] = ((32, 2), (32, 4), (64, 2))
    arms: Sequence[Arm] = ARMS  # the first one's laws are the study's
    batches: Sequence[int] = (512, 1024, 2048, 4096, 8192)
    lengths: Sequence[int] = (
        163_840,
        327_680,
        655_360,
        983_040,
    )  # tokens of the decayed branches, their decay included
    trunk: int = 2048  # the batch of the stem whose checkpoints the cheap way branches from
    decay: float = 0.1  # share of the length
    window: float = 0.1  # of the length that a batch branch has, all of it decay
    lr: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        unfit = [batch for batch in self.batches if self.largest % batch]
        if len(self.batches) < LEAST_BATCHES or unfit or self.trunk not in self.batches:
            raise InputError(
                f"batches {', '.join(map(str, self.batches))}: expected at least {LEAST_BATCHES} of which the largest "
                f"is a multiple of each, the trunk's batch of {self.trunk} among them"
            )
        if len(self.points) < 2 or self.points[0][0] < self.warmup:
            raise InputError(
                f"lengths {', '.join(map(str, self.lengths))}: expected at least two that differ by whole batches of "
                f"{self.largest}, the shortest with more than the warm-up of {self.warmup} tokens before its decay"
            )

    @property
    def largest(self) -> int:
        return max(self.batches)

    @property
    def warmup(self) -> int:
        """One for all batches and lengths."""
        return max(self.largest, round(_WARMUP * max(self.lengths)))

    @cached_property
    def points(self) -> list[tuple[int, int]]:
        """(where a branch leaves, where it ends), in whole steps of every batch."""
        found = {
            (self._whole(length) - self._some(self.decay * length), self._whole(length))
            for length in self.lengths
        }
        return sorted(found)

    def stem(self, corpus: Corpus, size: Size, batch: int, lr: float) -> Recipe:
        width, depth = size
        return proxy(
            corpus,
            width,
            depth,
            self.points[-1][0],
            name=f"{width}x{depth}-b{batch}-lr{lr:.2g}",
            seed=self.seed,
            optimizer={"lr": lr},
            schedule={"decay": 0, "warmup": self.warmup},
            train={"batch": batch, "evaluate_tokens": _EVALUATED},
        )

    def rate(self, arm: Arm, batch: int) -> float:
        return (
            self.lr if arm == "fixed" else float(f"{self.lr * math.sqrt(batch / self.trunk):.6g}")
        )

    def wanted(self, corpus: Corpus) -> dict[Point, Branch]:
        return {
            point: branch
            for size in self.sizes
            for arm in self.arms
            for batch in self.batches
            for point, branch in self._branches(corpus, size, arm, batch)
        }

    def _branches(
        self, corpus: Corpus, size: Size, arm: Arm, batch: int
    ) -> Iterable[tuple[Point, Branch]]:
        rate = self.rate(arm, batch)
        own, trunk = (
            self.stem(corpus, size, batch, rate),
            self.stem(corpus, size, self.trunk, self.lr),
        )
        taken_up = (
            {}
            if batch == self.trunk
            else {"batch": batch, "lr": rate, "name": f"{trunk.name}-{own.name}"}
        )
        for at, end in self.points:
            yield Point("full", size, arm, batch, at, end), Branch(own, at, end - at)
            window = self.window_of(end)
            yield (
                Point("trunk", size, arm, batch, at, at + window),
                Branch(trunk, at, window, **taken_up),
            )

    def window_of(self, length: int) -> int:
        """Tokens of the batch branch from where the decay to `length` begins."""
        return self._some(self.window * length)

    def _whole(self, tokens: float) -> int:
        return round(tokens / self.largest) * self.largest

    def _some(self, tokens: float) -> int:
        return max(self.largest, self._whole(tokens))


def batch(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder."""
    runs, stems = _train(lab, corpus, design, watch)
    rows = [
        row
        for point, run in runs.items()
        for row in rows_at_end(
            run,
            "branch",
            way=point.way,
            width=point.size[0],
            depth=point.size[1],
            arm=point.arm,
            batch=point.batch,
            lr=design.rate(point.arm, point.batch),
            at=point.at,
        )
    ]
    losses = {point: _loss(run) for point, run in runs.items()}
    models = {
        size: design.stem(corpus, size, design.trunk, design.lr).model for size in design.sizes
    }
    numbers = analyse(design, {size: count(model).params for size, model in models.items()}, losses)
    distinct = list({run.id: run for run in [*stems, *runs.values()]}.values())
    numbers |= {
        "corpus": corpus.folder.name,
        "core_minutes": round(sum(map(training_seconds, distinct)) / 60, 1),
    }
    verdict, summary = judge(numbers)
    return write_study(lab, "batch", rows, verdict, summary, numbers, distinct)


def _train(
    lab: Path, corpus: Corpus, design: Design, watch: Watch
) -> tuple[dict[Point, Run], list[Run]]:
    """The measured runs, and the stems. Runs that compile alike come one after the other: those
    of one width that take as many tokens through the model at once.
    """
    wanted, runs, stems = design.wanted(corpus), dict[Point, Run](), list[Run]()

    def alike(point: Point) -> tuple[int, int]:
        own = design.stem(corpus, point.size, point.batch, design.lr)
        return point.size[0], -own.train.micro_batch  # the trunks, of large parts, first

    for key in sorted(set(map(alike, wanted))):
        points = [point for point in wanted if alike(point) == key]
        lines = {(p.size, p.batch, design.rate(p.arm, p.batch)): None for p in points}
        own = [design.stem(corpus, *line) for line in lines]
        label = f"batch: width {key[0]}, {', '.join(map(str, sorted({p.batch for p in points})))} tokens"
        found = fleet(lab, corpus, [*own, *(wanted[p] for p in points)], watch, label)
        stems += found[: len(own)]
        runs.update(zip(points, found[len(own) :], strict=True))
    return {point: runs[point] for point in wanted}, stems


def _loss(run: Run) -> float:
    validation = final(run)
    return math.nan if validation is None else validation.loss


def analyse(design: Design, params: dict[Size, int], losses: dict[Point, float]) -> dict[str, Any]:
    """The study's numbers, from the measured losses alone."""
    surfaces = {
        arm: {size: surface(design, losses, size, arm) for size in design.sizes}
        for arm in design.arms
    }
    form, misfit = better_form([s for by_size in surfaces.values() for s in by_size.values()])
    arms = {arm: _arm(design, params, surfaces[arm], form) for arm in design.arms}
    return {
        "sizes": [{"width": w, "depth": d, "params": params[w, d]} for w, d in design.sizes],
        "batches": list(design.batches),
        "lengths": [end for _, end in design.points],
        "lr": design.lr,
        "form": form,
        "misfit": misfit,
        "laws": arms[design.arms[0]]["laws"],
        "chosen": arms[design.arms[0]]["chosen"],
        "arms": arms,
        "trunk": {"batch": design.trunk, "cost": cost(design)}
        | {
            arm: _trunk(design, params, losses, surfaces[arm], arms[arm]["laws"], arm)
            for arm in design.arms
        },
    }


def surface(design: Design, losses: dict[Point, float], size: Size, arm: Arm) -> Surface:
    """The losses of one size that was trained with each batch all the way."""
    batches = sorted(design.batches)
    rows = [
        [losses[Point("full", size, arm, b, at, end)] for at, end in design.points] for b in batches
    ]
    return Surface(
        np.array(batches, float), np.array([end for _, end in design.points], float), np.array(rows)
    )


def cost(design: Design) -> dict[str, float]:
    """Tokens of one size and arm: a stem and its decays a batch, against one stem and its batch
    branches.
    """
    stem = design.points[-1][0]
    full = len(design.batches) * (stem + sum(end - at for at, end in design.points))
    trunk = stem + len(design.batches) * sum(design.window_of(end) for _, end in design.points)
    return {"full_tokens": full, "trunk_tokens": trunk, "share": round(trunk / full, 4)}


def _arm(
    design: Design, params: dict[Size, int], surfaces: dict[Size, Surface], form: Form
) -> dict[str, Any]:
    noise = noise_of(list(surfaces.values()), form)
    found = dict(zip(design.sizes, valleys(list(surfaces.values()), form, noise), strict=True))
    optima, sizes, redrawn = _optima(found, params)
    laws = {name: fitted for name in BATCH_LAWS if (fitted := _fit(name, optima, redrawn))}
    one_left_out: list[Fold] = [
        (
            sizes != i,
            {other: surfaces[other] for other in design.sizes if other != size},
            [(size, None)],
        )
        for i, size in enumerate(design.sizes)
    ]
    regret = {
        "size": held_out(optima, one_left_out, surfaces, params),
        "longest": held_out(optima, _without_longest(optima, design, surfaces), surfaces, params),
    }
    return {
        "noise": noise,
        "sizes": [_size(size, params[size], found[size], surfaces[size]) for size in design.sizes],
        "laws": {name: _law(fitted) for name, fitted in laws.items()},
        "three_term": (three := three_term(surfaces, params))
        and asdict(three) | {"exponent": three.exponent},
        "regret": regret,
        "chosen": _chosen(laws, regret),
    }


def _optima(
    found: dict[Size, list[Valley]], params: dict[Size, int]
) -> tuple[Optima, np.ndarray, list[Optima]]:
    """The vertices inside of the sampled batches, which size each is of, and the same drawn
    anew.
    """
    inside = [
        (i, params[size], v)
        for i, (size, each) in enumerate(found.items())
        for v in each
        if v.where == "inside"
    ]
    low, high = (
        np.array([np.quantile(np.log(v.batches), q) for _, _, v in inside]) for q in (1 / 6, 5 / 6)
    )
    fixed = {
        "loss": np.array([v.loss for _, _, v in inside]),
        "params": np.array([n for _, n, _ in inside], float),
        "error": np.maximum((high - low) / 2, _LEAST_ERROR) if inside else np.array([]),
    }
    optima = Optima(
        batch=np.array([v.batch for _, _, v in inside], float),
        tokens=np.array([v.tokens for _, _, v in inside]),
        **fixed,
    )
    draws = (
        zip(*(v.batches for _, _, v in inside), strict=True),
        zip(*(v.tokens_drawn for _, _, v in inside), strict=True),
    )
    redrawn = [
        Optima(batch=np.array(b), tokens=np.array(t), **fixed) for b, t in zip(*draws, strict=True)
    ]
    return optima, np.array([i for i, _, _ in inside]), redrawn


def _fit(law: str, optima: Optima, redrawn: Sequence[Optima]) -> BatchFit | None:
    """None where the points can't tell the law."""
    try:
        return fit_batch(law, optima, redrawn)
    except ValueError:
        return None


def _law(fitted: BatchFit) -> dict[str, Any]:
    intervals = {name: list(fitted.interval(name)) for name in fitted.law.names()}
    return asdict(fitted.law) | {"intervals": intervals}


def _without_longest(optima: Optima, design: Design, surfaces: dict[Size, Surface]) -> list[Fold]:
    last = len(design.points) - 1
    shorter = {
        size: Surface(s.batches, s.tokens[:last], s.loss[:, :last]) for size, s in surfaces.items()
    }
    return [
        (
            optima.tokens <= design.points[last - 1][1],
            shorter,
            [(size, last) for size in design.sizes],
        )
    ]


def _chosen(laws: dict[str, BatchFit], regret: dict[str, dict[str, float | None]]) -> str | None:
    """The least regret on a size left out; with too few sizes for that, on the longest length
    left out.
    """
    for by in ("size", "longest"):
        told = {name: r for name in laws if (r := regret[by][name]) is not None}
        if told:
            return min(told, key=told.__getitem__)
    return None


def _size(size: Size, params: int, found: Sequence[Valley], measured: Surface) -> dict[str, Any]:
    levels = [_level(valley) for valley in found]
    best = [
        {"tokens": int(measured.tokens[at]), "loss": measured.best(at)}
        for at in measured.compared()
    ]
    return {"width": size[0], "depth": size[1], "params": params, "levels": levels, "best": best}


def _level(valley: Valley) -> dict[str, Any]:
    """`batch` and `interval` are null where the vertex is not inside of the sampled batches."""
    return {
        "loss": valley.loss,
        "where": valley.where,
        "batch": valley.batch,
        "interval": valley.interval,
        "tokens": valley.tokens,
    }


def _trunk(
    design: Design,
    params: dict[Size, int],
    losses: dict[Point, float],
    surfaces: dict[Size, Surface],
    full: dict[str, Any],
    arm: Arm,
) -> dict[str, Any]:
    """What the batch branches say: the best batch at each checkpoint of the trunk, its law in the
    loss, and how that agrees with the full way: octaves between the two laws at the trunk's
    losses, and regret on the full way's runs.
    """
    batches = sorted(design.batches)
    ends = [(at, at + design.window_of(end)) for at, end in design.points]
    rows = {
        size: np.array(
            [[losses[Point("trunk", size, arm, b, at, end)] for b in batches] for at, end in ends]
        )
        for size in design.sizes
    }
    found = {
        size: lowest_losses(np.array(batches, float), rows[size], [end for _, end in ends])
        for size in rows
    }
    optima, _, redrawn = _optima(found, params)
    fitted = _fit("loss", optima, redrawn)
    octaves = regret = None
    if fitted:
        everywhere = [(size, None) for size in design.sizes]
        regret = regret_of(fitted.law, everywhere, surfaces, params)
        if "loss" in full:
            other = BATCH_LAWS["loss"].of_logs(
                np.array([math.log(full["loss"]["c"]), full["loss"]["k"]])
            )
            apart = fitted.law.at(optima.loss, optima.tokens, optima.params) / other.at(
                optima.loss, optima.tokens, optima.params
            )
            octaves = float(np.log2(apart).mean())
    sizes = [
        {
            "width": w,
            "depth": d,
            "params": params[w, d],
            "levels": [_level(valley) for valley in found[w, d]],
        }
        for w, d in design.sizes
    ]
    return {"sizes": sizes, "law": fitted and _law(fitted), "octaves": octaves, "regret": regret}


def judge(numbers: dict[str, Any]) -> tuple[Literal["pass"] | None, str]:
    """`pass` where enough contours of enough sizes have their vertex inside of the sampled
    batches.
    """
    main = next(iter(numbers["arms"].values()))
    inside = [sum(level["where"] == "inside" for level in size["levels"]) for size in main["sizes"]]
    total = sum(len(size["levels"]) for size in main["sizes"])
    passed = (
        sum(n >= _ENOUGH_LEVELS for n in inside) >= _ENOUGH_SIZES and main["chosen"] is not None
    )
    parts = [f"{sum(inside)} of {total} contours have their best batch inside of those sampled"]
    if not passed:
        advice = (
            ", so sample more batches on the side where they fall outside"
            if sum(inside) < total
            else ""
        )
        parts.append(
            f"too few to trust a law: {_ENOUGH_LEVELS} of each of {_ENOUGH_SIZES} sizes are needed{advice}"
        )
    parts += [
        f"lr {arm}: {_sentence(found)}" for arm, found in numbers["arms"].items() if found["chosen"]
    ]
    parts.append(
        f"batch branches take {numbers['trunk']['cost']['share']:.0%} of the tokens of the full way"
    )
    return ("pass" if passed else None), "; ".join(parts)


_FORMULAS = {
    "loss": "bs = {c:.3g} / L^{k:.2f}",
    "tokens": "bs = {c:.3g} D^{p:.2f}",
    "tokens_params": "bs = {c:.3g} D^{p:.2f} N^{q:.2f}",
}


def formula(name: str, law: dict[str, Any]) -> str:
    return _FORMULAS[name].format(**law)


def _sentence(found: dict[str, Any]) -> str:
    name = found["chosen"]
    regret = found["regret"]["size"][name]
    regret = found["regret"]["longest"][name] if regret is None else regret
    return f"{formula(name, found['laws'][name])} ({regret:.4f} nats of regret where held out)"
