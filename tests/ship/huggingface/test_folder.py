"""What is exported for Hugging Face tools, read by transformers itself: the same probabilities,
the same token ids.
"""

import json
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from ship_models import (
    SHAPES,
    logits_of,
    model_of,
    portable_of,
    some_tokens,
    weights_of,
)
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.model.generate import generate
from windtunnel.model.roles import multipliers
from windtunnel.recipe import Model
from windtunnel.ship.engines import by_transformers
from windtunnel.ship.held_out import ODD_LINES
from windtunnel.ship.huggingface.architectures import GRANITE, GRANITE_MOE, Architecture
from windtunnel.ship.huggingface.folder import write
from windtunnel.ship.layouts import LAYOUTS, FolderLayout, layout_of
from windtunnel.ship.portable import PortableModel

EXACT = 1e-4  # nats, of a log-probability in fp32
SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|end|>",
    "pad_token": "<|end|>",
}


FOLDERS = [name for name, layout in LAYOUTS.items() if isinstance(layout, FolderLayout)]
BY_TRANSFORMERS = [name for name, layout in LAYOUTS.items() if layout.engine is by_transformers]
EXPORTS = [
    (shape, layout)
    for shape in SHAPES
    for layout in BY_TRANSFORMERS
    if not LAYOUTS[layout].refusal(model_of(shape))
]


def _write(
    folder: Path,
    layout: str,
    model: Model,
    weights: dict[str, Tensor],
    corpus: Corpus,
    context: int = 64,
    dtype: str = "fp32",
) -> Path:
    folder.mkdir(exist_ok=True)
    portable = portable_of(model, weights, corpus.tokenizer, context, **SETTINGS)
    return LAYOUTS[layout].write(folder, portable, dtype)


def _read(folder: Path) -> PortableModel:
    return layout_of(folder).read(folder)


def _by_transformers(folder: Path, tokens: Tensor) -> Tensor:
    """Log-probabilities (batch, T, vocab)."""
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    with torch.no_grad():
        return loaded.eval()(tokens).logits.log_softmax(-1)


@pytest.mark.parametrize(("shape", "layout"), EXPORTS)
def test_transformers_gives_our_log_probabilities(
    shape: str, layout: str, tmp_path: Path, corpus: Corpus
) -> None:
    model = model_of(shape)
    weights, tokens = weights_of(model), some_tokens()
    folder = _write(tmp_path / "x", layout, model, weights, corpus)
    ours = logits_of(model, weights, tokens).log_softmax(-1)
    assert (ours - _by_transformers(folder, tokens)).abs().max() <= EXACT
    assert ours.std() > 0.3, "probabilities that differ, or anything would agree"


@pytest.mark.parametrize("layout", BY_TRANSFORMERS)
def test_positions_far_out_are_turned_alike(layout: str, tmp_path: Path, corpus: Corpus) -> None:
    model = model_of("long RoPE")
    weights, tokens = weights_of(model), some_tokens(1, 2048)
    folder = _write(tmp_path / "x", layout, model, weights, corpus, context=2048)
    ours = logits_of(model, weights, tokens).log_softmax(-1)
    assert (ours - _by_transformers(folder, tokens)).abs().max() <= EXACT


@pytest.mark.parametrize(
    "key", ["embedding_multiplier", "residual_multiplier", "logits_scaling", "rope_theta"]
)
def test_a_setting_that_is_off_is_seen(key: str, tmp_path: Path, corpus: Corpus) -> None:
    model = model_of("grouped")
    weights, tokens = weights_of(model), some_tokens()
    folder = _write(tmp_path / "x", "hf", model, weights, corpus)
    config = json.loads((folder / "config.json").read_text())
    config[key] *= 1.05
    config["rope_parameters"]["rope_theta"] = config["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    off = (
        (logits_of(model, weights, tokens).log_softmax(-1) - _by_transformers(folder, tokens))
        .abs()
        .max()
    )
    assert off > 10 * EXACT


@pytest.mark.parametrize(
    ("shape", "layout", "tied"),
    [
        ("tied", "hf", True),
        ("tied", "minicpm", True),
        ("tied", "llama", False),
        ("untied", "hf", False),
        ("standard", "llama", True),
    ],
)
def test_what_is_tied_stays_so_where_it_can(
    shape: str, layout: str, tied: bool, tmp_path: Path, corpus: Corpus
) -> None:
    model = model_of(shape)
    folder = _write(tmp_path / "x", layout, model, weights_of(model), corpus)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("head" in _read(folder).weights) is not tied


@pytest.mark.parametrize("shape", SHAPES)
def test_granite_and_minicpm_come_back_as_they_were(
    shape: str, tmp_path: Path, corpus: Corpus
) -> None:
    model = model_of(shape)
    weights = weights_of(model)
    layouts = ["hf"] if shape == "own head size" else ["hf", "minicpm"]
    for layout in layouts:
        found = _read(_write(tmp_path / layout, layout, model, weights, corpus))
        assert astuple(multipliers(found.model)) == pytest.approx(
            astuple(multipliers(model)), rel=1e-6
        )
        if model.parametrization == "minicpm":
            assert found.model == model
        assert list(found.weights) == list(weights)
        assert all(torch.equal(found.weights[name], weights[name]) for name in weights)
        assert (found.context, found.tokenizer.sha256) == (64, corpus.tokenizer.sha256)


def test_minicpm_has_no_head_size_of_its_own(tmp_path: Path, corpus: Corpus) -> None:
    model = model_of("own head size")
    said = "2 heads of 32 are not the width of 48; expected --to hf, llama or gguf"
    with pytest.raises(InputError, match=said):
        _write(tmp_path / "x", "minicpm", model, weights_of(model), corpus)


def test_a_llama_has_no_experts(tmp_path: Path, corpus: Corpus) -> None:
    model = model_of("experts")
    with pytest.raises(
        InputError,
        match="--to llama: a LlamaForCausalLM has no experts; expected --to hf, minicpm or gguf",
    ):
        _write(tmp_path / "x", "llama", model, weights_of(model), corpus)


@pytest.mark.parametrize(
    ("shape", "architecture", "size"),
    [("untied", GRANITE, 100_000), ("experts", GRANITE_MOE, 400_000)],
)
def test_a_large_model_is_cut_into_shards(
    shape: str, architecture: Architecture, size: int, tmp_path: Path, corpus: Corpus
) -> None:
    model, folder = model_of(shape), tmp_path
    weights, tokens = weights_of(model), some_tokens()
    portable = portable_of(model, weights, corpus.tokenizer, **SETTINGS)
    write(folder, architecture, portable, "fp32", size)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((folder / file).stat().st_size < 1.3 * size for file in files)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in _read(folder).weights.items())
    ours = logits_of(model, weights, tokens).log_softmax(-1)
    assert (ours - _by_transformers(folder, tokens)).abs().max() <= EXACT


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_numbers_are_rounded_once(
    dtype: str, kind: torch.dtype, tmp_path: Path, corpus: Corpus
) -> None:
    model = model_of("tied")
    weights, tokens = weights_of(model), some_tokens()
    folder = _write(tmp_path / "x", "hf", model, weights, corpus, dtype=dtype)
    found = _read(folder).weights
    assert all(torch.equal(found[name], tensor.to(kind)) for name, tensor in weights.items())
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == str(
        kind
    ).removeprefix("torch.")
    ours = logits_of(model, found, tokens).log_softmax(-1)
    assert (ours - _by_transformers(folder, tokens)).abs().max() <= EXACT


@pytest.mark.parametrize("layout", FOLDERS)
def test_transformers_makes_our_token_ids(layout: str, tmp_path: Path, corpus: Corpus) -> None:
    transformers = pytest.importorskip("transformers")
    model = model_of("tied")
    folder = _write(tmp_path / "x", layout, model, weights_of(model), corpus)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    held = corpus.sources["prose"].validation
    lines = [*ODD_LINES, corpus.tokenizer.decode(held.read(torch.zeros(1).numpy(), 60)[0])]
    for line in lines:
        assert (
            theirs.encode(line, split_special_tokens=True) == corpus.tokenizer.encode(line).tolist()
        )
        assert theirs.decode(theirs.encode(line, split_special_tokens=True)) == line
    assert (theirs.eos_token_id, theirs.pad_token_id) == (corpus.tokenizer.eos,) * 2
    assert theirs.model_max_length == 64
    assert theirs.encode("<|end|>") == [corpus.tokenizer.eos], (
        "special tokens are one token where a program asks"
    )


def test_transformers_generates_until_the_end(tmp_path: Path, corpus: Corpus) -> None:
    transformers = pytest.importorskip("transformers")
    model = model_of("tied")
    folder = _write(tmp_path / "x", "hf", model, weights_of(model), corpus)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.do_sample) == (
        corpus.tokenizer.eos,
        True,
    )
    prompt = some_tokens(1, 5)
    made = loaded.generate(prompt, max_new_tokens=8, do_sample=False)
    expected = list(
        generate(
            _decoder(model, folder), prompt[0].tolist(), 8, temperature=0, end=corpus.tokenizer.eos
        )
    )
    assert made[0, 5 : 5 + len(expected)].tolist() == expected and expected


def _decoder(model: Model, folder: Path) -> Decoder:
    decoder = Decoder(model, 64)
    decoder.load_state_dict(_read(folder).weights)
    return decoder
