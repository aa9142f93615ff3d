"""The architectures that a folder's config.json can name, one record each: how it calls the
settings and tensors of a model, written and read.

| architecture         | multipliers                             | head       | experts    |
|----------------------|-----------------------------------------|------------|------------|
| GraniteForCausalLM   | four numbers, which the engine applies  | stays tied | none       |
| GraniteMoeForCausalLM| the same                                | stays tied | always     |
| MiniCPMForCausalLM   | scale_emb, scale_depth, dim_model_base  | stays tied | may have   |
| LlamaForCausalLM     | none: folded into the weights           | untied     | none       |

All of them turn the halves of a head, as this project does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windtunnel.recipe.rope import ROPE_SCALINGS
from windtunnel.ship.fields import Fields
from windtunnel.ship.huggingface import rope

if TYPE_CHECKING:
    from windtunnel.model.roles import Multipliers
    from windtunnel.recipe import Model

# Ours -> theirs, in a layer or beside the layers. Where two of ours have one name, it holds the
# rows of both, in the order of `tensor_shapes`. `*` stands for the number of an expert.
_TENSORS = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True, kw_only=True, eq=False)  # each is only itself, and hashes
class Architecture:
    """One kind of model as config.json describes it."""

    name: str
    """What `architectures` calls it."""
    model_type: str
    tensors: Mapping[str, str] = field(default_factory=lambda: _TENSORS)
    """What it calls our tensors, without `model.layers.N` and `weight`."""
    expert_tensors: Mapping[str, str] = field(default_factory=dict)
    """The same of a layer's experts and their router, beside or instead of `tensors`."""
    expert_count: str = ""
    """The field that counts experts; empty where it has none."""
    dense: bool = True
    """Whether it may be without experts: then `expert_count` may be left out."""
    own_head_size: bool = True
    """Whether heads times their size may be another number than the width."""
    folds: bool = False
    """Whether multipliers go into the weights, for want of settings that hold them."""
    scalings: tuple[str, ...] = tuple(ROPE_SCALINGS)
    """The scalings of RoPE that an engine computes."""
    tied_if_unsaid: bool = False
    """Whether an engine ties the head to the embedding where config.json does not say."""
    settings: Callable[[Model, Multipliers], dict[str, Any]]
    """The fields that not every architecture has, of a model with these multipliers."""
    read: Callable[[Fields], tuple[dict[str, Any], dict[str, float]]]
    """What those fields say: settings of `recipe.Model` beside its shape, and multipliers that
    these settings do not hold yet. Raises InputError."""

    def refusal(self, model: Model) -> str:
        """Why a model cannot be of this architecture; empty where it can."""
        if model.experts and not self.expert_count:
            return f"a {self.name} has no experts"
        if not model.experts and not self.dense:
            return f"a {self.name} always has experts"
        if not self.own_head_size and model.head_size * model.heads != model.width:
            return (
                f"a {self.name} has no head size of its own: {model.heads} heads of "
                f"{model.head_size} are not the width of {model.width}"
            )
        if model.rope_scaling not in self.scalings:
            return f"a {self.name} has no RoPE scaling '{model.rope_scaling}'"
        return ""


def _llama_settings(model: Model, m: Multipliers) -> dict[str, Any]:
    return {
        "head_dim": model.head_size,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rope_parameters": rope.written(model),
    }


def _read_llama(fields: Fields) -> tuple[dict[str, Any], dict[str, float]]:
    return {"parametrization": "standard"}, {}


def _granite_settings(model: Model, m: Multipliers) -> dict[str, Any]:
    return _llama_settings(model, m) | {
        "embedding_multiplier": m.embedding,
        "residual_multiplier": m.residual,
        "attention_multiplier": m.attention,
        "logits_scaling": 1 / m.logits,  # a divisor
    }


def _read_granite(fields: Fields) -> tuple[dict[str, Any], dict[str, float]]:
    given = {
        "embedding": fields.number("embedding_multiplier", 1.0),
        "residual": fields.number("residual_multiplier", 1.0),
        "attention": fields.number("attention_multiplier", 1.0),
        "logits": 1 / fields.number("logits_scaling", 1.0),
    }
    return {"parametrization": "standard"}, given


def _minicpm_settings(model: Model, m: Multipliers) -> dict[str, Any]:
    from windtunnel.ship.multipliers import tidy

    return {
        "scale_emb": m.embedding,
        "scale_depth": tidy(m.residual * math.sqrt(model.depth)),
        "dim_model_base": round(m.logits * model.width),
        "rope_scaling": rope.written_before(model),
    }


def _read_minicpm(fields: Fields) -> tuple[dict[str, Any], dict[str, float]]:
    """A multiplier that is left out of a MiniCPM config is a mistake: the class's default would
    divide the logits by the width.
    """
    scales = {
        "scale_emb": fields.number("scale_emb"),
        "scale_depth": fields.number("scale_depth"),
        "base_width": fields.whole("dim_model_base"),
    }
    return scales, {}


GRANITE = Architecture(
    name="GraniteForCausalLM",
    model_type="granite",
    settings=_granite_settings,
    read=_read_granite,
)
GRANITE_MOE = Architecture(
    name="GraniteMoeForCausalLM",
    model_type="granitemoe",
    expert_tensors={
        "router": "block_sparse_moe.router.layer",
        "gate": "block_sparse_moe.input_linear",
        "up": "block_sparse_moe.input_linear",
        "down": "block_sparse_moe.output_linear",
    },
    expert_count="num_local_experts",
    dense=False,
    settings=_granite_settings,
    read=_read_granite,
)
MINICPM = Architecture(
    name="MiniCPMForCausalLM",
    model_type="minicpm",
    expert_tensors={
        "router": "mlp.gate",
        "gate": "mlp.experts.*.w1",
        "up": "mlp.experts.*.w3",
        "down": "mlp.experts.*.w2",
    },
    expert_count="num_experts",
    own_head_size=False,
    # the code that comes with the published models knows no other
    scalings=("none", "abf", "ntk", "linear", "dynamic"),
    tied_if_unsaid=True,  # the published models leave it out
    settings=_minicpm_settings,
    read=_read_minicpm,
)
LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    folds=True,
    settings=_llama_settings,
    read=_read_llama,
)
