"""Which windows a run reads at which token: a pure function of (seed, stages, token position). No
iterator has a state.

A source is cut into windows of `context` tokens. Its windows are read in a pseudo-random order, a
new one each epoch: a keyed permutation that is computed where it is needed, so any position costs
the same. Sources are interleaved by a low-discrepancy sequence, so that every stretch of windows,
not only a long one, holds the mixture.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_BITS = 16
_CYCLE = 1 << _BITS  # weights are met exactly over this many windows, to 1 / 65,536
# Of the Feistel network: four, after Luby and Rackoff (1988).
_ROUNDS = 4


@dataclass(frozen=True)
class OrderStage:
    """A mixture (weights by source, summing to anything above 0) and the window at which it
    begins.
    """

    first_window: int
    mixture: Mapping[str, float]


class Order:
    """The order of one run: `windows` maps sources to the number of windows that they hold."""

    def __init__(self, seed: int, windows: Mapping[str, int], stages: Sequence[OrderStage]) -> None:
        self.seed = seed
        self.sources = list(windows)
        self.windows = windows
        self.stages = [_Interleaving(seed, self.sources, stage) for stage in stages]
        for before, after in pairwise(self.stages):
            read = before.read(np.array([after.first]))[0]
            after.read_before = before.read_before + read

    def at(self, first: int, count: int) -> tuple[Ints, Ints]:
        """Source (an index into `sources`) and window, (count,) each, of the `count` windows that
        stand from number `first` on.
        """
        numbers = np.arange(first, first + count, dtype=np.int64)
        source, rank = np.empty(count, np.int64), np.empty(count, np.int64)
        # Ranks are counted over all stages, so a later one reads on where an earlier one ended.
        for stage in self.stages:  # a later stage takes over from where it begins
            here = numbers >= stage.first
            source[here], rank[here] = stage.at(numbers[here])
        window = np.empty(count, np.int64)
        for index in np.unique(source):
            name, here = self.sources[index], source == index
            window[here] = permuted(rank[here], self.windows[name], f"{self.seed}/{name}")
        return source, window

    def epochs(self, windows: int) -> dict[str, float]:
        """How often each source has been read after `windows` windows."""
        stage = [stage for stage in self.stages if stage.first <= windows][-1]
        read = stage.read_before + stage.read(np.array([windows]))[0]
        return {
            name: read[i] / self.windows[name]
            for i, name in enumerate(self.sources)
            if self.windows[name]
        }


class _Interleaving:
    """One stage: slot k of a cycle belongs to the source in whose share of [0, 1) the
    bit-reversed k falls (van der Corput's sequence), shifted by a key of the run.
    """

    def __init__(self, seed: int, sources: Sequence[str], stage: OrderStage) -> None:
        self.first = stage.first_window
        weights = np.array([stage.mixture.get(name, 0.0) for name in sources], dtype=np.float64)
        borders = np.round(np.cumsum(weights) / weights.sum() * _CYCLE).astype(np.int64)
        # Another seed gives another interleaving: the shift keeps every stretch as even.
        shift = _digest(f"{seed}/interleaving") % _CYCLE
        self.slots = np.searchsorted(borders, _bit_reversed() ^ shift, side="right")
        owned = self.slots[:, None] == np.arange(len(sources))
        # (cycle + 1, sources): how many slots of each source come before a slot
        none = np.zeros((1, len(sources)), np.int64)
        self.before = np.concatenate([none, np.cumsum(owned, axis=0)])
        # (sources,): windows that earlier stages have read
        self.read_before: Ints = np.zeros(len(sources), np.int64)

    def read(self, numbers: Ints) -> Ints:
        """Windows of every source before each number, counted from the stage's beginning: (n,
        sources).
        """
        cycle, slot = np.divmod(numbers - self.first, _CYCLE)
        return cycle[:, None] * self.before[-1] + self.before[slot]

    def at(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Source of each number and how many windows of that source were read before it, in all
        stages.
        """
        cycle, slot = np.divmod(numbers - self.first, _CYCLE)
        source = self.slots[slot]
        earlier = cycle * self.before[-1][source] + self.before[slot, source]
        return source, self.read_before[source] + earlier


def permuted(ranks: Ints, windows: int, key: str) -> Ints:
    """The window that is read at each rank: every `windows` ranks are an epoch, a permutation of
    its own.
    """
    epochs, ranks = np.divmod(ranks, windows)
    result = np.empty_like(ranks)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        result[here] = _permutation(ranks[here], windows, f"{key}/{epoch}")
    return result


def _permutation(values: Ints, size: int, key: str) -> Ints:
    """A keyed bijection of [0, size): a Feistel network over an even power of two, walked until
    it falls inside (Black and Rogaway 2002).
    """
    # Both halves have the same number of bits, at least one.
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = [np.uint64(_digest(f"{key}/{round_}")) for round_ in range(_ROUNDS)]
    result = values.astype(np.uint64)
    outside = np.ones(len(values), bool)
    # At most four times as many numbers as windows: few steps of the walk.
    while outside.any():
        result[outside] = _feistel(result[outside], np.uint64(half), keys)
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], half: np.uint64, keys: Sequence[np.uint64]
) -> NDArray[np.uint64]:
    """One pass over numbers of 2 * half bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of the input moves all
    of the output.
    """
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _bit_reversed() -> Ints:
    """Each slot's number with its bits in reverse, (cycle,)."""
    numbers, result = np.arange(_CYCLE, dtype=np.int64), np.zeros(_CYCLE, np.int64)
    for bit in range(_BITS):
        result |= ((numbers >> bit) & 1) << (_BITS - 1 - bit)
    return result


@cache
def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
