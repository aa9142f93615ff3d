"""RoPE in a config.json: `rope_parameters`, as transformers has written it since version 5, and
`rope_scaling` beside `rope_theta`, as everybody wrote it before.

| our scaling    | theirs  | what it says                                                        |
|----------------|---------|---------------------------------------------------------------------|
| none, abf, ntk | default | the base that gives the same frequencies                            |
| linear         | linear  | factor                                                              |
| dynamic        | dynamic | factor; max_position_embeddings is the context before it            |
| yarn           | yarn    | factor, original context, beta_fast, beta_slow, attention_factor    |
| llama3         | llama3  | factor, original context, high_freq_factor, low_freq_factor         |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError
from windtunnel.recipe.rope import ROPE_SCALINGS, attention_factor, turns
from windtunnel.ship.fields import Fields

if TYPE_CHECKING:
    from windtunnel.recipe import Model

# What they call the two numbers of turns, slow and fast.
_TURNS = {"yarn": ("beta_slow", "beta_fast"), "llama3": ("low_freq_factor", "high_freq_factor")}
_KNOWN = ("default", "linear", "dynamic", *_TURNS)
# YaRN's attention by two numbers of DeepSeek's; and whether the ramp's ends are whole pairs.
_MSCALES = ("mscale", "mscale_all_dim")


def written(model: Model) -> dict[str, Any]:
    """`rope_parameters` of a model."""
    scaling = ROPE_SCALINGS[model.rope_scaling]
    if scaling.base:
        return {"rope_type": "default", "rope_theta": scaling.base(model)}
    said: dict[str, Any] = {
        "rope_type": scaling.name,
        "rope_theta": model.rope_base,
        "factor": model.rope_factor,
    }
    if scaling.name in _TURNS:
        said["original_max_position_embeddings"] = model.rope_original
        said |= dict(zip(_TURNS[scaling.name], turns(model), strict=True))
    if scaling.name == "yarn":
        said["attention_factor"] = attention_factor(model)
    return said


def written_before(model: Model) -> dict[str, Any] | None:
    """`rope_scaling` of a model, which stands beside `rope_theta`; None where nothing is scaled."""
    said = written(model)
    del said["rope_theta"]
    if said["rope_type"] == "default":
        return None
    # the oldest readers know `type` alone
    return said | {"type": said["rope_type"]}


def positions(model: Model, context: int) -> int:
    """`max_position_embeddings`: for `dynamic`, which starts from it, the context before."""
    return model.rope_original if model.rope_scaling == "dynamic" else context


def read(config: dict[str, Any], where: str, context: int) -> dict[str, Any]:
    """RoPE as settings of `recipe.Model`. `context`: max_position_embeddings. Raises InputError for
    a scaling that is unknown.
    """
    said = dict(config)
    # transformers takes the older of the two where both are there, and what that leaves out from
    # beside it
    for name in ("rope_scaling", "rope_parameters"):
        part = config.get(name) or {}
        if not isinstance(part, dict):
            raise InputError(f"{where}: {name}: expected an object, got {part!r}")
        if part:
            said |= {"rope_type": part.get("rope_type", part.get("type", "default"))} | part
            break
    kind = said.get("rope_type", "default")
    if kind not in _KNOWN:
        raise InputError(
            f"{where}: RoPE of type {kind!r} is not supported; expected one of {', '.join(_KNOWN)}"
        )
    if said.get("partial_rotary_factor", 1) != 1:
        raise InputError(
            f"{where}: partial_rotary_factor: RoPE over a part of a head is not supported"
        )
    fields = Fields(said, where)
    settings: dict[str, Any] = {"rope_base": fields.number("rope_theta", 10_000.0)}
    if kind == "default":
        return settings
    settings |= {"rope_scaling": kind, "rope_factor": fields.number("factor")}
    if kind == "dynamic":
        settings["rope_original"] = context
    if kind in _TURNS:
        settings["rope_original"] = fields.whole("original_max_position_embeddings", context)
        for ours, theirs in zip(("rope_slow", "rope_fast"), _TURNS[kind], strict=True):
            settings[ours] = fields.number(theirs, 0.0)
    if kind == "yarn":
        settings["rope_attention"] = _attention(fields)
    return _unsaid_where_usual(settings)


def _attention(fields: Fields) -> float:
    """YaRN's attention factor; 0 where it is the usual one. Raises InputError."""
    if not fields.yes("truncate", True):
        raise InputError(f"{fields.where}: truncate=false: a YaRN whose ramp is not cut is unknown")
    factor = fields.number("factor")
    one, other = (fields.number(name, 0.0) for name in _MSCALES)
    usual = _mscale(factor, one) / _mscale(factor, other) if one and other else 0.0
    return fields.number("attention_factor", usual)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0


def _unsaid_where_usual(settings: dict[str, Any]) -> dict[str, Any]:
    """A model that says nothing the scaling does not say by itself, as a recipe would."""
    scaling = ROPE_SCALINGS[settings["rope_scaling"]]
    slow, fast = scaling.turns
    attention = _mscale(settings["rope_factor"], 1.0)
    usual = {"rope_slow": slow, "rope_fast": fast, "rope_attention": attention}
    for key, value in usual.items():
        if key in settings and math.isclose(settings[key], value, rel_tol=1e-9):
            settings[key] = 0.0
    return settings
