"""What a law of annealing says of decays before any is run: the loss that each ends at, and which
is the best.

There is no search over free forms: the optimum of a fitted multi-power law may be a sudden fall,
and losses after one (the published wsdcon_3) are above what the law says. Shapes that fall
smoothly are safer to compare.

A law knows as much as the curves it was fitted to: a decay much shorter, longer or deeper than
theirs is extrapolated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from windtunnel.laws.annealing import AnnealingLaw
from windtunnel.laws.loss import Array
from windtunnel.laws.schedule import Schedule

_STEPS = 200  # of a decay that is priced


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A decay that ends a run, and the loss that the law says it ends at."""

    shape: str
    length: float  # in the unit of the stem's positions
    rates: Array  # (steps,) relative to the rate at which the decay begins
    loss: float  # nats/token


def price_decays(
    law: AnnealingLaw,
    stem: Schedule,
    total: float,
    lengths: Sequence[float],
    shapes: Mapping[str, ArrayLike],
) -> list[Decay]:
    """Every shape at every length, the best first; all runs end at `total`.

    stem: warm-up and stable phase; where a decay begins later than the stem ends, the stem goes
    on at its last rate. shapes: by name, relative rates on an even grid over the decay, both ends
    included; with the floor, if there is one. Raises ValueError for a length that leaves no stem,
    and rates that are negative or not finite.
    """
    priced = []
    for name, shape in shapes.items():
        rates = _rates(name, shape)
        for length in lengths:
            kept = _kept(stem, total, length)
            # The shape is relative to the rate at which the stem is left.
            schedule = kept.then(kept.rates[-1] * rates, length)
            loss = float(law.at(schedule, schedule.end)[0])
            priced.append(Decay(shape=name, length=length, rates=rates, loss=loss))
    return sorted(priced, key=lambda decay: decay.loss)


def _rates(name: str, shape: ArrayLike) -> Array:
    """Relative rates (steps,) in the middle of each step of a decay."""
    grid = np.asarray(shape, float)
    if grid.ndim != 1 or len(grid) < 2 or not (np.isfinite(grid).all() and (grid >= 0).all()):
        raise ValueError(f"shape {name}: expected two or more relative rates, none negative")
    return np.interp((np.arange(_STEPS) + 0.5) / _STEPS, np.linspace(0, 1, len(grid)), grid)


def _kept(stem: Schedule, total: float, length: float) -> Schedule:
    if not 0 < length < total:
        raise ValueError(
            f"a decay of {length:g} in a run of {total:g}: expected more than 0 and less than the "
            "run"
        )
    return stem.until(total - length)
