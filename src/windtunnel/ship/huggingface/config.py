"""config.json of a model: written for an architecture, and read back as a `Model`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from windtunnel.errors import InputError, did_you_mean
from windtunnel.model.roles import Multipliers, multipliers
from windtunnel.recipe import Model
from windtunnel.ship import missing_parts
from windtunnel.ship.fields import Fields
from windtunnel.ship.huggingface import rope
from windtunnel.ship.huggingface.architectures import Architecture
from windtunnel.ship.multipliers import with_multipliers


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a config.json describes."""

    architecture: Architecture
    model: Model
    context: int
    """Positions that the model was made for."""
    factors: Mapping[str, float]
    """What `multipliers.scaled` must multiply the weights by for `model` to be exact."""


def config_of(architecture: Architecture, model: Model, context: int) -> dict[str, Any]:
    """config.json of a model that this architecture can hold, without the ids of tokens; of one
    that folds, after folding.
    """
    config = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": model.vocab,
        "hidden_size": model.width,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": rope.positions(model, context),
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": rope.written(model)["rope_theta"],
        "tie_word_embeddings": model.tied,
        "initializer_range": model.init_std,
        "use_cache": True,
    }
    if model.experts:
        config[architecture.expert_count] = model.experts
        config["num_experts_per_tok"] = model.experts_per_token
    if before := rope.written_before(model):
        config["rope_scaling"] = before
    return config | architecture.settings(model, multipliers(model))


def read_config(
    config: dict[str, Any], architectures: Sequence[Architecture], where: str
) -> Described:
    """What a config.json of one of these architectures describes. Raises InputError, which begins
    with `where`, for a field that is missing or wrong, and for a part that this project's decoder
    does not have.
    """
    architecture = architecture_in(config, architectures, where)
    _refuse_missing_parts(config, where, architecture)
    fields = Fields(config, where)
    width = fields.whole("hidden_size")
    context = fields.whole("max_position_embeddings", 2048)
    heads = fields.whole("num_attention_heads")
    shape = {
        "width": width,
        "depth": fields.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": fields.whole("num_key_value_heads", heads),
        "head_size": fields.whole("head_dim", width // heads),
        "ffn": fields.whole("intermediate_size"),
        "vocab": fields.whole("vocab_size"),
        "tied": fields.yes("tie_word_embeddings", architecture.tied_if_unsaid),
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "init_std": fields.number("initializer_range", 0.02),
    }
    shape |= rope.read(config, where, context)
    # MiniCPM's config may leave the field out, or say 0, for a model without experts.
    optional = architecture.dense and not config.get(architecture.expert_count)
    if architecture.expert_count and not optional:
        shape["experts"] = fields.whole(architecture.expert_count)
        shape["experts_per_token"] = fields.whole("num_experts_per_tok")
    settings, given = architecture.read(fields)
    factors: Mapping[str, float] = {}
    try:
        model = Model.model_validate(shape | settings)
        if given:
            model, factors = with_multipliers(model, Multipliers(**given))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {field}: {message}") from None
    return Described(architecture=architecture, model=model, context=context, factors=factors)


def architecture_in(
    config: Mapping[str, Any], known: Sequence[Architecture], where: str
) -> Architecture:
    """The architecture that a config.json names, or whose model type it names. Raises InputError,
    which begins with `where`, if it is not one of the known.
    """
    named = config.get("architectures") or [config.get("model_type")]
    name = named[0] if isinstance(named, list) and named else None
    for architecture in known:
        if name in (architecture.name, architecture.model_type):
            return architecture
    names = [architecture.name for architecture in known]
    raise InputError(
        f"{where}: architecture {name!r}{missing_parts.of_architecture(str(name))} is unknown; "
        f"expected one of {', '.join(names)}{did_you_mean(str(name), names)}"
    )


def _refuse_missing_parts(config: dict[str, Any], where: str, architecture: Architecture) -> None:
    """Raises InputError for parts of these architectures that this project's decoder lacks."""
    for field in ("num_experts", "num_local_experts"):
        if field != architecture.expert_count and config.get(field) not in (None, 0, 1):
            raise InputError(
                f"{where}: {field}={config[field]}: a {architecture.name} with experts is not "
                "supported"
            )
    for field in ("attention_bias", "mlp_bias"):
        if config.get(field):
            raise InputError(f"{where}: {field}: biases are not supported")
    if (act := config.get("hidden_act")) != "silu":
        raise InputError(f"{where}: hidden_act={act}: only silu is supported")
    if config.get("quantization_config"):
        raise InputError(f"{where}: quantization_config: quantised weights are not supported")
