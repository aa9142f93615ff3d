"""RoPE in GGUF: how llama.cpp is told of a scaling, and how what a file says is read.

| our scaling    | rope.scaling.type | what else is written                                      |
|----------------|-------------------|-----------------------------------------------------------|
| none, abf, ntk | none              | rope.freq_base: the base that gives the same frequencies  |
| linear         | linear            | factor                                                    |
| yarn           | yarn              | factor, original context, both numbers of turns, and what |
|                |                   | attention is multiplied by beside YaRN's own              |
| llama3         | none              | rope_freqs.weight: what each frequency is divided by      |
| dynamic        | none              | nothing, up to the original context: llama.cpp has none   |
|                |                   | that goes by the length, so a longer model is refused     |
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.recipe import ROPE_SCALINGS, Model
from windtunnel.recipe.rope import attention_factor, frequencies, turns
from windtunnel.ship.fields import Fields
from windtunnel.ship.packages import package

DIVISORS = "rope_freqs.weight"
"""The tensor of what each frequency is divided by, (head_size / 2)."""

_KNOWN = ("none", "linear", "yarn")
_USUAL = Model.model_validate({"width": 4, "depth": 1, "heads": 1, "vocab": 1})
# A Llama 3 does not say its original context in GGUF: which of these gives the divisors.
_ORIGINALS = [2**power for power in range(7, 21)]


def check(model: Model, context: int) -> None:
    """Raises InputError where llama.cpp cannot turn as the model does, up to its context."""
    if ROPE_SCALINGS[model.rope_scaling].by_length and context > model.rope_original:
        raise InputError(
            f"gguf: llama.cpp has no RoPE scaling '{model.rope_scaling}', which goes by the length "
            f"beyond {model.rope_original} tokens; expected --to hf"
        )


def written(model: Model) -> dict[str, Any]:
    """What a file says, by the names of the writer's methods."""
    kinds = package("gguf").RopeScalingType
    scaling = ROPE_SCALINGS[model.rope_scaling]
    said: dict[str, Any] = {
        "rope_freq_base": scaling.base(model) if scaling.base else model.rope_base
    }
    if scaling.base or scaling.by_length:
        return said
    if model.rope_original:
        said["rope_scaling_orig_ctx_len"] = model.rope_original
    if scaling.name == "llama3":
        return said
    said["rope_scaling_type"] = kinds(scaling.name)
    said["rope_scaling_factor"] = model.rope_factor
    if scaling.name == "yarn":
        said |= dict(
            zip(
                ("rope_scaling_yarn_beta_slow", "rope_scaling_yarn_beta_fast"),
                turns(model),
                strict=True,
            )
        )
        said["rope_scaling_attn_factors"] = attention_factor(model) / scaling.attention(model)
    return said


def divisors(model: Model) -> np.ndarray | None:
    """What each frequency is divided by, fp32 (head_size / 2); None where the file says enough
    without.
    """
    if model.rope_scaling != "llama3":
        return None
    plain = model.model_copy(update={"rope_scaling": "none"})
    return np.divide(frequencies(plain, 0), frequencies(model, 0)).astype(np.float32)


def read(own: Fields, head_size: int, divided: np.ndarray | None) -> dict[str, Any]:
    """RoPE as settings of `recipe.Model`. `divided`: the tensor `DIVISORS`, where there is one.
    Raises InputError for a scaling that is unknown.
    """
    base = short(own.number("rope.freq_base", 10_000.0))
    settings: dict[str, Any] = {"rope_base": base}
    factor = short(own.number("rope.scaling.factor", own.number("rope.scale_linear", 1.0)))
    # llama.cpp takes a factor without a type for a linear one
    kind = own.config.get("rope.scaling.type", "none" if factor == 1 else "linear")
    if kind not in _KNOWN:
        raise InputError(
            f"{own.where}: rope.scaling.type '{kind}': expected one of {', '.join(_KNOWN)}"
        )
    original = own.whole("rope.scaling.original_context_length", 0)
    if divided is not None:
        if kind != "none":
            raise InputError(f"{own.where}: {DIVISORS} beside rope.scaling.type '{kind}'")
        return settings | _llama3(own, base, head_size, original, divided)
    if kind == "none" or factor == 1:
        return settings
    settings |= {"rope_scaling": kind, "rope_factor": factor}
    if original or kind == "yarn":
        settings["rope_original"] = original or own.whole("context_length")
    if kind == "yarn":
        settings |= _yarn(own, settings)
    return settings


def short(value: float) -> float:
    """What was typed before it became 32 bits: 1.4, not 1.39999998."""
    return float(f"{value:.7g}")


def _yarn(own: Fields, settings: Mapping[str, Any]) -> dict[str, float]:
    """Turns and attention, where they are not the usual ones."""
    if own.config.get("rope.scaling.yarn_log_multiplier"):
        raise InputError(f"{own.where}: rope.scaling.yarn_log_multiplier: expected plain YaRN")
    scaling, found = ROPE_SCALINGS["yarn"], {}
    for key, name, usual in zip(
        ("rope_slow", "rope_fast"),
        ("rope.scaling.yarn_beta_slow", "rope.scaling.yarn_beta_fast"),
        scaling.turns,
        strict=True,
    ):
        said = short(own.number(name, usual))
        found[key] = 0.0 if said == usual else said
    beside = own.number("rope.scaling.attn_factor", 1.0)
    if not math.isclose(beside, 1.0, rel_tol=1e-6):
        usual = scaling.attention(_USUAL.model_copy(update=dict(settings)))
        found["rope_attention"] = short(beside * usual)
    return found


def _llama3(
    own: Fields, base: float, head_size: int, original: int, divided: np.ndarray
) -> dict[str, Any]:
    """The scaling of Llama 3 that divides the frequencies so. Raises InputError where there is
    none.
    """
    factor = short(float(divided.max(initial=1.0)))
    if (divided == 1).all():
        return {}
    for context in [original, *_ORIGINALS] if original else _ORIGINALS:
        settings = {"rope_scaling": "llama3", "rope_factor": factor, "rope_original": context}
        update = settings | {"rope_base": base, "head_size": head_size}
        there = np.asarray(divisors(_USUAL.model_copy(update=update)))
        if there.shape == np.shape(divided) and np.allclose(there, divided, rtol=1e-4):
            return settings
    raise InputError(f"{own.where}: {DIVISORS}: expected what Llama 3's scaling divides by")
