"""Real shapes: whole heads, whole layers, a width to depth ratio like that of models that were
measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws import laptop
from windtunnel.recipe import Model

Array = NDArray[np.float64]

# Width / depth of the paper's models (Table 8 and the released 2.4B): 40 at a width of 320, 56 to
# 58 at the large end.
PAPER_WIDTH, PAPER_BAND = 320, (40.0, 58.0)
# Wider than the paper's, models get no more than 100 layers, and few less than 40.
_MOST_LAYERS, _FEW_LAYERS = 100, 40
_WIDEST = 16_384
_LEAST_SPREAD = 1.2  # of the ratios about their middle: as in the paper's band
_FFN = 2.5  # times the width, in every model of the paper
_COARSE = 512  # from this width on, steps of the width grow with it: 1/16 to 1/8 of it


@dataclass(frozen=True, kw_only=True)
class Band:
    """The width to depth ratios that are sane at a width: those of models that were measured, and
    where they go as models grow wider, since a parameter is worth more in one shape than in another
    and a law knows of sizes alone. From 320 on they are the paper's. Between the widest measured
    model and those they go on as the measured ones do.
    """

    width: int = laptop.WIDTH  # of the widest measured model
    narrowest: int = laptop.WIDTH  # below it the ratios are as they are there
    ratio: float = laptop.WIDTH_PER_DEPTH  # in the middle, at that width
    power: float = 0.0  # of the width, with which the measured ratios go
    spread: float = laptop.SPREAD_OF_DEPTHS  # times the middle, and its inverse, are the ends

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> "Band":
        """From the (width, depth) of measured models; the default without any."""
        if not sizes:
            return cls()
        widest = max(width for width, _ in sizes)
        x = np.log([width / widest for width, _ in sizes])
        y = np.log([width / depth for width, depth in sizes])
        # from depths that grow with the width to one depth for all: widths that are nearly one tell
        # any slope
        power = float(np.clip(np.polyfit(x, y, 1)[0], 0, 1)) if np.ptp(x) else 0.0
        middle = float((y - power * x).mean())
        apart = float(np.abs(y - middle - power * x).max())
        return cls(
            width=widest,
            narrowest=min(width for width, _ in sizes),
            ratio=math.exp(middle),
            power=power,
            spread=max(_LEAST_SPREAD, math.exp(apart)),
        )

    def at(self, width: ArrayLike) -> tuple[Array, Array]:
        """(lowest, highest) width / depth."""
        width = np.asarray(width, float)
        measured = np.clip(width, self.narrowest, self.width)
        here = self.ratio * (measured / self.width) ** self.power
        low = self._beyond(width, here / self.spread, PAPER_BAND[0])
        high = self._beyond(width, here * self.spread, PAPER_BAND[1])
        return np.maximum(low, width / _MOST_LAYERS), np.maximum(high, width / _FEW_LAYERS)

    def _beyond(self, width: Array, here: Array, papers: float) -> Array:
        """An end of the ratios: `here` up to the widest measured model, the paper's from 320 on.
        Between them it goes on with the measured power until it is the paper's, or faster where
        that would not be in time: models of one depth keep it as long as that is sane, since what a
        layer more is worth a law of their sizes can't tell (docs/LOG.md, 2026-11-30).
        """
        if self.width >= PAPER_WIDTH:
            return np.where(width > self.width, papers, here)
        further = np.log(width / self.width).clip(0)
        in_time = np.log(papers / here) / math.log(PAPER_WIDTH / self.width)
        # where it is beyond the paper's already, it comes back by then
        power = np.where(here < papers, np.maximum(self.power, in_time), in_time)
        gone_on = here * np.exp(power * further)
        there = (width >= PAPER_WIDTH) | ((here < papers) & (gone_on > papers))
        return np.where(there, papers, gone_on)

    def middle(self, width: ArrayLike) -> Array:
        """The geometric mean of both."""
        low, high = self.at(width)
        return np.sqrt(low * high)

    def distance(self, width: int, depth: int) -> float:
        """Of a shape from the middle, in units of the logarithm."""
        return abs(math.log(width / depth / float(self.middle(width))))


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Real shapes with their counts and costs: arrays of one length."""

    width: Array
    depth: Array
    params: dict[str, Array]  # by each count
    flops: Array  # a token, of training

    def __len__(self) -> int:
        return len(self.width)

    def select(self, kept: ArrayLike) -> "Shapes":
        """Those of a mask or of indices."""
        at = np.asarray(kept)
        return Shapes(
            width=self.width[at],
            depth=self.depth[at],
            params={count: values[at] for count, values in self.params.items()},
            flops=self.flops[at],
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models of one vocabulary and context, so that a size is a width and a depth. `fixed`:
    settings of the model that all of them share, such as base_width.
    """

    vocab: int
    context: int  # tokens
    band: Band
    fixed: dict[str, Any]

    def model(self, width: int, depth: int) -> Model:
        """The model of this size; heads fill the width."""
        heads = width // head_size(width)
        shape = {
            "width": width,
            "depth": depth,
            "heads": heads,
            "kv_heads": heads,
            "head_size": head_size(width),
            "ffn": round(_FFN * width),
            "vocab": self.vocab,
        }
        return Model.model_validate(self.fixed | shape)

    def costs(self, width: ArrayLike, depth: ArrayLike) -> Shapes:
        """Exact for real shapes, and a smooth line through them for widths and depths that are
        not whole.
        """
        w, d = np.asarray(width, float), np.asarray(depth, float)
        layer = (4 + 3 * _FFN) * w**2  # of matrices: attention's four, and the feed-forward's three
        table = self.vocab * w
        counts = self.counts(d * (layer + 2 * w) + w, table)  # two norms a layer, and the last
        # 2 FLOPs a multiply-add, three times for forward and backward; a query meets half of the
        # context on average, for scores and for values (`model.shape.flops_per_token`)
        products, attention = 6 * (d * layer + table), 6 * d * w * (self.context + 1)
        return Shapes(width=w, depth=d, params=counts, flops=products + attention)

    def counts(self, params: Array, table: Array) -> dict[str, Array]:
        """Every count, from that without embeddings and the numbers of one table."""
        tables = 1 if self.fixed.get("tied", True) else 2
        return {
            "params": params,
            "params_with_head": params + table,
            "params_total": params + tables * table,
        }

    def continuous(self, width: Array) -> Shapes:
        """In the middle of the band."""
        return self.costs(width, width / self.band.middle(width))

    def shapes(self) -> Shapes:
        """Every real shape within the band."""
        pairs = [(width, depth) for width in widths() for depth in self._depths(width)]
        return self.costs(*np.array(pairs, float).T)

    def _depths(self, width: int) -> range:
        low, high = self.band.at(width)
        fewest = max(1, math.ceil(width / float(high) - 0.25))
        return range(fewest, max(fewest, math.floor(width / float(low) + 0.25)) + 1)


def head_size(width: int) -> int:
    """64 as in every model of the paper; narrower ones have 32, or 16 where that does not divide
    the width; from 4,096 on 128, which kernels are made for.
    """
    if width >= 4096 and width % 128 == 0:
        return 128
    if width >= PAPER_WIDTH and width % 64 == 0:
        return 64
    return 32 if width % 32 == 0 else 16


def widths() -> list[int]:
    """Multiples of the head size, each a few percent above the last."""
    found = [*range(16, 96, 16), *range(96, PAPER_WIDTH, 32), *range(PAPER_WIDTH, _COARSE, 64)]
    width = _COARSE
    while width <= _WIDEST:
        found.append(width)
        width += max(64, 2 ** (width.bit_length() - 1) // 16 // 64 * 64)
    return found
