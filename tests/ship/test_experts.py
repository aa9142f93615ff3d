"""A mixture of experts out and in again; what is wrong with one in a line that names it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ship_models import model_of, portable_of, weights_of
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import active_params
from windtunnel.ship.export import export
from windtunnel.ship.huggingface.architectures import GRANITE_MOE, MINICPM, Architecture
from windtunnel.ship.huggingface.tensors import our_tensors, published_tensors
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.train.run import Run

MODEL = model_of("experts")
WEIGHTS = weights_of(MODEL)


def _folder(place: Path, layout: str, corpus: Corpus) -> Path:
    place.mkdir()
    portable = portable_of(MODEL, WEIGHTS, corpus.tokenizer, eos_token="<|end|>")
    return LAYOUTS[layout].write(place, portable, "fp32")


@pytest.mark.parametrize("architecture", [GRANITE_MOE, MINICPM], ids=lambda one: one.name)
def test_published_tensors_are_cut_out_of_ours(architecture: Architecture) -> None:
    names = published_tensors(architecture, MODEL)
    parts: dict[Any, Tensor] = {}
    for theirs in names.values():
        made = theirs.join(WEIGHTS)
        assert tuple(made.shape) == theirs.shape
        parts |= theirs.cut(made)
    again = our_tensors(parts, MODEL)
    assert list(again) == list(WEIGHTS) and all(
        torch.equal(again[name], WEIGHTS[name]) for name in WEIGHTS
    )
    gate, up = WEIGHTS["layers.2.gate"], WEIGHTS["layers.2.up"]
    if architecture is GRANITE_MOE:
        both = names["model.layers.2.block_sparse_moe.input_linear.weight"].join(WEIGHTS)
        assert torch.equal(both[5], torch.cat([gate[5], up[5]]))
    else:
        assert torch.equal(names["model.layers.2.mlp.experts.5.w1.weight"].join(WEIGHTS), gate[5])
        assert torch.equal(names["model.layers.2.mlp.experts.5.w3.weight"].join(WEIGHTS), up[5])


class TestExport:
    @pytest.fixture
    def run(self, corpus: Corpus, tmp_path: Path) -> Run:
        return import_model(_folder(tmp_path / "theirs", "minicpm", corpus), tmp_path / "lab")

    @pytest.mark.parametrize(
        ("to", "dtype"),
        [("hf", "fp32"), ("hf", "bf16"), ("minicpm", "fp32"), ("gguf", "F32"), ("gguf", "Q8_0")],
    )
    def test_the_engine_agrees_and_the_card_counts_experts(
        self, to: str, dtype: str, run: Run, tmp_path: Path
    ) -> None:
        pytest.importorskip("transformers")
        pytest.importorskip("xllamacpp")
        done = export(run, to, tmp_path / "out", dtype=dtype)
        assert done.agreement.good and done.agreement.tokens >= 2000
        card = (tmp_path / "out" / "README.md").read_text()
        assert "| experts | 8, of which each token goes through 2 |" in card
        assert (
            f"| active parameters | {active_params(MODEL):,} for a token, without embeddings |"
            in card
        )
        assert "| feed-forward | 96, SwiGLU of each expert |" in card

    @pytest.mark.parametrize("to", LAYOUTS)
    def test_one_expert_a_token_is_refused_in_every_layout(self, to: str) -> None:
        """What they multiply it by is 1, and here it is its probability."""
        one = MODEL.model_copy(update={"experts_per_token": 1})
        with pytest.raises(InputError, match=f"--to {to}: one expert a token: .* by 1$"):
            LAYOUTS[to].check(one)

    def test_a_llama_has_no_experts(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="--to llama: a LlamaForCausalLM has no experts; expected --to hf"
        ):
            export(run, "llama", tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "theirs"]


class TestBadInput:
    """One line that names the file and the fault, and nothing in the lab."""

    def _refused(self, source: Path, *says: str) -> None:
        with pytest.raises(InputError) as caught:
            import_model(source, source.parent / "lab")
        message = str(caught.value)
        assert "\n" not in message and all(word in message for word in (source.name, *says)), (
            message
        )
        assert not (source.parent / "lab").exists()

    @pytest.mark.parametrize(
        ("layout", "change", "says"),
        [
            (
                "minicpm",
                {"num_experts": 9},
                ["the tensor model.layers.0.mlp.experts.8.w1.weight is missing"],
            ),
            (
                "minicpm",
                {"num_experts": 7},
                ["model.layers.0.mlp.gate.weight has shape (8, 64)", "(7, 64)"],
            ),
            ("minicpm", {"num_experts": 0}, ["mlp.gate_proj.weight is missing"]),
            ("minicpm", {"num_experts": None}, ["mlp.gate_proj.weight is missing"]),
            (
                "minicpm",
                {"num_experts": "8"},
                ["num_experts: expected a whole number above zero, got '8'"],
            ),
            ("minicpm", {"num_experts_per_tok": None}, ["num_experts_per_tok: missing"]),
            ("minicpm", {"num_experts_per_tok": 1}, ["one expert a token"]),
            ("hf", {"num_experts_per_tok": 1}, ["one expert a token"]),
            (
                "minicpm",
                {"num_experts_per_tok": 9},
                ["experts_per_token=9, but there are 8 experts"],
            ),
            (
                "hf",
                {"num_local_experts": 4},
                ["block_sparse_moe.", "has shape (8, ", "asks for (4, "],
            ),
            ("hf", {"num_local_experts": None}, ["num_local_experts: missing"]),
            (
                "hf",
                {"num_experts_per_tok": 0},
                ["num_experts_per_tok: expected a whole number above zero"],
            ),
            (
                "hf",
                {"intermediate_size": 64},
                ["block_sparse_moe.", "(8, 192, 64)", "(8, 128, 64)"],
            ),
            (
                "hf",
                {"architectures": ["GraniteForCausalLM"]},
                ["num_local_experts=8: a GraniteForCausalLM with experts"],
            ),
            (
                "hf",
                {"architectures": ["GraniteMoeSharedForCausalLM"]},
                ["did you mean 'GraniteMoeForCausalLM'"],
            ),
        ],
    )
    def test_a_config(
        self,
        layout: str,
        change: dict[str, Any],
        says: list[str],
        corpus: Corpus,
        tmp_path: Path,
    ) -> None:
        folder = _folder(tmp_path / "theirs", layout, corpus)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        self._refused(folder, *says)

    @pytest.mark.parametrize(
        ("layout", "change", "says"),
        [
            (
                "minicpm",
                lambda t: t.pop("model.layers.1.mlp.experts.3.w2.weight"),
                ["the tensor model.layers.1.mlp.experts.3.w2.weight is missing"],
            ),
            (
                "minicpm",
                lambda t: t.update({"model.layers.1.mlp.experts.3.w2.weight": torch.ones(64, 95)}),
                ["model.layers.1.mlp.experts.3.w2.weight has shape (64, 95)", "(64, 96)"],
            ),
            (
                "minicpm",
                lambda t: t.update({"model.layers.1.mlp.experts.8.w2.weight": torch.ones(64, 96)}),
                ["model.layers.1.mlp.experts.8.w2.weight: this architecture has no such tensor"],
            ),
            (
                "minicpm",
                lambda t: t.update(
                    {"model.layers.1.mlp.experts.3.w1.weight": torch.full((96, 64), torch.inf)}
                ),
                ["model.layers.1.mlp.experts.3.w1.weight holds numbers that are not finite"],
            ),
            (
                "minicpm",
                lambda t: t.pop("model.layers.2.mlp.gate.weight"),
                ["model.layers.2.mlp.gate.weight is missing"],
            ),
            (
                "hf",
                lambda t: t.pop("model.layers.0.block_sparse_moe.output_linear.weight"),
                ["block_sparse_moe.output_linear.weight is missing"],
            ),
            (
                "hf",
                lambda t: t.update(
                    {"model.layers.0.block_sparse_moe.router.layer.weight": torch.ones(7, 64)}
                ),
                ["block_sparse_moe.router.layer.weight has shape (7, 64)", "(8, 64)"],
            ),
        ],
    )
    def test_tensors(
        self,
        layout: str,
        change: Callable[[dict[str, Tensor]], Any],
        says: list[str],
        corpus: Corpus,
        tmp_path: Path,
    ) -> None:
        folder = _folder(tmp_path / "theirs", layout, corpus)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        self._refused(folder, *says)
