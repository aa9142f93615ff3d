"""The settings that a search varies, each log-uniform between two bounds, and points of that
space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

_DIGITS = 4  # of a setting's value in a recipe: nobody can use more

Also = Literal["weight_decay", "beta2", "warmup"]
Point = dict[str, float]  # setting -> its value as the recipe has it
Octaves = NDArray[np.float64]  # (points, settings): log2 of what is searched


@dataclass(frozen=True)
class Setting:
    """`low` to `high` are in what is searched: the value itself, or 1 - value where
    `complement`.
    """

    name: str
    section: str  # of the recipe
    default: float  # the paper's (section A.1), or the recipe's where the paper did not search
    low: float
    high: float
    complement: bool = False

    @property
    def label(self) -> str:
        return f"1-{self.name}" if self.complement else self.name

    def searched(self, value: float) -> float:
        """From the recipe's value to what is searched, or back."""
        return float(f"{1 - value:.10g}") if self.complement else value

    def rounded(self, searched: float) -> float:
        """The recipe's value of what a sampler asked for."""
        return self.searched(float(f"{searched:.{_DIGITS}g}"))


# Two octaves about the paper's point; a smaller model may want a higher rate than the paper's.
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("lr", "optimizer", 0.01, 0.0025, 0.08),
        Setting("scale_depth", "model", 1.4, 0.35, 5.6),
        Setting("scale_emb", "model", 12.0, 3.0, 48.0),
        Setting("init_std", "model", 0.1, 0.025, 0.4),
        Setting("weight_decay", "optimizer", 1e-3, 1e-4, 1e-2),
        Setting("beta2", "optimizer", 0.95, 0.003, 0.2, complement=True),
        Setting("warmup", "schedule", 0.02, 0.005, 0.16),  # a share of the run
    )
}
ALWAYS = ("lr", "scale_depth", "scale_emb", "init_std")


@dataclass(frozen=True)
class Space:
    settings: tuple[Setting, ...]

    @property
    def names(self) -> list[str]:
        return [setting.name for setting in self.settings]

    @property
    def defaults(self) -> Point:
        return {setting.name: setting.default for setting in self.settings}

    @property
    def bounds(self) -> tuple[Octaves, Octaves]:
        """Lower and upper, in octaves, (settings,) each."""
        low, high = zip(
            *((math.log2(s.low), math.log2(s.high)) for s in self.settings), strict=True
        )
        return np.array(low), np.array(high)

    def octaves(self, points: Sequence[Point]) -> Octaves:
        """Points as coordinates, (points, settings)."""
        return np.log2([[s.searched(point[s.name]) for s in self.settings] for point in points])

    def point(self, octaves: NDArray[np.float64]) -> Point:
        """The point at these coordinates, (settings,), with values rounded as in a recipe."""
        return {s.name: s.rounded(float(2**x)) for s, x in zip(self.settings, octaves, strict=True)}

    def spread(self, count: int, seed: int) -> Octaves:
        """A scrambled Sobol sequence that fills the space, (count, settings)."""
        unit = qmc.Sobol(len(self.settings), rng=seed).random_base2(max(0, count - 1).bit_length())[
            :count
        ]
        low, high = self.bounds
        return low + unit * (high - low)

    def clip(self, octaves: Octaves) -> Octaves:
        return np.clip(octaves, *self.bounds)


def space(also: Sequence[str] = ()) -> Space:
    """The paper's four settings and some more."""
    return Space(tuple(SETTINGS[name] for name in (*ALWAYS, *also)))


def changes(point: Point, tokens: int, batch: int) -> dict[str, dict[str, Any]]:
    """A point as the sections of a recipe of `tokens` tokens, for `Recipe.change`."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in point.items():
        given = max(batch, round(value * tokens)) if name == "warmup" else value
        sections.setdefault(SETTINGS[name].section, {})[name] = given
    return sections
