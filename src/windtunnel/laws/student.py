"""Student's t with whole degrees of freedom. scipy has it too, in a module that takes as long to
import as all of a plan's fits.
"""

import math

_HALVINGS = 60  # of an angle: to the last bit of a float


def quantile(share: float, freedom: int) -> float:
    """The t within whose bounds -t to t so much of the distribution lies."""
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _within(middle, freedom) < share:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """How much lies within t = sqrt(freedom) tan(angle): a finite series (Abramowitz and Stegun
    1964, 26.7.3 and 26.7.4).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    if freedom == 1:
        return 2 / math.pi * angle
    term = cosine if odd else 1.0
    total = term
    for power in range(2 + odd, freedom, 2):
        term *= cosine**2 * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
