"""Scalings of the rotary position embedding: how the frequencies by which a head's numbers turn
change, so that a model sees farther than it was trained to.

A frequency is an angle in radians a position. Unscaled, number i of a head's d / 2 pairs has
base^(-2 i / d). Everything here is plain arithmetic, without torch.

To add one, add its record to `ROPE_SCALINGS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from windtunnel.choices import Table
from windtunnel.errors import InputError

if TYPE_CHECKING:
    from windtunnel.recipe.sections import Model


def _one(model: Model) -> float:
    return 1.0


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """One way to scale the frequencies, by a model's `rope_factor` and what else it needs."""

    name: str
    help: str
    frequencies: Callable[[Model, int], list[float]]
    """Radians a position of each of a head's pairs, for a sequence of so many tokens: (head_size /
    2)."""
    base: Callable[[Model], float] | None = None
    """The base that gives the same frequencies without a scaling; None where no base does."""
    attention: Callable[[Model], float] = _one
    """What rotated queries and keys are multiplied by, where the model does not say."""
    from_original: bool = False
    """Whether it asks how long a sequence was before: for `rope_original`."""
    by_length: bool = False
    """Whether a longer sequence has other frequencies."""
    turns: tuple[float, float] = (0.0, 0.0)
    """Turns within the original context, where the model does not say: pairs that make fewer than
    the first are slowed down by the whole factor, those that make more than the second by none; 0
    where it makes no such difference."""


def frequencies(model: Model, length: int) -> list[float]:
    """Radians a position of each of a head's pairs, for a sequence of `length` tokens."""
    return ROPE_SCALINGS[model.rope_scaling].frequencies(model, length)


def attention_factor(model: Model) -> float:
    """What rotated queries and keys are multiplied by."""
    return model.rope_attention or ROPE_SCALINGS[model.rope_scaling].attention(model)


def turns(model: Model) -> tuple[float, float]:
    """The two numbers of turns between which a scaling goes from the whole factor to none."""
    slow, fast = ROPE_SCALINGS[model.rope_scaling].turns
    return model.rope_slow or slow, model.rope_fast or fast


def stretched(
    model: Model, was: int, to: int, scaling: str = "", base: float | None = None
) -> dict[str, Any]:
    """What of a model changes so that its context of `was` tokens becomes one of `to`, by this
    scaling: by `abf` where its base was never changed, by `ntk` on top of a base that was (paper
    section 7.2), and else by what it has. `base`: that of `abf`, instead of the square of the
    factor times the present one, which lies between what was published: 50 times for 8 times the
    length (Xiong et al. 2023), and 100 times (MiniCPM). Raises InputError.
    """
    old = ROPE_SCALINGS[model.rope_scaling]
    if not scaling:
        scaling = "abf" if old.name == "none" else "ntk" if old.base else old.name
    new = ROPE_SCALINGS.choose(scaling, f"--scaling {scaling}")
    if base is not None and new.name != "abf":
        raise InputError(f"--base {base:g}: scaling '{new.name}' changes no base; expected abf")
    factor = to / was
    if not old.base:
        # its factor counts from its own original context, and it stands on no base alone
        if new.name != old.name:
            raise InputError(
                f"--scaling {new.name}: its RoPE is scaled by '{old.name}', on top of which only "
                "that can go on"
            )
        return {"rope_factor": model.rope_factor * factor}
    present = old.base(model)
    if base is not None and base <= present:
        raise InputError(f"--base {base:g}: expected more than the present base of {present:g}")
    if new.name == "none":
        factor = 1.0
    elif new.name == "abf":
        factor = factor**2 if base is None else base / present
    return {
        "rope_base": present,
        "rope_scaling": new.name,
        "rope_factor": factor,
        "rope_original": was,
    }


def least_base(length: int, head_size: int) -> float:
    """The smallest base, to a hundredth, with which a query still prefers keys that are like it, at
    every distance below `length`: that is, sum over the pairs of cos(distance * frequency) >= 0
    (Men et al. 2024, "Base of RoPE bounds context length").

    Distances are tried on a grid that is ever coarser, since sums change slowly far away.
    """
    distances, step = [], 1.0
    while step < length:
        distances.append(step)
        step = max(step + 1, step * 1.001)
    low, high = 1.0, 2.0
    while not _prefers(high, head_size, distances) and high < _LARGEST_BASE:
        low, high = high, 2 * high
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _prefers(middle, head_size, distances) else (middle, high)
    return high


_LARGEST_BASE = 1e12


def _prefers(base: float, head_size: int, distances: list[float]) -> bool:
    turned = _powers(base, head_size)
    return all(sum(math.cos(far * each) for each in turned) >= 0 for far in distances)


def _powers(base: float, head_size: int) -> list[float]:
    return [base ** (-2 * i / head_size) for i in range(head_size // 2)]


def _with_base(base: Callable[[Model], float]) -> Callable[[Model, int], list[float]]:
    return lambda model, length: _powers(base(model), model.head_size)


def _ntk(model: Model, stretch: float) -> float:
    """The base with which the slowest pair turns slower by `stretch`, and the fastest as before."""
    size = model.head_size
    return model.rope_base * stretch ** (size / (size - 2))


def _abf_base(model: Model) -> float:
    return model.rope_base * model.rope_factor


def _ntk_base(model: Model) -> float:
    return _ntk(model, model.rope_factor)


def _linear(model: Model, length: int) -> list[float]:
    return [each / model.rope_factor for each in _powers(model.rope_base, model.head_size)]


def _dynamic(model: Model, length: int) -> list[float]:
    beyond = max(length, model.rope_original) / model.rope_original
    stretch = model.rope_factor * beyond - (model.rope_factor - 1)
    return _powers(_ntk(model, stretch), model.head_size)


def _yarn(model: Model, length: int) -> list[float]:
    """Peng et al. 2023, section 3.2; the ramp runs over the numbers of the pairs, from the one that
    makes `fast` turns to the one that makes `slow`, each rounded outwards.
    """
    slow, fast = turns(model)
    first = max(math.floor(_pair_of(fast, model)), 0)
    last = min(math.ceil(_pair_of(slow, model)), model.head_size - 1)
    span = last - first if last != first else 0.001
    result = []
    for i, each in enumerate(_powers(model.rope_base, model.head_size)):
        slowed = min(1.0, max(0.0, (i - first) / span))
        result.append(each / model.rope_factor * slowed + each * (1 - slowed))
    return result


def _pair_of(turned: float, model: Model) -> float:
    """The number of the pair, counted on, that makes so many turns in the original context."""
    length = model.rope_original / (turned * 2 * math.pi)
    return model.head_size * math.log(length) / (2 * math.log(model.rope_base))


def _yarn_attention(model: Model) -> float:
    """1 / sqrt(t) of Peng et al. 2023, eq. 22."""
    return 0.1 * math.log(model.rope_factor) + 1 if model.rope_factor > 1 else 1.0


def _llama3(model: Model, length: int) -> list[float]:
    """Between the two numbers of turns, a share of each frequency that grows with its turns stays
    as it is.
    """
    slow, fast = turns(model)
    result = []
    for each in _powers(model.rope_base, model.head_size):
        made = model.rope_original * each / (2 * math.pi)
        kept = min(1.0, max(0.0, (made - slow) / (fast - slow)))
        result.append(each / model.rope_factor * (1 - kept) + each * kept)
    return result


ROPE_SCALINGS = Table(
    "RoPE scaling",
    [
        RopeScaling(
            name="none",
            help="the base alone",
            frequencies=_with_base(lambda model: model.rope_base),
            base=lambda model: model.rope_base,
        ),
        RopeScaling(
            name="abf",
            help="adjusted base frequency: the base times the factor (Xiong et al. 2023)",
            frequencies=_with_base(_abf_base),
            base=_abf_base,
        ),
        RopeScaling(
            name="linear",
            help="linear interpolation: every position divided by the factor (Chen et al. 2023)",
            frequencies=_linear,
        ),
        RopeScaling(
            name="ntk",
            help="NTK-aware: the base with which the slowest pair turns slower by the factor",
            frequencies=_with_base(_ntk_base),
            base=_ntk_base,
        ),
        RopeScaling(
            name="dynamic",
            help="NTK-aware by the length of the sequence: nothing up to the original context, and "
            "the factor the stronger beyond",
            frequencies=_dynamic,
            from_original=True,
            by_length=True,
        ),
        RopeScaling(
            name="yarn",
            help="YaRN: slow pairs are interpolated and fast ones are not, and attention is "
            "sharpened (Peng et al. 2023)",
            frequencies=_yarn,
            attention=_yarn_attention,
            from_original=True,
            turns=(1.0, 32.0),
        ),
        RopeScaling(
            name="llama3",
            help="that of Llama 3.1: slow pairs are interpolated, fast ones are not",
            frequencies=_llama3,
            from_original=True,
            turns=(1.0, 4.0),
        ),
    ],
)

RopeScalingName = Annotated[str, ROPE_SCALINGS]
