"""The learning rate of a run, step by step, the losses measured under it, and what a law of
annealing needs of both.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from windtunnel.laws.loss import Array

_NO_CHANGE = 1e-9  # of the peak rate: what is smaller is rounding
_PIECES = 100  # a fall by the whole peak rate is summed in so many pieces


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a run, step by step. `of_steps` for steps of one length."""

    ends: Array  # (n,) positions at which the steps end; the first step begins at 0
    rates: Array  # (n,)

    def __post_init__(self) -> None:
        if self.ends.ndim != 1 or self.ends.shape != self.rates.shape or not len(self.ends):
            raise ValueError(
                f"ends {self.ends.shape}, rates {self.rates.shape}: expected two vectors of one "
                "length"
            )
        if not (np.diff(self.ends, prepend=0.0) > 0).all():
            raise ValueError("the steps' ends: expected positions above 0 that grow")
        if not (np.isfinite(self.rates).all() and (self.rates >= 0).all() and self.rates.any()):
            raise ValueError("rates: expected finite numbers, none negative, not all zero")

    @classmethod
    def of_steps(cls, rates: ArrayLike, step: float = 1.0) -> Self:
        """`rates` (n,): of each step; `step`: how long one is: 1, or a batch in tokens."""
        rates = np.asarray(rates, float)
        return cls(step * np.arange(1.0, len(rates) + 1), rates)

    @property
    def starts(self) -> Array:
        """(n,) positions at which the steps begin."""
        return np.concatenate([[0.0], self.ends[:-1]])

    @property
    def end(self) -> float:
        """The position at which the run ends."""
        return float(self.ends[-1])

    def area(self, position: ArrayLike, power: float = 1.0) -> Array:
        """Under rate^power, from the start to each position. Raises ValueError beyond the
        schedule's end.
        """
        position = np.asarray(position, float)
        if position.size and not (0 <= position.min() <= position.max() <= self.end * (1 + 1e-9)):
            raise ValueError(
                f"positions {position.min():g} to {position.max():g}: expected 0 to {self.end:g}"
            )
        # Straight between the ends of steps, since a step has one rate.
        summed = np.cumsum(self.rates**power * np.diff(self.ends, prepend=0.0))
        return np.interp(position, np.append(0.0, self.ends), np.append(0.0, summed))

    def until(self, position: float) -> "Schedule":
        """The steps up to a position; the last one is cut there, or goes on to it."""
        kept = self.starts < position
        ends = self.ends[kept]
        ends[-1] = position
        return Schedule(ends, self.rates[kept])

    def then(self, rates: ArrayLike, length: float) -> "Schedule":
        """Further steps, together `length` long."""
        rates = np.asarray(rates, float)
        further = self.end + length * np.arange(1, len(rates) + 1) / len(rates)
        return Schedule(np.concatenate([self.ends, further]), np.concatenate([self.rates, rates]))


@dataclass(frozen=True)
class Curve:
    """A run that was measured: its schedule, and the loss (n,) at positions (n,) of it, after the
    warm-up.
    """

    schedule: Schedule
    position: Array
    loss: Array

    def __post_init__(self) -> None:
        if self.position.ndim != 1 or self.position.shape != self.loss.shape or not len(self.loss):
            raise ValueError(
                f"position {self.position.shape}, loss {self.loss.shape}: expected vectors of one "
                "length"
            )
        if not (np.isfinite(self.loss).all() and (self.loss > 0).all()):
            raise ValueError("loss: expected finite positive numbers")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """All that a law needs of a schedule at n positions, with m changes of the rate. A rise is a
    negative drop.
    """

    progress: Array  # (n,) area under rate^power from the start
    drop: Array  # (m,)
    rate: Array  # (m,) after the change
    distance: Array  # (n, m) area under the rate since the change; 0 where it lies ahead
    delay: Array  # (n, m) positions since the change; 0 where it lies ahead


def terms_of(schedule: Schedule, position: Array, power: float) -> Terms:
    """The terms at positions (n,). Neighbouring small changes of one sign are summed as one in
    their middle; a piece ends where a loss is wanted.
    """
    before = np.concatenate([[0.0], schedule.rates[:-1]])
    drops, peak = before - schedule.rates, schedule.rates.max()
    changed = np.flatnonzero(np.abs(drops) > _NO_CHANGE * peak)
    drop, begins = drops[changed], schedule.starts[changed]
    size = np.abs(drop)
    # A piece is a run of changes with one label: a bin of the fall so far, one sign, and no
    # position of a loss between them.
    # By how much the rate has changed so far, in the middle of each change.
    bins = np.floor((np.cumsum(size) - size / 2) / (peak / _PIECES))
    # A loss where a change begins was measured before it.
    passed = np.searchsorted(np.sort(position), begins, side="right")
    label = np.column_stack([bins, np.sign(drop), passed])
    fresh = (np.diff(label, axis=0) != 0).any(axis=1) | (np.diff(changed) > 1)
    first = np.flatnonzero(np.concatenate([[True], fresh]))

    def middle(values: Array) -> Array:
        """Of each piece, the mean weighted by the changes."""
        return np.add.reduceat(size * values, first) / np.add.reduceat(size, first)

    area = schedule.area(position)
    return Terms(
        progress=schedule.area(position, power),
        drop=np.add.reduceat(drop, first),
        rate=middle(schedule.rates[changed]),
        distance=np.maximum(0.0, area[:, None] - middle(schedule.area(begins))),
        delay=np.maximum(0.0, position[:, None] - middle(begins)),
    )
