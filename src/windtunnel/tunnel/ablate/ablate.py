"""Which data is worth putting into the decay, and what it costs elsewhere: arms that leave the
same stem and differ in the decay's mixture, shape or length (paper section 5 puts its best data
there).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.results.ablate import ABLATE, AblateNumbers, AblateRow, ArmFound, Difference
from windtunnel.results.study import write_study
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.ablate.arms import Arm, natural_mixture
from windtunnel.tunnel.ablate.design import Design
from windtunnel.tunnel.ablate.differences import differences
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.study import core_minutes, final, ids, rows_at_end


def ablate(lab: Path, corpus: Corpus, design: Design, arms: Sequence[Arm], watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder. The first arm is the one that
    others are held against. Raises InputError for arms that the design has no room for.
    """
    if len(arms) < 2 or len({arm.name for arm in arms}) < len(arms):
        raise InputError(
            f"arms {', '.join(arm.name for arm in arms)}: expected two or more, each with its own "
            "name"
        )
    wanted: list[Recipe | Branch] = []
    for seed in range(design.seeds):
        stem = _stem(corpus, design, arms, seed)
        wanted += [stem, *(_leave(stem, design, arm) for arm in arms)]
    runs = fleet(lab, corpus, wanted, watch, "ablate", ABLATE)
    # seed by seed: the stem, then its arms
    each = len(arms) + 1
    by_seed = [runs[first : first + each] for first in range(0, len(runs), each)]
    numbers = _numbers(corpus, design, arms, by_seed)
    return write_study(
        lab,
        ABLATE,
        rows=_rows(design, arms, by_seed),
        verdict=None,
        summary=_summary(numbers),
        numbers=numbers,
        runs=ids(runs),
    )


def _stem(corpus: Corpus, design: Design, arms: Sequence[Arm], seed: int) -> Recipe:
    """As long as the arm with the shortest decay needs it."""
    leaving = [arm.leaves_at(design) for arm in arms]
    recipe = proxy(
        corpus,
        design.width,
        design.depth,
        max(leaving),
        name=f"ablate-stem-seed{seed}",
        seed=seed,
        optimizer={"lr": design.lr},
        train={"batch": design.batch},
        schedule={"decay": 0},
    )
    if min(leaving) <= recipe.warmup_tokens:
        raise InputError(
            f"a decay from token {min(leaving)} of {design.tokens} on: the warm-up ends at "
            f"{recipe.warmup_tokens}"
        )
    return recipe


def _leave(stem: Recipe, design: Design, arm: Arm) -> Branch:
    return Branch(
        stem=stem,
        at=arm.leaves_at(design),
        decay=arm.decay_tokens(design),
        shape=arm.shape,
        floor=arm.floor,
        mixture=arm.mixture,
        name=f"ablate-{arm.name}-seed{stem.seed}",
    )


def _rows(design: Design, arms: Sequence[Arm], by_seed: Sequence[Sequence[Run]]) -> list[AblateRow]:
    rows = []
    for stem, *found in by_seed:
        for arm, run in zip(arms, found, strict=True):
            rows += rows_at_end(
                AblateRow,
                run,
                "branch",
                arm=arm.name,
                stem=stem.id,
                shape=arm.shape,
                decay=arm.decay_tokens(design),
            )
    return rows


def _numbers(
    corpus: Corpus, design: Design, arms: Sequence[Arm], by_seed: Sequence[Sequence[Run]]
) -> AblateNumbers:
    """`by_seed`: each seed's stem, and its runs of the arms."""
    sources = ["all", *corpus.sources]
    runs: list[Run] = []
    whole = []
    for stem, *found in by_seed:
        runs += [stem, *found]
        if not any(_failed(run) for run in found):
            whole.append(found)
    noise, compared = _compared(corpus, design, arms, whole, sources)
    return AblateNumbers(
        corpus=corpus.folder.name,
        size=f"{design.width}x{design.depth}",
        tokens=design.tokens,
        seeds=len(whole),
        base=arms[0].name,
        sources=tuple(sources),
        natural=natural_mixture(corpus),
        noise=noise,
        arms=tuple(compared),
        failed=sum(map(_failed, runs)),
        core_minutes=core_minutes(runs),
    )


def _compared(
    corpus: Corpus,
    design: Design,
    arms: Sequence[Arm],
    whole: Sequence[Sequence[Run]],
    sources: Sequence[str],
) -> tuple[dict[str, float | None] | None, list[ArmFound]]:
    """The noise of a difference by source, and every arm; `whole`: the arms' runs of each seed for
    which all arms came to their end.
    """
    if not whole:
        return None, [_arm_found(design, arm) for arm in arms]
    measured = []
    for found in whole:
        measured.append([_losses(run, sources) for run in found])
    losses = np.array(measured)  # (seeds, arms, sources)
    apart, noise = differences(losses)
    arms_found = []
    for index, arm in enumerate(arms):
        mean = losses[:, index].mean(0).tolist()
        arms_found.append(
            _arm_found(
                design,
                arm,
                loss=dict(zip(sources, mean, strict=True)),
                difference=dict(zip(sources, apart[index - 1], strict=True)) if index else None,
                epochs=_epochs(whole[0][index], corpus),
            )
        )
    return dict(zip(sources, noise, strict=True)), arms_found


def _arm_found(
    design: Design,
    arm: Arm,
    loss: dict[str, float] | None = None,
    difference: dict[str, Difference] | None = None,
    epochs: dict[str, float] | None = None,
) -> ArmFound:
    return ArmFound(
        name=arm.name,
        shape=arm.shape,
        decay=arm.decay_tokens(design),
        mixture=arm.mixture,
        loss=loss,
        difference=difference,
        epochs=epochs,
    )


def _failed(run: Run) -> bool:
    return final(run) is None


def _losses(run: Run, sources: Sequence[str]) -> list[float]:
    validation = final(run)
    assert validation
    scores = {"all": validation, **validation.sources}
    return [scores[source].loss for source in sources]


def _epochs(run: Run, corpus: Corpus) -> dict[str, float]:
    """How often the run has read each source."""
    windows = Windows(corpus, run.recipe.data, run.recipe.seed)
    return windows.order.epochs(run.recipe.total_tokens // windows.context)


def _summary(numbers: AblateNumbers) -> str:
    measured = {arm.name: arm.difference for arm in numbers.arms if arm.difference}
    # differences are of whole seeds: without any, nothing was measured
    if not measured:
        return "no seed has all its arms, since runs diverged"
    best = min(measured, key=lambda name: measured[name]["all"].mean)
    text = (
        f"compared with {numbers.base}, {best} is the best of {len(measured)} arms on all held-out "
        f"text: {_said(measured[best]['all'])} nats/token"
    )
    own = {}  # on single sources
    for name, difference in measured.items():
        own |= {(name, source): difference[source] for source in difference if source != "all"}
    name, source = min(own, key=lambda key: own[key].mean)
    text += f"; the largest gain on one source is {name} on {source}: {_said(own[name, source])}"
    elsewhere = [own[key].mean for key in own if key[0] == name and key[1] != source]
    if elsewhere:
        text += f", with {np.mean(elsewhere):+.4f} on the others"
    seeds = "1 seed" if numbers.seeds == 1 else f"{numbers.seeds} seeds"
    return f"{text} ({seeds}, 90% intervals with the noise pooled over the arms)"


def _said(difference: Difference) -> str:
    if difference.interval is None:
        return f"{difference.mean:+.4f}"
    low, high = difference.interval
    return f"{difference.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
