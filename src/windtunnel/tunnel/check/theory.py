"""What every quantity of the coordinate check does with the size by theory: one table of slopes
of log2 on log2.

Width (Tensor Programs IV and V, Adam): everything that a model computes, and everything that
training changes of it, is O(1). A few quantities reach that only late: a sum over the width of
terms without common direction shrinks as 1/sqrt(m). So logits begin between -1/2 (no direction)
and 0, and so does what matrices learn times their input, until the batch is learnt.

Depth: a block adds L^-alpha of its branches, alpha being 1/2 for minicpm (Tensor Programs VI) and
1 for completep (2505.01618). Neither scales the rate with the depth, so the changes of L blocks
add up to L^(1 - alpha) where they have a common direction and to L^(1/2 - alpha) where they have
none. With 1/2 the stream's change may so grow by up to 1/2, and where the stream needs no more
change, the blocks' own falls by as much: the paper leaves this so (no rate for the depth in its
Table 7). With 1 the stream's change may fall by 1/2 until the batch is learnt, and nothing slopes
after.
"""

from typing import Literal

from windtunnel.recipe import Parametrization

Axis = Literal["width", "depth"]
Slopes = tuple[float, float]  # the lowest and the highest that the theory allows

LEARNT = 30  # steps from which on the batch is learnt: no early allowance any more
UPDATES_UNTIL = (
    2  # steps: from then on the size of an update follows how steady the gradient is, not the rules
)
NEGLIGIBLE_EPS = 0.01  # share of the gradient below which Adam's eps changes nothing

_ALPHA: dict[Parametrization, float] = {"minicpm": 0.5, "completep": 1.0, "standard": 0.5}
_INSIDE = (
    "attention branch",
    "attention logits",
    "ffn input",
    "ffn branch",
    "matrix product",
)  # of a block

# How each factor of the table of roles must go with the width, and what is wrong where it does
# not. (Equivalent tables exist, with a factor moved from init and rate to a multiplier; this is
# the one of `model/roles.py`.)
_WIDTH_RULES: dict[str, tuple[float, str]] = {
    "embedding init": (0.0, "embedding init not constant"),
    "matrix init": (-0.5, "hidden init not 1/sqrt(m)"),
    "head init": (0.0, "head init not constant"),
    "embedding lr": (0.0, "embedding lr not constant"),
    "matrix lr": (-1.0, "hidden lr not 1/m"),
    "head lr": (0.0, "head lr not constant"),
    "gain lr": (0.0, "gain lr not constant"),
    "embedding multiplier": (0.0, "embedding multiplier not constant"),
    "residual multiplier": (0.0, "residual multiplier not constant in the width"),
    "attention scale": (0.0, "attention scale not constant at a fixed head size"),
    "logit multiplier": (-1.0, "logit multiplier not 1/m"),
    "embedding decay": (0.0, "embedding weight decay not constant"),
    "matrix decay": (0.0, "hidden weight decay not constant"),
    "head decay": (0.0, "head weight decay not constant"),
    "gain decay": (0.0, "gain weight decay not constant"),
    "matrix eps": (-1.0, "hidden Adam eps not 1/m"),
}


def rules(axis: Axis, parametrization: Parametrization) -> dict[str, tuple[float, str]]:
    """By factor of the table of roles: its slope, and what is wrong when it has another."""
    if axis == "width":
        return _WIDTH_RULES
    alpha = _ALPHA[parametrization]
    steady = {
        name: (0.0, f"{fault.split(' not ')[0]} not constant in the depth")
        for name, (_, fault) in _WIDTH_RULES.items()
    }
    return steady | {
        "residual multiplier": (
            -alpha,
            f"residual multiplier not {'1/sqrt(L)' if alpha == 0.5 else '1/L'}",
        ),
        "matrix eps": (-alpha, f"hidden Adam eps not {'1/sqrt(L)' if alpha == 0.5 else '1/L'}"),
    }


def allowed(
    axis: Axis, parametrization: Parametrization, quantity: str, statistic: str, t: int
) -> Slopes | None:
    """The slopes that a quantity may have after t steps; None where the theory says nothing."""
    if statistic == "rule":
        return (0.0, 0.0) if quantity.endswith(" decay") else None
    if statistic == "eps":  # it may get smaller against the gradient, which clipping keeps up
        return (-0.5, 0.0) if quantity == "matrix" else None
    if statistic == "update" and t > UPDATES_UNTIL:
        return None
    return (
        _width(quantity, statistic, t)
        if axis == "width"
        else _depth(_ALPHA[parametrization], quantity, statistic, t)
    )


def _width(quantity: str, statistic: str, t: int) -> Slopes:
    if statistic == "update":
        return (-0.5, -0.5) if quantity == "matrix" else (0.0, 0.0)  # lr/m over std/sqrt(m)
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
