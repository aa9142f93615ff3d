"""How the loss falls with size and data, at a cost that grows with the data and not with the
number of points: one stem a size, and branches that decay from it at many lengths (paper section
4.5). Makes the table that laws are fitted to.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from windtunnel.data.repeats import repeated
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.model.shape import count, flops_per_token
from windtunnel.quantities import Length, about
from windtunnel.recipe import Recipe
from windtunnel.results.scaling import (
    SCALING,
    AuditRun,
    BatchAlong,
    Beyond,
    Copying,
    RateAlong,
    ScalingNumbers,
    ScalingRow,
    SizeLosses,
    StudyCost,
)
from windtunnel.results.study import write_study
from windtunnel.scaling_recipe import ScalingRecipe, rate_found, scaling_recipe
from windtunnel.train.checkpoint import positions
from windtunnel.train.loop import Watch, load_model
from windtunnel.train.run import Run
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Branch, fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.chain import Chain, lay_out
from windtunnel.tunnel.scaling.copying import copying_of
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.judge import judge
from windtunnel.tunnel.scaling.law import law_of
from windtunnel.tunnel.study import core_minutes, final_loss, held_out_excess, ids, rows_at_end


def scaling(lab: Path, corpus: Corpus, design: Design, watch: Watch) -> Path:
    """Run the study, or what is missing of it; returns its folder. Raises InputError for a design
    that can't be laid out.
    """
    recipe = recipe_of(lab, corpus, design)
    chain = lay_out(design, recipe.batch)
    stems, audit = _trained(lab, corpus, design, recipe, chain, watch)
    numbers, rows = _analysed(corpus, design, recipe, chain, stems, audit)
    runs = _runs_of(stems) + ([audit] if audit else [])
    verdict, summary = judge(numbers, failed=sum(final_loss(run) is None for run in runs))
    return write_study(
        lab,
        SCALING,
        rows=rows,
        verdict=verdict,
        summary=summary,
        numbers=numbers,
        runs=ids(runs),
    )


def recipe_of(lab: Path, corpus: Corpus, design: Design) -> ScalingRecipe:
    """By which the runs of a design are trained. Raises InputError for a damaged study."""
    sizes = [*design.sizes, *([design.audit_size] if design.audit else [])]
    largest = max(_params(corpus, size) for size in sizes)
    return scaling_recipe(
        lab, corpus.folder.name, largest=largest, lr=design.lr, batch=design.batch
    )


def _params(corpus: Corpus, size: Size) -> int:
    """Without embeddings."""
    return count(proxy(corpus, size.width, size.depth).model).params


# -- the runs


@dataclass(frozen=True, kw_only=True)
class _Stem:
    """The trained runs of one size and seed."""

    size: Size
    seed: int
    chain: Chain
    segments: list[Run]
    branches: list[Run]


def _runs_of(stems: Sequence[_Stem]) -> list[Run]:
    """Each run once."""
    found: list[Run] = []
    for stem in stems:
        found += [*stem.segments, *stem.branches]
    return _distinct(found)


def _trained(
    lab: Path, corpus: Corpus, design: Design, how: ScalingRecipe, chain: Chain, watch: Watch
) -> tuple[list[_Stem], Run | None]:
    """Every stem with its branches, and the audit run where the design has one."""
    wanted: list[Recipe | Branch] = []
    if design.audit:
        wanted.append(_audit_recipe(corpus, design, how))
    chains = {size: chain.first(design.points_of(size)) for size in design.sizes}
    for size, seed in design.stems:
        segments = _segments(corpus, how, chains[size], size, seed)
        wanted += [*segments, *_branches(design, chains[size], size, segments)]
    # the runs come back in the order in which they were wanted
    runs = iter(fleet(lab, corpus, wanted, watch, "scaling", SCALING))
    audit = next(runs) if design.audit else None
    stems = []
    for size, seed in design.stems:
        own = chains[size]
        segments = list(islice(runs, len(own.segments)))
        branches = list(islice(runs, len(own.points)))
        # branches that a failed stem never came to all come back as that stem
        branches = _distinct(branches)
        stems.append(_Stem(size=size, seed=seed, chain=own, segments=segments, branches=branches))
    return stems, audit


def _segments(
    corpus: Corpus, how: ScalingRecipe, chain: Chain, size: Size, seed: int
) -> list[Recipe | Branch]:
    """The stem, which goes on with another batch and rate from segment to segment."""
    params = _params(corpus, size)
    rates = [
        how.rate.lr(params, chain.middle(index), segment.batch)
        for index, segment in enumerate(chain.segments)
    ]
    first = chain.segments[0]
    stem = proxy(
        corpus,
        size.width,
        size.depth,
        first.end,
        name=f"{size}-stem",
        seed=seed,
        optimizer={"lr": rates[0]},
        schedule={"warmup": chain.warmup, "decay": 0},
        train={"batch": first.batch},
    )
    found: list[Recipe | Branch] = [stem.change(**how.settings)]
    # a batch holds for a whole run: with another one the stem goes on as a run of its own
    for segment, lr in zip(chain.segments[1:], rates[1:], strict=True):
        found.append(
            Branch(
                stem=found[-1],
                at=segment.begin,
                decay=0,
                tokens=segment.end,
                batch=segment.batch,
                lr=lr,
                name=f"{size}-stem-batch{segment.batch}",
            )
        )
    return found


def _branches(
    design: Design, chain: Chain, size: Size, segments: Sequence[Recipe | Branch]
) -> list[Branch]:
    return [
        Branch(
            stem=segments[point.segment],
            at=point.at,
            decay=point.decay,
            shape=design.shape,
            floor=design.floor,
            name=f"{size}-{about(point.tokens)}",
        )
        for point in chain.points
    ]


def _audit_recipe(corpus: Corpus, design: Design, how: ScalingRecipe) -> Recipe:
    """A larger and longer run from scratch, with one batch, as the run of a plan would be."""
    size, tokens = design.audit_size, design.audit_tokens
    batch = how.batch.batch(tokens)
    recipe = proxy(
        corpus,
        size.width,
        size.depth,
        tokens,
        name=f"{size}-audit",
        optimizer={"lr": how.rate.lr(_params(corpus, size), tokens, batch)},
        train={"batch": batch},
        schedule={
            "decay": Length(share=design.decay),
            "decay_shape": design.shape,
            "floor": design.floor,
        },
    )
    return recipe.change(**how.settings)


def _distinct(runs: Iterable[Run]) -> list[Run]:
    """Each run once, in the order of their first place."""
    return list({run.id: run for run in runs}.values())


# -- what they say


def _analysed(
    corpus: Corpus,
    design: Design,
    recipe: ScalingRecipe,
    chain: Chain,
    stems: Sequence[_Stem],
    audit: Run | None,
) -> tuple[ScalingNumbers, list[ScalingRow]]:
    """The numbers of the study, and the rows of its table."""
    rows = []
    for stem in stems:
        for run in stem.branches:
            rows += _rows(run, "branch", stem.size, stem=stem.segments[0].id)
    if audit:
        rows += _rows(audit, "audit", design.audit_size, stem="")
    sizes = _sizes(stems)
    totals = [size.params_total for size in sizes]
    # laws are of text that is read once
    longest = max(*chain.lengths, design.audit_tokens if design.audit else 0)
    seed_sd, freedom = pooled_sd(_repeats(stems))
    audited = _audited(audit, chain, sizes) if audit else None
    copying = _copying(corpus, stems)
    numbers = ScalingNumbers(
        corpus=corpus.folder.name,
        lengths=chain.lengths,
        decay=design.decay,
        shape=design.shape,
        floor=design.floor,
        batch=BatchAlong(
            origin=recipe.batch.origin,
            c=recipe.batch.by_tokens.c,
            p=recipe.batch.by_tokens.p,
            segments=chain.segments,
        ),
        rate=RateAlong(origin=recipe.rate.origin, law=rate_found(recipe.rate.law)),
        settings=recipe.settings,
        cost=_cost(stems, sizes),
        sizes=tuple(sizes),
        span=max(totals) / min(totals),
        fewest_steps=chain.fewest_steps,
        epochs=longest / corpus.train_tokens,
        held_out_excess=held_out_excess(run for stem in stems for run in stem.branches),
        held_out_repeats={name: round(share, 4) for name, share in repeated(corpus).items()},
        copying=copying,
        seed_sd=seed_sd,
        seed_freedom=freedom,
        audit=audited,
        law=law_of(rows, seed_sd, audited, copying),
    )
    return numbers, rows


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


def _losses(stem: _Stem) -> dict[int, float]:
    """Loss by length, of the branches that came to their end."""
    losses = {run.recipe.total_tokens: final_loss(run) for run in stem.branches}
    return {tokens: loss for tokens, loss in losses.items() if loss is not None}


def _sizes(stems: Sequence[_Stem]) -> list[SizeLosses]:
    """Every size once, the smallest first."""
    by_size: dict[Size, list[_Stem]] = {}
    for stem in stems:
        by_size.setdefault(stem.size, []).append(stem)
    return [_size(alike[0], len(alike)) for alike in by_size.values()]


def _size(stem: _Stem, seeds: int) -> SizeLosses:
    recipe = stem.segments[0].recipe
    flops = flops_per_token(recipe.model, recipe.data.context)
    losses = _losses(stem)
    first = losses[min(losses)] if losses else None
    last = losses[max(losses)] if losses else None
    # a doubling of tokens gains (first - last) / log2(longest / shortest)
    gain = None
    if first is not None and last is not None and len(losses) > 1:
        gain = (first - last) / math.log2(max(losses) / min(losses))
    return SizeLosses(
        size=str(stem.size),
        **vars(count(recipe.model)),
        flops=flops * stem.chain.trained,
        flops_cosine=flops * stem.chain.retrained,
        longest=max(stem.chain.lengths),
        first_loss=first,
        last_loss=last,
        gain_per_doubling=gain,
        seeds=seeds,
    )


def _copying(corpus: Corpus, stems: Sequence[_Stem]) -> Copying | None:
    """Of the largest model, at the end of its longest branch; None where that diverged, or kept no
    checkpoint.
    """
    largest = max(stems, key=lambda stem: count(stem.segments[0].recipe.model).params)
    longest = largest.branches[-1]
    if final_loss(longest) is None or not positions(longest.checkpoints):
        return None
    windows = Windows(corpus, longest.recipe.data, longest.recipe.seed)
    return copying_of(load_model(longest).losses, windows)


def _cost(stems: Sequence[_Stem], sizes: Sequence[SizeLosses]) -> StudyCost:
    flops = sum(size.flops * size.seeds for size in sizes)
    cosine = sum(size.flops_cosine * size.seeds for size in sizes)
    return StudyCost(
        flops=flops,
        flops_cosine=cosine,
        ratio=flops / cosine,
        tokens=sum(stem.chain.trained for stem in stems),
        tokens_cosine=sum(stem.chain.retrained for stem in stems),
        core_minutes=core_minutes(_runs_of(stems)),
    )


def _audited(run: Run, chain: Chain, sizes: Sequence[SizeLosses]) -> AuditRun:
    recipe = run.recipe
    counts = vars(count(recipe.model))
    beyond = {name: counts[name] / max(getattr(size, name) for size in sizes) for name in counts}
    return AuditRun(
        run=run.id,
        **counts,
        tokens=recipe.total_tokens,
        batch=recipe.train.batch,
        flops=flops_per_token(recipe.model, recipe.data.context) * recipe.total_tokens,
        core_minutes=core_minutes([run]),
        beyond=Beyond(**beyond, tokens=recipe.total_tokens / max(chain.lengths)),
        loss=final_loss(run),
    )


def _repeats(stems: Sequence[_Stem]) -> list[list[float]]:
    """The losses of each size and length, one a seed."""
    groups: dict[tuple[Size, int], list[float]] = {}
    for stem in stems:
        for tokens, loss in _losses(stem).items():
            groups.setdefault((stem.size, tokens), []).append(loss)
    return list(groups.values())


def pooled_sd(groups: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Standard deviation within groups of repeated measurements, and its degrees of freedom; None
    without repeats.
    """
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None, 0
    # within groups: the groups' own means are no noise
    squares = sum(float(((np.asarray(group) - np.mean(group)) ** 2).sum()) for group in groups)
    return math.sqrt(squares / freedom), freedom
