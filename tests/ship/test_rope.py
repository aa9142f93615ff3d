"""Models whose RoPE is scaled, out and in: engines give our log-probabilities at four times the old
context, and what is read is the model that was written.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import ROPE_SCALINGS, Model
from windtunnel.recipe.rope import attention_factor, frequencies
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.held_out import HeldOut, held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.portable import PortableModel
from windtunnel.ship.verify import verify

OLD, LONG = 64, 256
SCALED: dict[str, dict[str, Any]] = {
    "abf": {"rope_factor": 16.0},
    "linear": {"rope_factor": 4.0},
    "ntk": {"rope_factor": 4.0},
    "dynamic": {"rope_factor": 4.0, "rope_original": OLD},
    "yarn": {"rope_factor": 4.0, "rope_original": OLD},
    "llama3": {"rope_factor": 4.0, "rope_original": OLD},
}
BY_HAND: dict[str, dict[str, Any]] = {
    "yarn": {"rope_slow": 0.5, "rope_fast": 8.0, "rope_attention": 1.5},
    "llama3": {"rope_slow": 0.5, "rope_fast": 8.0},
}


def scaled(name: str, shape: str = "grouped", **changes: Any) -> Model:
    return model_of(shape).model_copy(update={"rope_scaling": name} | SCALED[name] | changes)


def portable(model: Model, corpus: Corpus) -> PortableModel:
    return portable_of(model, weights_of(model), corpus.tokenizer, LONG)


@pytest.fixture(scope="module")
def held(corpus: Corpus) -> HeldOut:
    return held_out(corpus, LONG, 500, 10)


def turned(model: Model) -> list[float]:
    return [*frequencies(model, LONG), attention_factor(model)]


def exported(to: str, model: Model, corpus: Corpus, held: HeldOut, tmp_path: Path) -> Model:
    """Written, confirmed by the layout's engine, and read again."""
    layout = LAYOUTS[to]
    out = portable(model, corpus)
    path = layout.write(tmp_path, out, layout.dtypes[0])
    found = verify(layout, layout.dtypes[0], path, out, held)
    assert found.most and found.max_difference < found.most, found
    return layout.read(path).model


@pytest.mark.parametrize("to", ["hf", "llama"])
@pytest.mark.parametrize("name", SCALED)
def test_transformers_agrees_beyond_the_old_context(
    name: str, to: str, corpus: Corpus, held: HeldOut, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    model = scaled(name)
    assert turned(exported(to, model, corpus, held, tmp_path)) == pytest.approx(turned(model))


@pytest.mark.parametrize("shape", ["grouped", "standard"])
@pytest.mark.parametrize("name", [name for name in SCALED if name != "dynamic"])
def test_llama_cpp_agrees_beyond_the_old_context(
    name: str, shape: str, corpus: Corpus, held: HeldOut, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    model = scaled(name, shape)
    found = exported("gguf", model, corpus, held, tmp_path)
    assert turned(found) == pytest.approx(turned(model), rel=1e-4)
    if not ROPE_SCALINGS[name].base:
        said = ("rope_scaling", "rope_factor", "rope_original")
        assert found.model_dump(include=set(said)) == model.model_dump(include=set(said))


@pytest.mark.parametrize("to", ["hf", "gguf"])
@pytest.mark.parametrize("name", BY_HAND)
def test_what_was_set_by_hand_goes_along(
    name: str, to: str, corpus: Corpus, held: HeldOut, tmp_path: Path
) -> None:
    for engine in ("transformers", "gguf", "xllamacpp"):
        pytest.importorskip(engine)
    model = scaled(name, **BY_HAND[name])
    layout, out = LAYOUTS[to], portable(model, corpus)
    path = layout.write(tmp_path, out, layout.dtypes[0])
    assert verify(layout, layout.dtypes[0], path, out, held).max_difference < 5e-4
    if (to, name) != ("gguf", "llama3"):  # which says no turns there
        assert turned(layout.read(path).model) == pytest.approx(turned(model), rel=1e-5)


def test_another_scaling_is_another_model(corpus: Corpus, held: HeldOut) -> None:
    """Or nothing above would tell one scaling from another."""
    plain = model_of("grouped")
    weights, few = weights_of(plain), held.windows[:1]
    without = log_probabilities(plain, weights, few)
    for name in SCALED:
        difference = np.abs(log_probabilities(scaled(name), weights, few) - without)
        assert difference[:, OLD:].max() > 0.01, name


def test_a_minicpm_is_read_as_it_is_written(corpus: Corpus, held: HeldOut, tmp_path: Path) -> None:
    for name in ("linear", "dynamic", "ntk"):
        (tmp_path / name).mkdir()
        model = scaled(name)
        found = exported("minicpm", model, corpus, held, tmp_path / name)
        assert turned(found) == pytest.approx(turned(model))
    with pytest.raises(InputError, match="MiniCPMForCausalLM has no RoPE scaling 'yarn'; expected"):
        LAYOUTS["minicpm"].check(scaled("yarn"))


def test_llama_cpp_has_no_scaling_by_length(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    layout, out = LAYOUTS["gguf"], portable(scaled("dynamic"), corpus)
    with pytest.raises(InputError, match=r"gguf: llama\.cpp has no RoPE scaling 'dynamic'"):
        layout.write(tmp_path, out, layout.dtypes[0])
    # up to the original context it does nothing
    path = layout.write(tmp_path, replace(out, context=OLD), layout.dtypes[0])
    assert layout.read(path).model.rope_scaling == "none"


def test_divisors_that_are_not_llama_3s_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from gguf_files import rewritten

    layout, out = LAYOUTS["gguf"], portable(scaled("llama3"), corpus)
    whole = layout.write(tmp_path, out, layout.dtypes[0])

    def other(name: str, values: np.ndarray) -> np.ndarray:
        return values[::-1].copy() if name == "rope_freqs.weight" else values

    file = rewritten(whole, tmp_path / "other.gguf", tensors=other)
    with pytest.raises(InputError, match=r"rope_freqs\.weight: expected what Llama 3's scaling"):
        layout.read(file)
    both = rewritten(whole, tmp_path / "both.gguf", {"granite.rope.scaling.type": "yarn"})
    with pytest.raises(InputError, match=r"rope_freqs\.weight beside rope\.scaling\.type 'yarn'"):
        layout.read(both)


def test_a_factor_without_a_type_is_linear(corpus: Corpus, tmp_path: Path) -> None:
    """As llama.cpp takes it."""
    pytest.importorskip("gguf")
    from gguf_files import rewritten

    layout, out = LAYOUTS["gguf"], portable(scaled("linear"), corpus)
    whole = layout.write(tmp_path, out, layout.dtypes[0])
    file = rewritten(whole, tmp_path / "y.gguf", {"granite.rope.scaling.type": None})
    assert layout.read(file).model.rope_scaling == "linear"
