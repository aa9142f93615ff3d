"""What longer runs may learn at once, and no law of shorter ones tells: to copy what stands before
in their window (induction heads, Olsson et al. 2022).

Whether a run learns it is even odds, and one that does may save any part of what there is to save:
so expect a quarter of it, and let intervals reach down for the rest. What there is to save is as in
seven runs on C whose forecasts had been sealed; on five other corpora, which had no say, sealed
forecasts come out nearer by it (docs/benchmarks.md, 2026-11-30).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

# By which share a text of random tokens costs less when it is read for the second time: models of
# 0.03 to 0.8M parameters were at 0 to 0.1 before they had learnt it, and at a third after.
_LEARNT = 0.15
_SAVED = 0.7  # of what tokens cost that came after the same token before, once copying is learnt
_WHOLE = 30.0  # times the FLOPs of the runs in the fit, where all of it was saved
EXPECTED = 0.25  # of what there is to save, in the mean
ENDS = (0.5, 0.9)  # and at the lower ends of the intervals of 50% and of 90%


def learns(saved: float) -> bool:
    """Whether a model copies that saves this share of a text's cost when it reads it again."""
    return saved >= _LEARNT


def yet_to_save(saved: float, copyable: float) -> float:
    """What copying may still take off the logarithm of the loss. `copyable`: the share of the loss
    that lies on tokens that came after the same token before in their window.
    """
    return 0.0 if learns(saved) else -math.log(1 - _SAVED * copyable)


def by_then(whole: float, flops: ArrayLike) -> NDArray[np.float64]:
    """What of it may have come in a run of so many times the FLOPs of the dearest in the fit."""
    return whole * (np.log(flops) / math.log(_WHOLE)).clip(0, 1)
