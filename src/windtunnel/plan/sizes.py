"""Which size for a budget, by the laws and the exact costs of real shapes; which other sizes
would do as well; and what a smaller one costs that is trained longer instead.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.optimum import FLOPS, Optimum, search
from windtunnel.laws.repetition import PUBLISHED, Repetition
from windtunnel.plan.shapes import Band, Family, Shapes
from windtunnel.results.plan import SizeLoss, Smaller

Array = NDArray[np.float64]

INDIFFERENT = 0.005  # of the loss: sizes within it of the best are called as good
# Of the loss. Laws do not see proportions: of shapes that they tell apart by less than this, the
# one that is proportioned as measured models were is chosen.
_TIE = 2e-4
_WIDTHS = (8.0, 32_768.0)
_LOG_FLOPS = (math.log(1e8), math.log(1e30))
# Of the planned model's serving cost: what smaller, over-trained models are looked for at.
_SERVED = (0.7, 0.5, 0.3)
_LONGEST = 1e4  # times the planned tokens


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The loss to expect of (parameters by each count, tokens), where `unique` tokens are there
    to be read.
    """

    law: Callable[[Mapping[str, ArrayLike], ArrayLike], Array]
    family: Family
    unique: float = math.inf
    repetition: Repetition = PUBLISHED

    def effective(self, tokens: ArrayLike) -> Array:
        """Fresh tokens that `tokens` are worth, where they go through the data more than once."""
        d = np.asarray(tokens, float)
        if not math.isfinite(self.unique):
            return d
        return np.asarray(self.repetition.effective(d, np.full_like(d, self.unique)), float)

    def loss(self, shapes: Shapes, tokens: ArrayLike) -> Array:
        """Expected of each shape, nats/token; `tokens` broadcast."""
        return np.asarray(self.law(shapes.params, self.effective(tokens)), float)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a size has to keep to: weights and a full cache within `bytes_served`, no more tokens
    than `tokens`.
    """

    bytes_served: float = math.inf
    bytes_per_weight: float = 2.0
    tokens: float = math.inf

    def kept(self, shapes: Shapes, context: int) -> NDArray[np.bool_]:
        """Which of the shapes fit `bytes_served`, with a cache of `context` tokens."""
        cache = 4 * shapes.depth * shapes.width * context  # keys and values, 2 bytes each
        return shapes.params["params_total"] * self.bytes_per_weight + cache <= self.bytes_served


@dataclass(frozen=True, kw_only=True)
class SizeChoice:
    """A real shape and its tokens, with the loss to expect of them."""

    width: int
    depth: int
    tokens: float
    loss: float  # nats/token
    # without embeddings, of all sizes within 0.5% of the best loss at this cost
    range_params: tuple[float, float]
    at_edge: bool = False  # of all shapes that there are


def best_for_flops(outlook: Outlook, flops: float, limits: Limits) -> SizeChoice:
    """The best real shape that can be trained with `flops`. Raises ValueError where no shape
    keeps to the limits.
    """
    every = outlook.family.shapes()
    shapes = _fitting(every, limits, outlook.family.context)
    tokens = np.minimum(flops / shapes.flops, limits.tokens)
    losses = outlook.loss(shapes, tokens)
    chosen = _nearest_the_band(shapes, losses, outlook.family.band)
    at_edge = shapes.width[np.argmin(losses)] in (every.width.min(), every.width.max())
    return SizeChoice(
        width=int(shapes.width[chosen]),
        depth=int(shapes.depth[chosen]),
        tokens=float(tokens[chosen]),
        loss=float(losses[chosen]),
        range_params=_indifferent(shapes, losses),
        at_edge=bool(at_edge),
    )


def best_for_tokens(outlook: Outlook, tokens: float, limits: Limits) -> SizeChoice:
    """The size for which so many tokens are what a budget would best be spent on. Raises
    ValueError where there is no such budget.
    """
    flops = _budget(outlook, lambda best: best.tokens, tokens)
    unlimited = best_for_flops(outlook, flops, limits)
    return at_shape(outlook, unlimited.width, unlimited.depth, tokens)


def nearest_shape(outlook: Outlook, params: float) -> tuple[int, int]:
    """The real shape that has about so many parameters without embeddings: of those within 3% of
    the nearest one, that of the best proportions.
    """
    shapes = outlook.family.shapes()
    apart = np.abs(np.log(shapes.params["params"] / params))
    near = np.flatnonzero(apart <= apart.min() + 0.03)
    chosen = _best_proportioned(shapes, near, outlook.family.band)
    return int(shapes.width[chosen]), int(shapes.depth[chosen])


def largest_shape(outlook: Outlook, limits: Limits) -> tuple[int, int]:
    """The largest that keeps to the limits. Raises ValueError where none does."""
    shapes = _fitting(outlook.family.shapes(), limits, outlook.family.context)
    # a little below the largest, so that a shape of better proportions near it is found
    return nearest_shape(outlook, float(shapes.params["params"].max()) * 0.97)


def tokens_for_size(outlook: Outlook, params: float) -> float:
    """The tokens for which a size is the best one at its cost. Raises ValueError where there is
    no such budget.
    """
    flops = _budget(outlook, lambda best: best.params, params)
    return flops / _continuous(outlook, flops).flops_per_token


def at_shape(outlook: Outlook, width: int, depth: int, tokens: float) -> SizeChoice:
    """That model with those tokens, and the sizes that would do as well at its cost."""
    own = outlook.family.costs([width], [depth])
    cost = float(own.flops[0]) * tokens
    shapes = outlook.family.shapes()
    losses = outlook.loss(shapes, cost / shapes.flops)
    return SizeChoice(
        width=width,
        depth=depth,
        tokens=tokens,
        loss=float(outlook.loss(own, [tokens])[0]),
        range_params=_indifferent(shapes, losses),
    )


def by_6nd(outlook: Outlook, flops: float) -> Optimum:
    """The best N and D with C = 6ND and N without embeddings, as the paper counts: any N, not
    only real shapes.
    """

    # D = C / 6N; the other counts of N, which laws may take, go with the width
    def loss(n: Array, d: Array) -> Array:
        return np.asarray(outlook.law(_counts(outlook.family, n), outlook.effective(d)), float)

    middle = math.sqrt(flops / FLOPS)
    return search(loss, lambda n: flops / (FLOPS * n), max(1e3, middle / 1e5), middle * 1e3)


def curve(
    outlook: Outlook, flops: float, chosen: SizeChoice, points: int = 41
) -> tuple[SizeLoss, ...]:
    """Sizes from a tenth to ten times about the chosen one, whole or not: tokens and loss that
    `flops` buy.
    """
    # parameters grow about with the width to the power of 2.5, since the depth grows with it
    widths = chosen.width * np.geomspace(10**-0.4, 10**0.4, points)
    shapes = outlook.family.continuous(widths)
    tokens = flops / shapes.flops
    columns = (shapes.params["params"], tokens, outlook.loss(shapes, tokens))
    return tuple(
        SizeLoss(params=float(n), tokens=float(d), loss=float(loss))
        for n, d, loss in zip(*columns, strict=True)
    )


def over_trained(outlook: Outlook, chosen: SizeChoice) -> tuple[Smaller, ...]:
    """Smaller models, trained until their loss is within 0.5% of the planned one's: at about 0.7,
    0.5 and 0.3 of its serving cost, where the laws say that any number of tokens gets there.
    """
    own = outlook.family.costs([chosen.width], [chosen.depth])
    own_flops = float(own.flops[0])
    shapes, found = outlook.family.shapes(), dict[tuple[int, int], Smaller]()
    for share in _SERVED:
        # reading or writing a token takes a third of its training FLOPs, for any shape: so the
        # ratio of the costs to serve is that of the costs to train
        near = np.abs(np.log(shapes.flops / (own_flops * share)))
        candidates = np.flatnonzero(near <= near.min() + 0.05)
        shape = shapes.select([_best_proportioned(shapes, candidates, outlook.family.band)])
        width, depth, flops = int(shape.width[0]), int(shape.depth[0]), float(shape.flops[0])
        if not 0.5 * share < flops / own_flops < 0.95:
            continue
        tokens = _tokens_to(outlook, shape, chosen.loss * (1 + INDIFFERENT), chosen.tokens)
        if tokens is not None:
            found[width, depth] = Smaller(
                width=width,
                depth=depth,
                params=int(shape.params["params"][0]),
                tokens=tokens,
                loss=float(outlook.loss(shape, [tokens])[0]),
                serving=flops / own_flops,
                training=flops * tokens / (own_flops * chosen.tokens),
            )
    return tuple(found.values())


def _tokens_to(outlook: Outlook, shape: Shapes, loss: float, about: float) -> float | None:
    """The fewest tokens with which a shape reaches a loss; None where none are enough."""
    low, high = math.log(about / 100), math.log(about * _LONGEST)

    def reached(log_tokens: float) -> bool:
        return bool(outlook.loss(shape, [math.exp(log_tokens)])[0] <= loss)

    if not reached(high):
        return None
    _, fewest = _bisected(reached, low, high, 1e-9)
    return math.exp(fewest)


@dataclass(frozen=True)
class _Best:
    """What a budget is best spent on, of sizes that need not be whole."""

    params: float
    tokens: float
    flops_per_token: float


def _continuous(outlook: Outlook, flops: float) -> _Best:
    """The best width, whole or not, in the middle of the band."""

    def at(width: Array) -> Shapes:
        return outlook.family.continuous(width)

    found = search(lambda w, d: outlook.loss(at(w), d), lambda w: flops / at(w).flops, *_WIDTHS)
    shape = at(np.array([found.params]))
    return _Best(float(shape.params["params"][0]), found.tokens, float(shape.flops[0]))


def _budget(outlook: Outlook, of: Callable[[_Best], float], wanted: float) -> float:
    """The FLOPs whose best size has `of` it as wanted, to 1e-6."""

    def at(log_flops: float) -> float:
        return of(_continuous(outlook, math.exp(log_flops)))

    low, high = _LOG_FLOPS
    if not at(low) < wanted < at(high):
        raise ValueError("the laws give no budget for which this would be the best size and length")
    low, high = _bisected(lambda log_flops: at(log_flops) >= wanted, low, high, 1e-6)
    return math.exp((low + high) / 2)


def _bisected(
    enough: Callable[[float], bool], low: float, high: float, within: float
) -> tuple[float, float]:
    """Two values, nearer than `within`, between which `enough` becomes true."""
    while high - low > within:
        middle = (low + high) / 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return low, high


def _counts(family: Family, params: Array) -> dict[str, Array]:
    """Every count of sizes that are given by the paper's, through the widths in the middle of the
    band.
    """
    grid = np.geomspace(*_WIDTHS, 2000)
    known = family.continuous(grid).params
    log_n, log_w = np.log(known["params"]), np.log(grid)
    table = family.vocab * np.exp(np.interp(np.log(params), log_n, log_w))
    return family.counts(params, table)


def _indifferent(shapes: Shapes, losses: Array) -> tuple[float, float]:
    good = shapes.params["params"][losses <= losses.min() * (1 + INDIFFERENT)]
    return float(good.min()), float(good.max())


def _nearest_the_band(shapes: Shapes, losses: Array, band: Band) -> int:
    """The index of the shape with the best proportions among those whose losses tie."""
    tied = np.flatnonzero(losses <= losses.min() * (1 + _TIE))
    return _best_proportioned(shapes, tied, band)


def _best_proportioned(shapes: Shapes, indices: NDArray[np.intp], band: Band) -> int:
    """Of these indices that of the shape nearest the middle of the band."""

    def distance(index: int) -> float:
        return band.distance(int(shapes.width[index]), int(shapes.depth[index]))

    return min(indices.tolist(), key=distance)


def _fitting(shapes: Shapes, limits: Limits, context: int) -> Shapes:
    """Those that keep to the limits. Raises ValueError where none does."""
    fitting = shapes.select(limits.kept(shapes, context))
    if not len(fitting):
        raise ValueError("no model is that small: the smallest is 16 wide and 1 deep")
    return fitting
