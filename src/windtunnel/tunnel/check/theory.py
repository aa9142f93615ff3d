"""What every quantity of the coordinate check does with the size by theory: one table of slopes
of log2 on log2.

Width (Tensor Programs IV and V for Adam, 2310.17813 for orthogonal steps): everything that a
model computes, and everything that training changes of it, is O(1). A few quantities reach that
only late: a sum over the width of terms without common direction shrinks as 1/sqrt(m). So logits
begin between -1/2 (no direction) and 0, and so does what matrices learn times their input, until
the batch is learnt.

Depth: a block adds L^-alpha of its branches, alpha being 1/2 for minicpm (Tensor Programs VI) and
1 for completep (2505.01618). Neither scales the rate with the depth, so the changes of L blocks
add up to L^(1 - alpha) where they have a common direction and to L^(1/2 - alpha) where they have
none. With 1/2 the stream's change may so grow by up to 1/2, and where the stream needs no more
change, the blocks' own falls by as much: the paper leaves this so (no rate for the depth in its
Table 7). With 1 the stream's change may fall by 1/2 until the batch is learnt, and nothing slopes
after.

Adam's eps stands beside gradients, which shrink as what they flow back through: all of them by the
logits' 1/m, those within a branch by its multiplier as well. So must eps, or it outgrows them.
"""

from windtunnel.recipe import OPTIMIZERS, PARAMETRIZATIONS
from windtunnel.results.check import Axis

Slopes = tuple[float, float]  # the lowest and the highest that the theory allows

LEARNT = 30  # steps from which on the batch is learnt: no early allowance any more
# steps: from then on the size of an update follows how steady the gradient is, not the rules
UPDATES_UNTIL = 2
LAST_GAIN = "last gain"  # of the final norm, whose gradient does not shrink with the depth
NEGLIGIBLE_EPS = 0.01  # share of the gradient below which Adam's eps changes nothing

# quantities within a block
_INSIDE = ("attention branch", "attention logits", "ffn input", "ffn branch", "matrix product")

# The factors of the table of roles, and what they are called to a person. How each goes with the
# size is said by the parametrization's record.
_FACTORS = {
    "embedding init": "embedding init",
    "matrix init": "hidden init",
    "head init": "head init",
    "embedding lr": "embedding lr",
    "matrix lr": "hidden lr",
    "head lr": "head lr",
    "gain lr": "gain lr",
    "embedding multiplier": "embedding multiplier",
    "residual multiplier": "residual multiplier",
    "attention scale": "attention scale",
    "logit multiplier": "logit multiplier",
    "embedding decay": "embedding weight decay",
    "matrix decay": "hidden weight decay",
    "head decay": "head weight decay",
    "gain decay": "gain weight decay",
    "embedding eps": "embedding Adam eps",
    "matrix eps": "hidden Adam eps",
    "head eps": "head Adam eps",
    "gain eps": "gain Adam eps",
}
_SIZE = {"width": "m", "depth": "L"}
_STEADY_IN_WIDTH = {
    "residual multiplier": " in the width",
    "attention scale": " at a fixed head size",
}


def rules(axis: Axis, parametrization: str) -> dict[str, tuple[float, str]]:
    """By factor of the table of roles: its slope, and what is wrong when it has another. Raises
    InputError for an unknown parametrization.
    """
    table = PARAMETRIZATIONS[parametrization]
    slopes = table.width_slopes if axis == "width" else table.depth_slopes
    result = {}
    for factor, name in _FACTORS.items():
        slope = slopes.get(factor, 0.0)
        steady = _STEADY_IN_WIDTH.get(factor, "") if axis == "width" else " in the depth"
        expected = _power(_SIZE[axis], slope) if slope else f"constant{steady}"
        result[factor] = (slope, f"{name} not {expected}")
    return result


def _power(size: str, exponent: float) -> str:
    """`1/sqrt(m)` for m to the power -0.5."""
    known = {1.0: size, 0.5: f"sqrt({size})"}
    power = known.get(abs(exponent), f"{size}^{abs(exponent):g}")
    return f"1/{power}" if exponent < 0 else power


def allowed(
    axis: Axis,
    parametrization: str,
    quantity: str,
    statistic: str,
    t: int,
    optimizer: str = "adamw",
) -> Slopes | None:
    """The slopes that a quantity may have after t steps; None where the theory says nothing.
    Raises InputError for an unknown parametrization or optimiser.
    """
    if statistic == "rule":
        return (0.0, 0.0) if quantity.endswith(" decay") else None
    if statistic == "eps":  # it may get smaller against the gradient, which clipping keeps up
        # the last norm has the rule of gains that stand within a branch, and stands beside none
        return (-1.0 if quantity == LAST_GAIN else -0.5, 0.0)
    if statistic == "update" and t > UPDATES_UNTIL:
        return None
    if axis == "width" and statistic == "update" and quantity == "matrix":
        return OPTIMIZERS[optimizer].update_of("query", "matrix").size_slope
    if axis == "width":
        return _width(quantity, t)
    return _depth(PARAMETRIZATIONS[parametrization].residual_exponent, quantity, statistic, t)


def _width(quantity: str, t: int) -> Slopes:
    if quantity in ("logits", "matrix product") and t < LEARNT:
        return (-0.5, 0.0)
    return 0.0, 0.0


def _depth(alpha: float, quantity: str, statistic: str, t: int) -> Slopes:
    if t == 0 or statistic == "update" or quantity == "embedding":
        return (-alpha, -alpha) if quantity == "block" else (0.0, 0.0)
    common = 1 - alpha
    scattered = min(0.0, 0.5 - alpha) if statistic == "change" and t < LEARNT else 0.0
    if quantity == "block":
        return -alpha + min(-common, scattered), -alpha + common
    if quantity in _INSIDE:
        return min(-common, scattered), common
    return scattered, common
