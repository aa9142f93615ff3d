"""Which data is worth putting into the decay, and what it costs elsewhere: arms that leave the
same stem and differ in the decay's mixture, shape or length (paper section 5 puts its best data
there).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import DECAY_SHAPES, DecayShapeName, Mixture, Recipe
from windtunnel.results.ablate import ABLATE, AblateNumbers, AblateRow
from windtunnel.results.study import write_study
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.study import core_minutes, final, ids, rows_at_end

LEVEL = 0.9
Vary = Literal["mixture", "shape", "length"]
_LENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4)  # shares of a run that decay


@dataclass(frozen=True)
class Arm:
    """A way to decay. `mixture` None: the stem's."""

    name: str
    decay: float  # share of the run
    shape: DecayShapeName = "linear"
    mixture: Mixture | None = None

    @property
    def floor(self) -> float:
        return DECAY_SHAPES[self.shape].floor


@dataclass(frozen=True)
class Design:
    """What is measured. `tokens`: of every arm, its decay included. One stem a seed, which all
    its arms leave.
    """

    width: int = 64
    depth: int = 4
    tokens: int = 2_560_000
    decay: float = 0.2
    shape: DecayShapeName = "linear"
    batch: int = 2048
    lr: float = 0.01
    seeds: int = 2

    def arms(self, corpus: Corpus, vary: Vary, share: float = 0.5) -> list[Arm]:
        """The base arm, and those that differ from it in one way. Of mixtures: one a source,
        which gives it `share` of the decay and the others what is left, by their sizes.
        """
        if vary == "shape":
            others = [shape for shape in DECAY_SHAPES if shape != self.shape]
            return [Arm(shape, self.decay, shape) for shape in [self.shape, *others]]
        if vary == "length":
            lengths = [
                self.decay,
                *(length for length in _LENGTHS if not math.isclose(length, self.decay)),
            ]
            return [Arm(f"{length:.0%}", length, self.shape) for length in lengths]
        natural = natural_mixture(corpus)
        given = {source: upweighted(natural, source, share) for source in natural}
        return [
            self.base,
            *(Arm(source, self.decay, self.shape, mixture) for source, mixture in given.items()),
        ]

    @property
    def base(self) -> Arm:
        return Arm("natural", self.decay, self.shape)


@dataclass(frozen=True)
class Difference:
    """Loss of an arm over that of the base arm, nats/token: the mean over seeds, and its 90%
    intervals.
    """

    mean: float
    interval: tuple[float, float] | None  # with the noise pooled over the arms
    alone: tuple[float, float] | None  # from this arm's seeds only: paired t


def ablate(lab: Path, corpus: Corpus, design: Design, arms: Sequence[Arm], watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder. The first arm is the one that
    others are held against. Raises InputError for arms that the design has no room for.
    """
    if len(arms) < 2 or len({arm.name for arm in arms}) < len(arms):
        raise InputError(
            f"arms {', '.join(arm.name for arm in arms)}: expected two or more, each with its own name"
        )
    wanted: list[Recipe | Branch] = []
    for seed in range(design.seeds):
        stem = _stem(corpus, design, arms, seed)
        wanted += [stem, *(_leave(stem, design, arm) for arm in arms)]
    runs = fleet(lab, corpus, wanted, watch, "ablate")
    each = len(arms) + 1
    by_seed = [runs[i : i + each] for i in range(0, len(runs), each)]
    rows = [
        row
        for stem, *found in by_seed
        for arm, run in zip(arms, found, strict=True)
        for row in rows_at_end(
            AblateRow,
            run,
            "branch",
            arm=arm.name,
            stem=stem.id,
            shape=arm.shape,
            decay=_decay_tokens(design, arm),
        )
    ]
    complete = [found for _, *found in by_seed if all(final(run) is not None for run in found)]
    numbers = _numbers(corpus, design, arms, complete) | {
        "failed": sum(final(run) is None for run in runs),
        "core_minutes": core_minutes(runs),
    }
    return write_study(
        lab,
        ABLATE,
        rows=rows,
        verdict=None,
        summary=_summary(numbers),
        numbers=AblateNumbers.model_validate(numbers),
        runs=ids(runs),
    )


def natural_mixture(corpus: Corpus) -> dict[str, float]:
    """Each source's share of the training tokens."""
    sizes = {name: source.train.tokens for name, source in corpus.sources.items()}
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


def upweighted(natural: dict[str, float], source: str, share: float) -> dict[str, float]:
    """`share` more of one source, the rest as it was: the natural mixture takes 1 - `share` of
    the decay.
    """
    return {
        name: (1 - share) * weight + share * (name == source) for name, weight in natural.items()
    }


def differences(losses: NDArray[np.float64]) -> tuple[list[list[Difference]], list[float | None]]:
    """losses: (seeds, arms, sources), the base arm first. Returns the differences of the other
    arms to it, (arms - 1, sources), and for each source the standard deviation over seeds of a
    difference, pooled over the arms.

    Arms share the base arm's noise, so pooled intervals of different arms are not independent of
    each other.
    """
    paired = losses[:, 1:] - losses[:, :1]
    means, seeds = paired.mean(0), len(paired)
    if seeds < 2:
        return [[Difference(float(mean), None, None) for mean in arm] for arm in means], [
            None
        ] * losses.shape[2]
    variances = paired.var(0, ddof=1)
    pooled = np.sqrt(variances.mean(0))
    wide = float(student.ppf((1 + LEVEL) / 2, seeds - 1)) * np.sqrt(variances / seeds)
    narrow = (
        float(student.ppf((1 + LEVEL) / 2, len(means) * (seeds - 1))) * pooled / math.sqrt(seeds)
    )
    found = [
        [
            Difference(float(mean), _about(mean, narrow[s]), _about(mean, wide[a, s]))
            for s, mean in enumerate(arm)
        ]
        for a, arm in enumerate(means)
    ]
    return found, [float(noise) for noise in pooled]


def _about(mean: float, reach: float) -> tuple[float, float]:
    return float(mean - reach), float(mean + reach)


def _stem(corpus: Corpus, design: Design, arms: Sequence[Arm], seed: int) -> Recipe:
    """As long as the arm with the shortest decay needs it."""
    last = max(_leaves_at(design, arm) for arm in arms)
    recipe = proxy(
        corpus,
        design.width,
        design.depth,
        last,
        name=f"ablate-stem-seed{seed}",
        seed=seed,
        optimizer={"lr": design.lr},
        train={"batch": design.batch},
        schedule={"decay": 0},
    )
    earliest = min(_leaves_at(design, arm) for arm in arms)
    if earliest <= recipe.warmup_tokens:
        raise InputError(
            f"a decay from token {earliest} of {design.tokens} on: the warm-up ends at {recipe.warmup_tokens}"
        )
    return recipe


def _leave(stem: Recipe, design: Design, arm: Arm) -> Branch:
    return Branch(
        stem,
        _leaves_at(design, arm),
        _decay_tokens(design, arm),
        shape=arm.shape,
        floor=arm.floor,
        mixture=arm.mixture,
        name=f"ablate-{arm.name}-seed{stem.seed}",
    )


def _leaves_at(design: Design, arm: Arm) -> int:
    """In whole steps; all arms end at the same token."""
    return _whole(design.tokens, design) - _decay_tokens(design, arm)


def _decay_tokens(design: Design, arm: Arm) -> int:
    return max(design.batch, _whole(round(arm.decay * design.tokens), design))


def _whole(tokens: int, design: Design) -> int:
    return tokens - tokens % design.batch


def _numbers(
    corpus: Corpus, design: Design, arms: Sequence[Arm], complete: Sequence[Sequence[Run]]
) -> dict[str, Any]:
    """`complete`: the arms' runs of each seed for which all arms came to their end."""
    sources = ["all", *corpus.sources]
    numbers: dict[str, Any] = {
        "corpus": corpus.folder.name,
        "size": f"{design.width}x{design.depth}",
        "tokens": design.tokens,
        "seeds": len(complete),
        "base": arms[0].name,
        "sources": sources,
        "natural": natural_mixture(corpus),
        "noise": None,
        "arms": [
            {
                "name": arm.name,
                "shape": arm.shape,
                "decay": _decay_tokens(design, arm),
                "mixture": arm.mixture,
                "loss": None,
                "difference": None,
            }
            for arm in arms
        ],
    }
    if not complete:
        return numbers
    losses = np.array([[_losses(run, sources) for run in found] for found in complete])
    found, noise = differences(losses)
    for index, (arm, run) in enumerate(zip(numbers["arms"], complete[0], strict=True)):
        arm["loss"] = dict(zip(sources, losses[:, index].mean(0).tolist(), strict=True))
        arm["epochs"] = _epochs(run, corpus)
        if index:
            arm["difference"] = {s: vars(d) for s, d in zip(sources, found[index - 1], strict=True)}
    numbers["noise"] = dict(zip(sources, noise, strict=True))
    return numbers


def _losses(run: Run, sources: Sequence[str]) -> list[float]:
    validation = final(run)
    assert validation
    scores = {"all": validation, **validation.sources}
    return [scores[source].loss for source in sources]


def _epochs(run: Run, corpus: Corpus) -> dict[str, float]:
    """How often the run has read each source: what is read twice is worth less."""
    windows = Windows(corpus, run.recipe.data, run.recipe.seed)
    return windows.order.epochs(run.recipe.total_tokens // windows.context)


def _summary(numbers: dict[str, Any]) -> str:
    measured = [arm for arm in numbers["arms"] if arm["difference"]]
    if not measured:
        return "no seed has all its arms: runs diverged"
    best = min(measured, key=lambda arm: arm["difference"]["all"]["mean"])
    text = (
        f"against {numbers['base']}, of {len(measured)} arms {best['name']} does best on all held-out text: "
        f"{_said(best['difference']['all'])} nats/token"
    )
    own = [
        (arm, source, d)
        for arm in measured
        for source, d in arm["difference"].items()
        if source != "all"
    ]
    arm, source, most = min(own, key=lambda found: found[2]["mean"])
    elsewhere = [d["mean"] for _, s, d in own if _ is arm and s != source]
    text += f"; the largest gain on one source is {arm['name']} on {source}: {_said(most)}"
    if elsewhere:
        text += f", with {np.mean(elsewhere):+.4f} on the others"
    return text + f" ({numbers['seeds']} seeds, 90% intervals with noise pooled over the arms)"


def _said(difference: dict[str, Any]) -> str:
    interval = difference["interval"]
    return f"{difference['mean']:+.4f}" + (
        f" [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else ""
    )
