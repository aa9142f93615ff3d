"""config.json, field by field: what is written of a model, and what is read where fields are left
out.
"""

from typing import Any

import pytest
from ship_models import SHAPES, model_of

from windtunnel.errors import InputError
from windtunnel.model.roles import multipliers
from windtunnel.ship.huggingface.architectures import (
    GRANITE,
    GRANITE_MOE,
    LLAMA,
    MINICPM,
    Architecture,
)
from windtunnel.ship.huggingface.config import architecture_in, config_of, read_config

ALL = (GRANITE, GRANITE_MOE, MINICPM, LLAMA)
PLAIN: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "vocab_size": 320,
    "hidden_act": "silu",
}


def read(**changes: Any) -> Any:
    return read_config(PLAIN | changes, ALL, "x")


def test_every_field_of_a_granite_is_written() -> None:
    model = model_of("grouped")
    m = multipliers(model)
    assert config_of(GRANITE, model, 512) == {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "vocab_size": 320,
        "hidden_size": 96,
        "intermediate_size": model.ffn,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "tie_word_embeddings": True,
        "initializer_range": model.init_std,
        "use_cache": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "embedding_multiplier": 10.0,
        "residual_multiplier": m.residual,
        "attention_multiplier": 0.25,
        "logits_scaling": 3.0,
    }


def test_every_field_of_a_minicpm_and_its_experts_is_written() -> None:
    model = model_of("experts")
    config = config_of(MINICPM, model, 64)
    own = {key: config[key] for key in ("scale_emb", "scale_depth", "dim_model_base")}
    assert own == {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 16}
    assert config["rope_scaling"] is None
    assert (config["num_experts"], config["num_experts_per_tok"]) == (8, model.experts_per_token)
    granite = config_of(GRANITE_MOE, model, 64)
    assert granite["num_local_experts"] == 8 and "num_experts" not in granite
    assert "num_experts_per_tok" not in config_of(LLAMA, model_of("standard"), 64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", [GRANITE, GRANITE_MOE, MINICPM], ids=lambda a: a.name)
def test_what_is_written_is_the_same_model_when_it_is_read(
    shape: str, architecture: Architecture
) -> None:
    model = model_of(shape)
    if architecture.refusal(model):
        return
    found = read_config(config_of(architecture, model, 128), ALL, "x")
    assert found.architecture is architecture and found.context == 128
    shaped = ("width", "depth", "heads", "kv_heads", "head_size", "ffn", "vocab", "tied")
    for field in (*shaped, "experts", "rope_base", "norm_eps", "init_std"):
        assert getattr(found.model, field) == getattr(model, field), field
    assert vars(multipliers(found.model)) == pytest.approx(vars(multipliers(model)), rel=1e-6)
    assert found.factors == {}


def test_fields_that_are_left_out_mean_what_an_engine_takes() -> None:
    found = read()
    model = found.model
    assert (model.kv_heads, model.head_size) == (4, 16)
    assert (model.norm_eps, model.init_std, model.rope_base) == (1e-6, 0.02, 10_000.0)
    assert found.context == 2048 and model.parametrization == "standard"
    assert not model.tied and not model.experts
    minicpm = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}
    assert read(architectures=["MiniCPMForCausalLM"], **minicpm).model.tied


def test_fields_that_are_there_are_taken() -> None:
    found = read(
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-5,
        initializer_range=0.05,
        rope_theta=500_000.0,
        max_position_embeddings=77,
        tie_word_embeddings=True,
    )
    model = found.model
    assert (model.kv_heads, model.head_size, model.norm_eps) == (2, 32, 1e-5)
    assert (model.init_std, model.rope_base, model.tied) == (0.05, 500_000.0, True)
    assert (found.context, model.vocab, model.ffn, model.width, model.depth) == (
        77,
        320,
        160,
        64,
        2,
    )


@pytest.mark.parametrize("unsaid", [{}, {"num_experts": 0}, {"num_experts": None}])
def test_a_minicpm_may_have_no_experts_and_say_so(unsaid: dict[str, Any]) -> None:
    scales = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}
    found = read(architectures=["MiniCPMForCausalLM"], **scales, **unsaid)
    assert found.model.experts == 0
    several = read(
        architectures=["MiniCPMForCausalLM"], **scales, num_experts=4, num_experts_per_tok=2
    )
    assert (several.model.experts, several.model.experts_per_token) == (4, 2)


def test_a_granite_moe_must_say_how_many_experts_it_has() -> None:
    with pytest.raises(InputError, match="x: num_local_experts: missing"):
        read(architectures=["GraniteMoeForCausalLM"])


def test_multipliers_that_a_granite_leaves_out_are_one() -> None:
    found = read(architectures=["GraniteForCausalLM"])
    m = multipliers(found.model)
    assert (m.embedding, m.residual, m.logits) == (1.0, 1.0, 1.0)
    # scores are multiplied by 1 instead of 1/sqrt(16)
    assert found.factors == {"query": pytest.approx(4.0)}
    scaled = read(
        architectures=["GraniteForCausalLM"], logits_scaling=4.0, attention_multiplier=0.25
    )
    assert multipliers(scaled.model).logits == pytest.approx(0.25) and scaled.factors == {}


@pytest.mark.parametrize(
    ("said", "base"),
    [
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_theta": 5e5}}, 5e5),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5),
        ({"rope_theta": 5e5, "partial_rotary_factor": 1.0}, 5e5),
        ({}, 1e4),
    ],
)
def test_ropes_base_is_where_old_and_new_configs_have_it(said: dict[str, Any], base: float) -> None:
    assert read(**said).model.rope_base == base


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"rope_scaling": {"type": "linear"}}, "factor: missing"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "RoPE of type 'longrope' is not suppor"),
        ({"rope_scaling": "yarn"}, "rope_scaling: expected an object, got 'yarn'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor: RoPE over"),
        ({"attention_bias": True}, "attention_bias: biases are not supported"),
        ({"mlp_bias": True}, "mlp_bias: biases are not supported"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu: only silu is supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quantised weights are not"),
        ({"num_experts": 2}, "num_experts=2: a LlamaForCausalLM with experts is not supported"),
        ({"num_local_experts": 8}, "num_local_experts=8: a LlamaForCausalLM with experts"),
        ({"num_attention_heads": 3}, r"head_size|heads"),
        ({"vocab_size": None}, "vocab_size: missing"),
        ({"architectures": ["Llama"]}, "architecture 'Llama' is unknown; expected one of"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "a Llama with norms of query and key"),
        ({"architectures": []}, "architecture None is unknown"),
    ],
)
def test_what_is_not_supported_is_named(said: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=rf"^x: .*{says}"):
        read(**said)


@pytest.mark.parametrize("unsaid", [0, 1, None])
def test_one_expert_is_none(unsaid: int | None) -> None:
    assert read(num_experts=unsaid, num_local_experts=unsaid).model.experts == 0


def test_an_architecture_is_found_by_its_name_or_else_by_its_type() -> None:
    for architecture in ALL:
        assert architecture_in({"architectures": [architecture.name]}, ALL, "x") is architecture
        assert architecture_in({"model_type": architecture.model_type}, ALL, "x") is architecture
        both = {"architectures": [architecture.name], "model_type": "other"}
        assert architecture_in(both, ALL, "x") is architecture


def test_why_an_architecture_can_not_hold_a_model() -> None:
    plain, experts, own = model_of("tied"), model_of("experts"), model_of("own head size")
    assert LLAMA.refusal(experts) == "a LlamaForCausalLM has no experts"
    assert GRANITE_MOE.refusal(plain) == "a GraniteMoeForCausalLM always has experts"
    assert MINICPM.refusal(own) == (
        "a MiniCPMForCausalLM has no head size of its own: 2 heads of 32 are not the width of 48"
    )
    assert [one.refusal(plain) for one in (GRANITE, MINICPM, LLAMA)] == [""] * 3
    assert GRANITE_MOE.refusal(experts) == MINICPM.refusal(experts) == GRANITE.refusal(own) == ""
