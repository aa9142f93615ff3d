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
from windtunnel.tunnel.scaling.dry_run.cost import Shape, shape_of
from windtunnel.tunnel.scaling.dry_run.simulate import Layout, Noise, Target, Truth, World
from windtunnel.tunnel.scaling.scaling import BatchLaw, Chain, Design, Size, lay_out

_WIDTHS = (
    16,
    32,
    48,
    64,
    80,
    96,
    112,
    128,
    160,
    192,
    224,
    256,
    320,
    384,
    448,
    512,
    640,
    768,
    896,
    1024,
)
_SPACINGS = (1.3, 1.6, 2.0, 2.6)  # from size to size, in all parameters
_SPANS = (16.0, 24.0, 40.0, 64.0)  # the largest over the smallest
_POINTS = (5, 7, 9, 12, 16)
_SHORTEST = (0.5, 0.7, 0.85, 1.0, 1.4, 2.0, 4.0)  # of the given design's
_REACHES = (8.0, 12.0, 16.0, 24.0)  # the longest over the shortest
_SEEDS = (
    (2, 2),
    (2, 8),
    (3, 3),
    (3, 8),
)  # seeds (one would leave the noise unknown), and how many sizes have them
_NEAR = 1.1  # the largest size may miss the wanted one by so much
_AUDIT_SIZE, _AUDIT_LENGTH = 4, 2  # an audit run is larger and longer than the fit by so much


@dataclass(frozen=True)
class Ranked:
    """A design, and the standard deviation that it would leave at the target, relative to the
    loss.
    """

    design: Design
    chain: Chain
    spread: float


def alternatives(
    corpus: Corpus,
    given: Design,
    law: BatchLaw,
    target: Target,
    world: World,
    allowed: Callable[[Design, Chain, Mapping[Size, Shape]], bool],
) -> list[Ranked]:
    """Every allowed design of a grid around the given one, the surest first. None is larger than
    a quarter of the audit run or longer than half of it, and none reaches beyond the target.
    """
    pool = _pool(corpus, given, target)
    aim = shape_of(corpus, target.size)
    ranked = []
    for design, chain in _designs(given, law, target, pool):
        if allowed(design, chain, pool):
            layout = Layout.of(design, chain, pool)
            ranked.append(Ranked(design, chain, spread(layout, world, aim, target.tokens)))
    return sorted(ranked, key=lambda each: each.spread)


def varied(ranked: Sequence[Ranked], most: int) -> list[Ranked]:
    """The first few that differ from each other in sizes or in reach."""
    first: dict[tuple[object, ...], Ranked] = {}
    for each in ranked:
        first.setdefault((tuple(each.design.sizes), each.design.longest), each)
    return list(first.values())[:most]


def spread(layout: Layout, world: World, target: Shape, tokens: int) -> float:
    """Relative standard deviation of a prediction at the target, root mean square over the
    truths: to first order, by least squares with every parameter free, so that what the points
    can't tell (a floor from a coupling) counts.
    """
    found = [_spread(layout, truth, world.noise, target, tokens) for truth in world.truths]
    return math.sqrt(sum(each**2 for each in found) / len(found))


def _spread(layout: Layout, truth: Truth, noise: Noise, target: Shape, tokens: int) -> float:
    params = np.repeat(
        [float(shape.params[truth.count]) for shape in layout.shapes], len(layout.tokens)
    )
    data = np.tile(np.array(layout.tokens, float), len(layout.shapes))
    frame = Frame.of(params, data)
    at = frame.coordinates(truth.law)
    _, jacobian = slopes(at, *frame.logs(params, data))
    loss, gradient = slopes(at, *frame.logs([target.params[truth.count]], [tokens]))
    # how the prediction follows each measured loss: (stems, lengths)
    pull = (gradient[0] @ np.linalg.pinv(jacobian)).reshape(len(layout.shapes), len(layout.tokens))
    return math.sqrt(_variance(pull, noise)) / float(loss[0])


def _variance(pull: Array, noise: Noise) -> float:
    by_stem, by_length = pull.sum(1), pull.sum(0)
    return float(
        noise.stem**2 * by_stem @ by_stem
        + noise.length**2 * by_length @ by_length
        + noise.own**2 * (pull**2).sum()
    )


def _designs(
    given: Design, law: BatchLaw, target: Target, pool: dict[Size, Shape]
) -> Iterator[tuple[Design, Chain]]:
    longest = min(
        target.tokens, given.audit_tokens // _AUDIT_LENGTH if given.audit else target.tokens
    )
    ladders = _ladders(pool)
    for part, reach, points in product(_SHORTEST, _REACHES, _POINTS):
        shortest = _rounded(part * given.shortest)
        if reach * shortest > longest:
            continue
        lengths = replace(
            given, shortest=shortest, longest=_rounded(reach * shortest), points=points
        )
        try:
            chain = lay_out(lengths, law)
        except InputError:  # lengths that fall on one step: not a design
            continue
        for sizes, (seeds, repeated) in product(ladders, _SEEDS):
            yield (
                replace(lengths, sizes=sizes, seeds=seeds, repeated=min(repeated, len(sizes))),
                chain,
            )


def _pool(corpus: Corpus, given: Design, target: Target) -> dict[Size, Shape]:
    """Shapes by size, up to what the audit run and the target leave room for; the given sizes
    among them.
    """
    limit = shape_of(corpus, target.size).counts.params_total
    if given.audit:
        limit = min(limit, shape_of(corpus, given.audit).counts.params_total // _AUDIT_SIZE)
    sizes = {*given.sizes, *(Size(width, _depth(width)) for width in _WIDTHS)}
    shapes = {size: shape_of(corpus, size) for size in sizes}
    ordered = sorted(shapes.items(), key=lambda item: item[1].counts.params_total)
    return {size: shape for size, shape in ordered if shape.counts.params_total <= limit}


def _depth(width: int) -> int:
    """As deep as the tunnel's own sizes: two layers at width 16, four from 64 on, and a layer for
    each 64 later.
    """
    return max(2, min(4, width // 16), width // 64)


def _ladders(pool: dict[Size, Shape]) -> list[tuple[Size, ...]]:
    """Sizes evenly spaced in the logarithm, as far as the pool has them."""
    totals = np.array([shape.counts.params_total for shape in pool.values()], float)
    sizes, found = list(pool), set()
    for spacing, span, first in product(_SPACINGS, _SPANS, range(len(sizes))):
        if totals[first] * span > totals[-1] * _NEAR:
            continue
        wanted = np.geomspace(
            totals[first], totals[first] * span, 1 + round(math.log(span) / math.log(spacing))
        )
        nearest = {int(np.argmin(np.abs(np.log(totals / each)))) for each in wanted}
        found.add(tuple(sizes[index] for index in sorted(nearest)))
    return sorted(found, key=lambda ladder: [(size.width, size.depth) for size in ladder])


def _rounded(tokens: float) -> int:
    """To two digits, as a person would write it."""
    unit = 10 ** max(0, math.floor(math.log10(tokens)) - 1)
    return round(tokens / unit) * unit
