"""The three published layouts of a checkpoint: what config.json says of the model
(`tensor_names`: of its tensors).

| layout  | architecture in config.json | with experts          | multipliers                            | head       |
|---------|-----------------------------|-----------------------|----------------------------------------|------------|
| hf      | GraniteForCausalLM          | GraniteMoeForCausalLM | four numbers, applied by the engine    | stays tied |
| minicpm | MiniCPMForCausalLM          | MiniCPMForCausalLM    | scale_emb, scale_depth, dim_model_base | stays tied |
| llama   | LlamaForCausalLM            | has none              | folded into the weights, exact in fp64 | untied     |

All three turn the halves of a head, as this project does.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from windtunnel.errors import InputError, did_you_mean
from windtunnel.model.roles import Multipliers, multipliers
from windtunnel.recipe import Model

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["hf", "minicpm", "llama"]


@dataclass(frozen=True)
class _Architecture:
    layout: Layout
    name: str
    kind: str  # model_type
    experts: str = ""  # the field that counts them; MiniCPM's may say nothing: no experts


_ARCHITECTURES = (
    _Architecture("hf", "GraniteForCausalLM", "granite"),
    _Architecture("hf", "GraniteMoeForCausalLM", "granitemoe", "num_local_experts"),
    _Architecture("minicpm", "MiniCPMForCausalLM", "minicpm", "num_experts"),
    _Architecture("llama", "LlamaForCausalLM", "llama"),
)
# What an engine takes where config.json says nothing; the paper's models leave rope_theta and the
# tie out, and a multiplier that is left out of a MiniCPM config is a mistake: the class's default
# would divide logits by the width.
_TIED = {"hf": False, "minicpm": True, "llama": False}
_REQUIRED: Any = object()
_NEAR = 1e-6  # a factor this near to one is a rounding of it: files hold multipliers in 32 bits


@dataclass(frozen=True)
class Published:
    """A published model as a `Model`, and what its weights must be multiplied by for that to be
    exact.
    """

    layout: Layout
    model: Model
    context: int  # positions it was made for
    query: float = 1.0
    norm: float = 1.0

    def exact(self, weights: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
        """The weights with the factors that no setting of `Model` holds."""
        return scaled(weights, {"query": self.query, "norm": self.norm})


def fold(model: Model, weights: dict[str, "Tensor"]) -> tuple[Model, dict[str, "Tensor"]]:
    """The same function without multipliers: what a plain Llama is (paper.md 10.4 A).

    Every map behind a multiplier is linear and has no bias, so the multiplier can move into it:
    E' = s_e E, O' = s_r O, D' = s_r D, U' = s_o U. Where s_e and s_o differ, one matrix can't be
    both E' and U', and the tie ends.
    """
    m = multipliers(model)
    plain = model.model_copy(update={"parametrization": "standard"})
    if model.tied and m.embedding != m.logits:
        weights = weights | {"head": weights["embedding"]}
        plain = plain.model_copy(update={"tied": False})
    factors = {"embedding": m.embedding, "output": m.residual, "down": m.residual, "head": m.logits}
    return plain, scaled(weights, factors)


def scaled(weights: dict[str, "Tensor"], factors: dict[str, float]) -> dict[str, "Tensor"]:
    """The weights, each times the factor of its kind, computed in fp32 at least."""
    import torch

    def times(name: str, tensor: "Tensor") -> "Tensor":
        factor = factors.get(name.rsplit(".", 1)[-1], 1.0)
        return (
            tensor
            if factor == 1
            else tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * factor
        )

    return {name: times(name, tensor) for name, tensor in weights.items()}


def config_of(
    layout: Layout, model: Model, context: int, begin: int | None, end: int
) -> dict[str, Any]:
    """config.json of a model in a layout; in the llama layout, of what `fold` gave. `begin`,
    `end`: token ids. Raises InputError for a shape that the layout can't say.
    """
    if layout == "minicpm" and model.head_size * model.heads != model.width:
        raise InputError(
            f"--to minicpm: it has no head size of its own: {model.heads} heads of {model.head_size} are not the width "
            f"of {model.width}; --to hf can say it"
        )
    architecture = _architecture_of(layout, model)
    shared = {
        "architectures": [architecture.name],
        "model_type": architecture.kind,
        "vocab_size": model.vocab,
        "hidden_size": model.width,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "tie_word_embeddings": model.tied,
        "initializer_range": model.init_std,
        "bos_token_id": begin,
        "eos_token_id": end,
        "use_cache": True,
    }
    if model.experts:
        shared |= {
            architecture.experts: model.experts,
            "num_experts_per_tok": model.experts_per_token,
        }
    m = multipliers(model)
    if layout == "minicpm":
        scales = {
            "scale_emb": m.embedding,
            "scale_depth": _tidy(m.residual * math.sqrt(model.depth)),
            "dim_model_base": round(m.logits * model.width),
            "rope_scaling": None,
        }
        return shared | scales
    shared |= {
        "head_dim": model.head_size,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
    }
    if layout == "llama":
        return shared
    return shared | {
        "embedding_multiplier": m.embedding,
        "residual_multiplier": m.residual,
        "attention_multiplier": m.attention,
        "logits_scaling": 1 / m.logits,  # a divisor
    }


def read_config(config: dict[str, Any], where: str) -> Published:
    """What a config.json describes. Raises InputError for an architecture that this project has
    not, or a field that is missing or can't be.
    """
    architecture, take = _architecture(config, where), _Fields(config, where)
    layout = architecture.layout
    _refuse_what_is_not_here(config, where, architecture)
    heads, width = take.number("num_attention_heads", int), take.number("hidden_size", int)
    shape = {
        "width": width,
        "depth": take.number("num_hidden_layers", int),
        "heads": heads,
        "kv_heads": take.number("num_key_value_heads", int, heads),
        "head_size": take.number("head_dim", int, width // max(heads, 1)),
        "ffn": take.number("intermediate_size", int),
        "vocab": take.number("vocab_size", int),
        "tied": bool(config.get("tie_word_embeddings", _TIED[layout])),
        "rope_base": _rope_base(config, where),
        "norm_eps": take.number("rms_norm_eps", float, 1e-6),
        "init_std": take.number("initializer_range", float, 0.02) or 0.02,
        **_experts(config, architecture, take),
    }
    context = take.number("max_position_embeddings", int, 2048)
    try:
        if layout == "minicpm":
            scales = {
                "scale_emb": take.number("scale_emb", float),
                "scale_depth": take.number("scale_depth", float),
                "base_width": take.number("dim_model_base", int),
            }
            return Published(layout, Model(**shape, **scales), context)
        plain = Model(**shape, parametrization="standard")
        if layout == "llama":
            return Published(layout, plain, context)
        given = Multipliers(
            embedding=take.number("embedding_multiplier", float, 1.0),
            residual=take.number("residual_multiplier", float, 1.0),
            attention=take.number("attention_multiplier", float, 1.0),
            logits=1 / take.number("logits_scaling", float, 1.0),
        )
        return replace(with_multipliers(plain, given), layout=layout, context=context)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"{where}: {field}: {fault['msg'].removeprefix('Value error, ')}"
        ) from None


def with_multipliers(plain: Model, given: Multipliers) -> Published:
    """A model of this shape that applies these multipliers: of the `standard` parametrization
    where there are none, of `minicpm` otherwise. What that can't hold is left for the weights:
    another attention scale than 1/sqrt(head_size), a logit divisor that is not the width over a
    whole number.
    """
    own = multipliers(plain)
    model = plain.model_copy(update={"parametrization": "standard"})
    if any(abs(a - 1) > _NEAR for a in (given.embedding, given.residual, given.logits)):
        scales = {
            "scale_emb": _tidy(given.embedding),
            "scale_depth": _tidy(given.residual * math.sqrt(plain.depth)),
            "base_width": max(1, round(plain.width * given.logits)),
            "parametrization": "minicpm",
        }
        model = Model.model_validate(plain.model_dump() | scales)
    query, norm = given.attention / own.attention, given.logits / multipliers(model).logits
    return Published("hf", model, 0, *(1.0 if abs(x - 1) < _NEAR else x for x in (query, norm)))


def _architecture_of(layout: Layout, model: Model) -> _Architecture:
    for architecture in _ARCHITECTURES:
        if architecture.layout == layout and (architecture.experts or not model.experts):
            return architecture
    raise InputError(
        f"--to {layout}: a plain Llama has no experts; expected --to hf, minicpm or gguf"
    )


def _architecture(config: dict[str, Any], where: str) -> _Architecture:
    named = config.get("architectures") or [config.get("model_type")]
    name = named[0] if isinstance(named, list) and named else None
    for architecture in _ARCHITECTURES:
        if name in (architecture.name, architecture.kind):
            return architecture
    known = [architecture.name for architecture in _ARCHITECTURES]
    hint = did_you_mean(str(name), known)
    raise InputError(
        f"{where}: architecture {name!r} is unknown; expected one of {', '.join(known)}{hint}"
    )


def _experts(
    config: dict[str, Any], architecture: _Architecture, take: "_Fields"
) -> dict[str, int]:
    """The settings of a mixture of experts, if it is one."""
    field = architecture.experts
    if not field or (architecture.layout == "minicpm" and not config.get(field)):
        return {}
    return {
        "experts": take.number(field, int),
        "experts_per_token": take.number("num_experts_per_tok", int),
    }


def _refuse_what_is_not_here(
    config: dict[str, Any], where: str, architecture: _Architecture
) -> None:
    """Parts of these architectures that this project's decoder has not."""
    for field in ("num_experts", "num_local_experts"):
        if field != architecture.experts and config.get(field) not in (None, 0, 1):
            raise InputError(
                f"{where}: {field}={config[field]}: a {architecture.name} with experts is not supported"
            )
    faults = {
        "attention_bias: biases": bool(config.get("attention_bias")),
        "mlp_bias: biases": bool(config.get("mlp_bias")),
        f"hidden_act={config.get('hidden_act')}: other activations than silu": config.get(
            "hidden_act"
        )
        != "silu",
        "quantization_config: quantised weights": bool(config.get("quantization_config")),
    }
    for fault in [text for text, there in faults.items() if there]:
        raise InputError(f"{where}: {fault} are not supported")


def _rope_base(config: dict[str, Any], where: str) -> float:
    """RoPE's base. A `dynamic` scaling does nothing up to max_position_embeddings, so it may
    stand; others may not.
    """
    base = config
    for part in (config.get("rope_parameters") or {}, config.get("rope_scaling") or {}):
        kind = part.get("rope_type", part.get("type", "default"))
        if kind not in ("default", "dynamic"):
            raise InputError(
                f"{where}: RoPE of type {kind!r} is not supported; expected default or dynamic"
            )
        base = base | part
    if base.get("partial_rotary_factor", 1) != 1:
        raise InputError(
            f"{where}: partial_rotary_factor: RoPE over a part of a head is not supported"
        )
    return _Fields(base, where).number("rope_theta", float, 10_000.0)


class _Fields:
    """Numbers out of a config.json that anybody may have written."""

    def __init__(self, config: dict[str, Any], where: str):
        self._config, self._where = config, where

    def number(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        value = self._config.get(key)
        if value is None and default is not _REQUIRED:
            return default
        if value is None:
            raise InputError(f"{self._where}: {key}: missing{did_you_mean(key, self._config)}")
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        right = not isinstance(value, bool) and (
            whole if kind is int else isinstance(value, int | float)
        )
        if not right or not 0 < value < math.inf:
            expected = "a whole number" if kind is int else "a number"
            raise InputError(f"{self._where}: {key}: expected {expected} above zero, got {value!r}")
        return kind(value)


def _tidy(number: float) -> float:
    """The shortest number that is the same in fp32, as the forward pass has it: 1.4 / sqrt(7) *
    sqrt(7) -> 1.4.
    """
    return float(str(np.float32(number)))
