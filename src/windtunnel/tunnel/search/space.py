"""The space that a search explores: points of several settings, their coordinates in octaves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from windtunnel.tunnel.search.settings import SETTINGS, Setting

EDGE = 0.25  # octaves from an end within which a best point says that a better one may lie beyond

Edge = Literal["low", "high"]
SearchPoint = dict[str, float]  # setting -> its value as the recipe has it
Octaves = NDArray[np.float64]  # (points, settings): log2 of what is searched


@dataclass(frozen=True)
class Space:
    """Some settings, each an axis, in octaves."""

    settings: tuple[Setting, ...]

    @property
    def names(self) -> list[str]:
        """The settings' names, in the order of the axes."""
        return [setting.name for setting in self.settings]

    @property
    def defaults(self) -> SearchPoint:
        """The paper's point."""
        return {setting.name: setting.default for setting in self.settings}

    @property
    def bounds(self) -> tuple[Octaves, Octaves]:
        """Lower and upper, in octaves, (settings,) each."""
        low = [math.log2(setting.low) for setting in self.settings]
        high = [math.log2(setting.high) for setting in self.settings]
        return np.array(low), np.array(high)

    def octaves(self, points: Sequence[SearchPoint]) -> Octaves:
        """Points as coordinates, (points, settings)."""
        searched = []
        for point in points:
            searched.append([each.searched(point[each.name]) for each in self.settings])
        return np.log2(searched)

    def point(self, octaves: NDArray[np.float64]) -> SearchPoint:
        """The point at these coordinates, (settings,), with values rounded as in a recipe."""
        axes = zip(self.settings, octaves, strict=True)
        return {setting.name: setting.rounded(float(2**x)) for setting, x in axes}

    def spread(self, count: int, seed: int) -> Octaves:
        """A scrambled Sobol sequence that fills the space, (count, settings)."""
        # its sequences come in powers of two
        power = max(0, count - 1).bit_length()
        unit = qmc.Sobol(len(self.settings), rng=seed).random_base2(power)[:count]
        low, high = self.bounds
        return low + unit * (high - low)

    def edges(self, octaves: NDArray[np.float64]) -> dict[str, Edge]:
        """The settings of which coordinates (settings,) lie at an end of what is searched, and at
        which.
        """
        found: dict[str, Edge] = {}
        for name, x, low, high in zip(self.names, octaves, *self.bounds, strict=True):
            if x < low + EDGE:
                found[name] = "low"
            elif x > high - EDGE:
                found[name] = "high"
        return found

    def wider(self, octaves: NDArray[np.float64]) -> "Space":
        """The space that reaches further where these coordinates lie at an end; the same one where
        they lie at none, or where no setting goes further.
        """
        at = self.edges(octaves)
        wide = [
            each.wider(at.get(each.name) == "low", at.get(each.name) == "high")
            for each in self.settings
        ]
        return Space(tuple(wide))

    def clip(self, octaves: Octaves) -> Octaves:
        """The nearest coordinates within the bounds."""
        return np.clip(octaves, *self.bounds)


def space(also: Sequence[str] = ()) -> Space:
    """The paper's four settings, and those asked for beside them. Raises InputError for an unknown
    name.
    """
    always = [setting for setting in SETTINGS.values() if setting.always]
    return Space((*always, *(SETTINGS[name] for name in also)))


def changes(point: SearchPoint, tokens: int, batch: int) -> dict[str, dict[str, Any]]:
    """A point as the sections of a recipe of `tokens` tokens, for `Recipe.change`."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in point.items():
        # a share of the run here, tokens there: at least one step
        given = max(batch, round(value * tokens)) if name == "warmup" else value
        sections.setdefault(SETTINGS[name].section, {})[name] = given
    return sections
