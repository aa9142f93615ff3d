"""The types in which matrices are kept: llama.cpp's own quantiser, and its mixtures."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ship_models import portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Model
from windtunnel.ship.gguf import model as gguf
from windtunnel.ship.gguf import quantise
from windtunnel.ship.gguf.file import contents, metadata
from windtunnel.ship.gguf.quantise import by_llama_cpp, quantised, type_of
from windtunnel.ship.held_out import held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.verify import verify

package = pytest.importorskip("gguf")

K_QUANTS = ("Q4_K_M", "Q5_K_M", "Q6_K")


def wide(**settings: Any) -> Model:
    return Model.model_validate({"width": 256, "depth": 4, "heads": 4, "vocab": 320} | settings)


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 6, 512)).astype(np.float32)


class TestNumbers:
    @pytest.fixture(autouse=True)
    def needed(self) -> None:
        pytest.importorskip("xllamacpp")

    @pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
    def test_its_plain_blocks_are_those_of_the_gguf_package(
        self, kind: str, numbers: np.ndarray
    ) -> None:
        theirs = package.quantize(numbers, package.GGMLQuantizationType[kind])
        assert np.array_equal(by_llama_cpp(numbers, kind), theirs)

    # Of normal numbers in groups of 16 or 32. A uniform grid of n bits over twice the largest of 32
    # normals (2.1) has a step of 4.2 / 2^n, and an error of step / sqrt(12).
    @pytest.mark.parametrize(("kind", "bits"), [("Q4_K", 4), ("Q5_K", 5), ("Q6_K", 6)])
    def test_a_k_quant_is_as_near_as_its_bits(
        self, kind: str, bits: int, numbers: np.ndarray
    ) -> None:
        again = package.dequantize(quantised(numbers, kind), package.GGMLQuantizationType[kind])
        expected = 4.2 / 2**bits / 12**0.5
        error = float(np.sqrt(np.mean((again - numbers) ** 2)))
        assert again.shape == numbers.shape and 0.7 * expected < error < 1.2 * expected


class TestMixtures:
    """By llama.cpp's rules."""

    def test_where_value_and_down_have_six_bits(self) -> None:
        model = wide(depth=16)
        for leaf in ("value", "down"):
            names = [f"layers.{layer}.{leaf}" for layer in range(16)]
            kinds = [type_of(model, name, (256, 256), "Q4_K_M") for name in names]
            # the first and the last eighth, and the third of every three between
            assert [layer for layer, kind in enumerate(kinds) if kind == "Q6_K"] == [
                *(0, 1, 4, 7, 10, 13),
                *(14, 15),
            ]
            assert set(kinds) == {"Q4_K", "Q6_K"}
        others = {
            type_of(model, f"layers.0.{leaf}", (256, 256), "Q5_K_M")
            for leaf in ("query", "key", "output", "gate", "up")
        }
        assert others == {"Q5_K"}
        assert type_of(model, "layers.1.down", (256, 256), "Q5_K_M") == "Q6_K"

    @pytest.mark.parametrize(
        ("tied", "name", "kind"),
        [(True, "embedding", "Q6_K"), (False, "embedding", "Q4_K"), (False, "head", "Q6_K")],
    )
    def test_the_tables(self, tied: bool, name: str, kind: str) -> None:
        assert type_of(wide(tied=tied), name, (320, 256), "Q4_K_M") == kind

    @pytest.mark.parametrize(
        ("name", "columns", "dtype", "kind"),
        [
            ("layers.1.gate", 96, "Q4_K_M", "Q5_0"),
            ("layers.1.gate", 96, "Q5_K_M", "Q5_1"),
            ("layers.1.gate", 96, "Q6_K", "Q8_0"),
            ("layers.3.down", 96, "Q4_K_M", "Q8_0"),
            ("embedding", 96, "Q4_K_M", "Q8_0"),
            ("layers.1.gate", 100, "Q4_K_M", "F16"),
            ("layers.1.router", 256, "Q4_K_M", "F32"),
        ],
    )
    def test_rows_that_are_not_whole_blocks(
        self, name: str, columns: int, dtype: str, kind: str
    ) -> None:
        assert type_of(wide(), name, (64, columns), dtype) == kind

    def test_eight_experts(self) -> None:
        def kinds(experts: int, dtype: str) -> list[str]:
            model = wide(experts=experts)
            names = [f"layers.1.{leaf}" for leaf in ("query", "key", "value", "output")]
            return [type_of(model, name, (256, 256), dtype) for name in names]

        assert kinds(8, "Q4_K_M") == ["Q4_K", "Q8_0", "Q8_0", "Q5_K"]
        assert kinds(8, "Q6_K") == ["Q6_K", "Q8_0", "Q8_0", "Q6_K"]
        assert kinds(4, "Q4_K_M") == ["Q4_K", "Q4_K", "Q4_K", "Q4_K"]


@pytest.mark.parametrize("dtype", K_QUANTS)
@pytest.mark.parametrize("settings", [{}, {"width": 96, "heads": 6, "ffn": 256, "experts": 8}])
def test_llama_cpp_runs_what_is_written(
    settings: dict[str, Any], dtype: str, tmp_path: Path, corpus: Corpus
) -> None:
    """Rows of whole blocks, and rows of smaller ones; it is read back as well."""
    pytest.importorskip("xllamacpp")
    model = wide(depth=2, base_width=64, **settings)
    weights = {
        name: tensor * (0.5 if tensor.dim() > 1 else 1)
        for name, tensor in weights_of(model).items()
    }
    portable, file = portable_of(model, weights, corpus.tokenizer), tmp_path / "x.gguf"
    gguf.write(file, portable, dtype)
    assert package.LlamaFileType(metadata(file)["general.file_type"]).name == f"MOSTLY_{dtype}"
    held = held_out(corpus, 64, 250, 2)
    found = verify(LAYOUTS["gguf"], dtype, file, portable, held)
    assert found.good and found.mean_difference > 0, found
    kinds = {name: tensor.tensor_type.name for name, tensor in contents(file)[1].items()}
    gate = "blk.0.ffn_gate_exps.weight" if model.experts else "blk.0.ffn_gate.weight"
    assert kinds[gate] == type_of(model, "layers.0.gate", (1, model.width), dtype)
    again = gguf.read(file).weights
    for name, tensor in weights.items():
        assert torch.isclose(again[name], tensor, atol=0.15 * float(tensor.abs().max())).all(), name


class TestNoQuantiser:
    """A build that keeps llama.cpp's functions to itself."""

    @pytest.fixture(autouse=True)
    def another_library(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        pytest.importorskip("xllamacpp")
        monkeypatch.setattr(quantise.ctypes, "CDLL", lambda _: ctypes.pythonapi)
        quantise._quantiser.cache_clear()
        yield
        quantise._quantiser.cache_clear()

    def test_the_reason_is_said(self, tmp_path: Path, corpus: Corpus) -> None:
        model = wide(depth=1)
        portable = portable_of(model, weights_of(model), corpus.tokenizer)
        with pytest.raises(InputError, match=r"Q._K needs llama\.cpp's quantiser"):
            gguf.write(tmp_path / "x.gguf", portable, "Q4_K_M")
        assert not list(tmp_path.iterdir())
        gguf.write(tmp_path / "x.gguf", portable, "Q8_0")
