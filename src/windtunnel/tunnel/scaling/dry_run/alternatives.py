"""Other designs of a scaling study for the same money: more or fewer sizes, a wider span, other
lengths, more seeds; in the order of how surely each would tell the loss at a target, to first
order and without simulation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.loss import Array, Frame, slopes
from windtunnel.results.dry_run import StudyNoise
from windtunnel.scaling_recipe import BatchRule
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import Chain, lay_out, lengths_of
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.assumptions import Assumptions, Truth
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.design import Best, Target
from windtunnel.tunnel.scaling.dry_run.simulate import PointGrid

# Four widths to an octave from 128 on, every multiple of 16 below.
_WIDTHS = (
    *range(16, 129, 16),
    *range(160, 257, 32),
    *range(320, 513, 64),
    *range(640, 1025, 128),
)
_SPACINGS = (1.3, 1.6, 2.0, 2.6)  # from size to size, in all parameters
_SPANS = (16.0, 24.0, 40.0, 64.0)  # the largest over the smallest
_POINTS = (5, 7, 9, 12, 16)
_FURTHER = (0.0, 0.5)  # of the number of lengths, beyond the longest, for the smallest size
_SHORTEST = (0.5, 0.7, 0.85, 1.0, 1.4, 2.0, 4.0)  # of the given design's
_REACHES = (8.0, 12.0, 16.0, 24.0)  # the longest over the shortest
# Seeds, and how many sizes have them; a single seed would leave the noise unknown.
_SEEDS = ((2, 2), (2, 8), (3, 3), (3, 8))
_NEAR = 1.1  # the largest size may miss the wanted one by so much
# An audit run is so many times larger, and longer, than anything in the fit.
_AUDIT_SIZE = 4
_AUDIT_LENGTH = 2

Sizes = Mapping[Size, SizeCounts]


@dataclass(frozen=True)
class Alternative:
    """A design, and the standard deviation that it would leave at the target, relative to the
    loss.
    """

    design: Design
    chain: Chain
    spread: float


def alternatives(
    corpus: Corpus,
    given: Design,
    batch: BatchRule,
    target: Target,
    assumed: Assumptions,
    allowed: Callable[[Design, Chain, Sizes], bool],
) -> list[Alternative]:
    """Every allowed design of a grid around the given one, the surest first. None is larger than
    a quarter of the audit run or longer than half of it, and none reaches beyond the target.
    """
    pool = _pool(corpus, given, target)
    aim = counts_of(corpus, target.size)
    found = []
    for design, chain in _designs(given, batch, target, pool):
        if allowed(design, chain, pool):
            left = spread(PointGrid.of(design, chain, pool), assumed, aim, target.tokens)
            found.append(Alternative(design, chain, left))
    return sorted(found, key=lambda each: each.spread)


def varied(ranked: Sequence[Alternative], most: int) -> list[Alternative]:
    """The first few that differ from each other in sizes or in reach."""
    first: dict[tuple[object, ...], Alternative] = {}
    for each in ranked:
        reach = each.design.longest, each.design.further
        first.setdefault((each.design.sizes, *reach), each)
    return list(first.values())[:most]


def best_of(corpus: Corpus, best: Best, truths: Sequence[Truth]) -> Target:
    """The size of the tunnel's own shapes, and the tokens, that so many FLOPs train to the lowest
    loss, in the geometric mean over the laws that are taken for true. Raises InputError where the
    best size is the smallest or the largest that is known here.
    """
    losses = {}
    for width in _WIDTHS:
        size = Size(width, _depth(width))
        own = counts_of(corpus, size)
        tokens = max(1, round(best.flops / own.flops))
        logs = [math.log(truth.loss(own.counts, tokens)) for truth in truths]
        losses[Target(size, tokens)] = sum(logs)
    found = min(losses, key=lambda target: losses[target])
    if found.size.width in (_WIDTHS[0], _WIDTHS[-1]):
        raise InputError(
            f"--target {best}: the best size lies beyond those that a dry run knows, {_WIDTHS[0]} "
            f"to {_WIDTHS[-1]} wide; name a run, such as 512x8@20M"
        )
    return found


# -- how surely a design tells the loss at the target


def spread(grid: PointGrid, assumed: Assumptions, target: SizeCounts, tokens: int) -> float:
    """Relative standard deviation of a prediction at the target, root mean square over the
    truths: to first order, by least squares with every parameter free, so that what the points
    can't tell (a floor from a coupling) counts.
    """
    found = [_spread(grid, truth, assumed.noise, target, tokens) for truth in assumed.truths]
    return math.sqrt(sum(each**2 for each in found) / len(found))


def _spread(
    grid: PointGrid, truth: Truth, noise: StudyNoise, target: SizeCounts, tokens: int
) -> float:
    stems, lengths = len(grid.sizes), len(grid.tokens)
    params = np.repeat([float(size.params[truth.count]) for size in grid.sizes], lengths)
    data = np.tile(np.array(grid.tokens, float), stems)
    frame = Frame.of(params, data)
    at = frame.coordinates(truth.law)
    _, jacobian = slopes(at, *frame.logs(params, data))
    loss, gradient = slopes(at, *frame.logs([target.params[truth.count]], [tokens]))
    # how the prediction follows each measured loss: (stems, lengths)
    measured = grid.measured.ravel()
    pull = np.zeros(stems * lengths)
    pull[measured] = gradient[0] @ np.linalg.pinv(jacobian[measured])
    pull = pull.reshape(stems, lengths)
    return math.sqrt(_variance(pull, noise)) / float(loss[0])


def _variance(pull: Array, noise: StudyNoise) -> float:
    """Of a sum of losses with the weights `pull` (stems, lengths), nats/token squared."""
    by_stem = pull.sum(1)
    # no two stems of a design read the same text
    alone = noise.length**2 + noise.own**2
    return float(noise.stem**2 * by_stem @ by_stem + alone * (pull**2).sum())


# -- the grid of designs


def _designs(
    given: Design, batch: BatchRule, target: Target, pool: Sizes
) -> Iterator[tuple[Design, Chain]]:
    longest = target.tokens
    if given.audit:
        longest = min(longest, given.audit_tokens // _AUDIT_LENGTH)
    ladders = _ladders(pool)
    for part, reach, points, further in product(_SHORTEST, _REACHES, _POINTS, _FURTHER):
        shortest = _rounded(part * given.shortest)
        reaching = _rounded(reach * shortest)
        more = round(further * points)
        lengths = replace(given, shortest=shortest, longest=reaching, points=points, further=more)
        if lengths_of(lengths)[-1] > longest:
            continue
        try:
            chain = lay_out(lengths, batch)
        except InputError:  # lengths that fall on one step: not a design
            continue
        for sizes, (seeds, most) in product(ladders, _SEEDS):
            repeated = min(most, len(sizes))
            yield replace(lengths, sizes=sizes, seeds=seeds, repeated=repeated), chain


def _pool(corpus: Corpus, given: Design, target: Target) -> dict[Size, SizeCounts]:
    """Counts by size, up to what the audit run and the target leave room for, the smallest first;
    the given sizes among them.
    """
    limit = counts_of(corpus, target.size).counts.params_total
    if given.audit:
        audit = counts_of(corpus, given.audit_size).counts.params_total
        limit = min(limit, audit // _AUDIT_SIZE)
    sizes = {*given.sizes, *(Size(width, _depth(width)) for width in _WIDTHS)}
    counts = {size: counts_of(corpus, size) for size in sizes}
    ordered = sorted(counts.items(), key=lambda item: item[1].counts.params_total)
    return {size: each for size, each in ordered if each.counts.params_total <= limit}


def _depth(width: int) -> int:
    """As deep as the tunnel's own sizes: two layers at width 16, four from 64 on, and a layer for
    each 64 later.
    """
    return max(2, min(4, width // 16), width // 64)


def _ladders(pool: Sizes) -> list[tuple[Size, ...]]:
    """Sizes evenly spaced in the logarithm, as far as the pool has them."""
    totals = np.array([each.counts.params_total for each in pool.values()], float)
    sizes = list(pool)
    found = set()
    for spacing, span, first in product(_SPACINGS, _SPANS, totals):
        if first * span > totals[-1] * _NEAR:
            continue
        rungs = 1 + round(math.log(span) / math.log(spacing))
        wanted = np.geomspace(first, first * span, rungs)
        nearest = {int(np.argmin(np.abs(np.log(totals / each)))) for each in wanted}
        found.add(tuple(sizes[index] for index in sorted(nearest)))
    return sorted(found)


def _rounded(tokens: float) -> int:
    """To two digits, as a person would write it."""
    unit = 10 ** max(0, math.floor(math.log10(tokens)) - 1)
    return round(tokens / unit) * unit
