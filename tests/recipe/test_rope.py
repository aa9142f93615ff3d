"""Scalings of RoPE: their angles are those of transformers, below and beyond the old context."""

from typing import Any

import pytest
import torch

from windtunnel.choices import Table
from windtunnel.errors import InputError
from windtunnel.model.rope import rope_table
from windtunnel.recipe import ROPE_SCALINGS, Model, parse
from windtunnel.recipe.rope import attention_factor, frequencies, least_base
from windtunnel.ship.huggingface.rope import positions, written

OLD = 256
# By scaling: what it needs, one with usual and one with unusual numbers.
MODELS: dict[str, dict[str, Any]] = {
    "none": {},
    "abf": {"rope_factor": 50.0},
    "linear": {"rope_factor": 4.0},
    "ntk": {"rope_factor": 4.0},
    "dynamic": {"rope_factor": 4.0, "rope_original": OLD},
    "yarn": {"rope_factor": 4.0, "rope_original": OLD},
    "llama3": {"rope_factor": 8.0, "rope_original": OLD},
    "yarn by hand": {
        "rope_factor": 16.0,
        "rope_original": OLD,
        "rope_slow": 2.0,
        "rope_fast": 20.0,
        "rope_attention": 1.5,
    },
    "llama3 by hand": {
        "rope_factor": 3.0,
        "rope_original": OLD,
        "rope_slow": 0.5,
        "rope_fast": 6.0,
    },
}


def model_of(scaling: str, **changes: Any) -> Model:
    shape = {"width": 64, "depth": 1, "heads": 2, "vocab": 320}
    own = {"rope_scaling": scaling.split()[0]} | MODELS[scaling]
    return Model.model_validate(shape | own | changes)


def theirs(model: Model, length: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of transformers' own Llama, (length, head_size / 2) each."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=model.width,
        num_attention_heads=model.heads,
        head_dim=model.head_size,
        max_position_embeddings=positions(model, context),
        rope_parameters=written(model),
    )
    rope = LlamaRotaryEmbedding(config)
    cos, sin = rope(torch.zeros(1, length, model.width), torch.arange(length)[None])
    half = model.head_size // 2
    return cos[0, :, :half], sin[0, :, :half]


def test_every_scaling_is_tried() -> None:
    assert {name.split()[0] for name in MODELS} == set(ROPE_SCALINGS)
    assert isinstance(ROPE_SCALINGS, Table)


@pytest.mark.parametrize("length", [OLD // 4, OLD, OLD + 1, 3 * OLD, 4 * OLD])
@pytest.mark.parametrize("head_size", [32, 64])
@pytest.mark.parametrize("scaling", MODELS)
def test_angles_are_those_of_transformers(scaling: str, head_size: int, length: int) -> None:
    model = model_of(scaling, head_size=head_size)
    cos, sin = theirs(model, length, context=4 * OLD)
    ours = rope_table(model, 0, length, length)
    # Theirs are made in fp32: an angle of some hundred turns has 5 digits of its last one, and we
    # must be no farther from the truth than that. The frequencies are compared to 1e-6.
    assert torch.allclose(ours[0], cos, atol=2e-4) and torch.allclose(ours[1], sin, atol=2e-4)
    near = slice(0, 8)
    assert (ours[0][near] - cos[near]).abs().max() < 1e-6
    assert (ours[1][near] - sin[near]).abs().max() < 1e-6


@pytest.mark.parametrize("length", [OLD // 4, OLD + 1, 4 * OLD])
@pytest.mark.parametrize("scaling", MODELS)
def test_frequencies_are_those_of_transformers_to_one_in_a_million(
    scaling: str, length: int
) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model = model_of(scaling)
    said, context = written(model), positions(model, 4 * OLD)
    if scaling == "ntk":
        # Their NTK-aware formula goes by the length: at twice the context, a factor of 3 is our 4.
        said = {"rope_type": "dynamic", "rope_theta": model.rope_base, "factor": 3.0}
        length, context = 2 * OLD, OLD
    config = transformers.LlamaConfig(
        head_dim=model.head_size, max_position_embeddings=context, rope_parameters=said
    )
    rope = LlamaRotaryEmbedding(config)
    rope(torch.zeros(1, 1, 64), torch.tensor([[length - 1]]))  # as long as that
    ours = torch.tensor(frequencies(model, length), dtype=torch.float64)
    assert torch.allclose(ours, rope.inv_freq.double(), rtol=1e-6, atol=0)
    assert attention_factor(model) == pytest.approx(float(rope.attention_scaling), rel=1e-9)


def test_a_base_that_is_changed_is_the_same_as_another_base() -> None:
    abf = model_of("abf")
    plain = model_of("none", rope_base=abf.rope_base * 50)
    assert frequencies(abf, 1) == frequencies(plain, 1)
    ntk = frequencies(model_of("ntk"), 1)
    none = frequencies(model_of("none"), 1)
    # the fastest as before, the slowest slower by the factor
    assert ntk[0] == none[0] and ntk[-1] == pytest.approx(none[-1] / 4, rel=1e-12)


def test_the_least_base_grows_with_the_length() -> None:
    found = [least_base(length, 128) for length in (1024, 4096, 32_768)]
    assert found == sorted(found) and found[0] > 1000


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"rope_scaling": "yarn", "rope_factor": 4}, "needs rope_original"),
        ({"rope_scaling": "dynamic", "rope_factor": 4}, "needs rope_original"),
        ({"rope_factor": 0.5}, "rope_factor"),
        ({"rope_scaling": "yearn"}, "did you mean 'yarn'"),
        (
            {"rope_scaling": "llama3", "rope_original": 64, "rope_slow": 9},
            "rope_slow below rope_fast",
        ),
        ({"rope_scaling": "ntk", "head_size": 2}, "heads of at least 4 numbers"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused(said: dict[str, Any], says: str) -> None:
    values = {
        "name": "x",
        "model": {"width": 64, "depth": 1, "heads": 2, "vocab": 320} | said,
        "data": {"corpus": "c", "context": 64},
        "schedule": {"tokens": 6400},
        "train": {"batch": 640},
    }
    with pytest.raises(InputError, match=says):
        parse(values, "x")
