"""A GGUF file opened: in parts, in another byte order, and what its metadata may not say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.gguf import model as gguf
from windtunnel.ship.gguf.file import metadata

package = pytest.importorskip("gguf")

from gguf_files import rewritten  # noqa: E402 - it needs gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    model, file = model_of("tied"), tmp_path_factory.mktemp("whole") / "x.gguf"
    gguf.write(file, portable_of(model, weights_of(model), corpus.tokenizer), "F32")
    return file


def refused(file: Path, *says: str) -> None:
    with pytest.raises(InputError) as caught:
        gguf.read(file)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in (file.name, *says)), message


class TestParts:
    """A model in several files, as llama.cpp splits one."""

    @pytest.fixture
    def parts(self, whole: Path, tmp_path: Path) -> list[Path]:
        rewritten(whole, tmp_path / "y.gguf", split_max_tensors=11)
        return sorted(tmp_path.glob("y-*.gguf"))

    def test_they_are_read_as_one(self, parts: list[Path], whole: Path) -> None:
        assert [part.name for part in parts][::2] == [
            "y-00001-of-00003.gguf",
            "y-00003-of-00003.gguf",
        ]
        found, expected = gguf.read(parts[0]), gguf.read(whole)
        assert found.model == expected.model and found.weights.keys() == expected.weights.keys()
        for name, tensor in expected.weights.items():
            assert torch.equal(found.weights[name], tensor)

    def test_the_first_is_asked_for(self, parts: list[Path]) -> None:
        refused(parts[1], "part 2 of the 3 files of a model; expected the first")
        with pytest.raises(InputError, match="part 3 of the 3 files"):
            metadata(parts[2])

    def test_one_that_is_missing_is_named(self, parts: list[Path]) -> None:
        parts[1].unlink()
        with pytest.raises(InputError, match=r"y-00002-of-00003\.gguf: missing; .* in 3 files"):
            gguf.read(parts[0])

    def test_a_part_of_another_model_is_seen(self, parts: list[Path]) -> None:
        parts[1].write_bytes(parts[2].read_bytes())
        refused(parts[0], "its parts hold", "tensors, of 29")

    def test_a_first_part_by_another_name(self, parts: list[Path]) -> None:
        renamed = parts[0].rename(parts[0].with_name("model.gguf"))
        refused(renamed, "first of the 3 files", "NAME-00001-of-00003.gguf")


def test_the_other_byte_order_is_refused(whole: Path, tmp_path: Path) -> None:
    file = rewritten(whole, tmp_path / "y.gguf", endianess=package.GGUFEndian.BIG)
    refused(file, "big-endian", "gguf-convert-endian")
    with pytest.raises(InputError, match="big-endian"):
        metadata(file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(value: float, whole: Path, tmp_path: Path) -> None:
    def spoil(name: str, values: np.ndarray) -> np.ndarray:
        if name == "blk.1.ffn_up.weight":
            values[3, 5] = value
        return values

    refused(
        rewritten(whole, tmp_path / "y.gguf", tensors=spoil),
        "blk.1.ffn_up.weight holds numbers that are not finite",
    )


def test_a_block_whose_scale_is_none_is_refused(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "y.gguf"
    gguf.write(file, gguf.read(whole), "Q8_0")
    content = bytearray(file.read_bytes())
    tensors = {tensor.name: tensor for tensor in package.GGUFReader(file).tensors}
    at = tensors["blk.0.ffn_down.weight"].data_offset
    content[at : at + 2] = np.array([np.inf], np.float16).tobytes()
    file.write_bytes(content)
    refused(file, "blk.0.ffn_down.weight holds numbers that are not finite")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("granite.attention.head_count", [4, 4, 4], "attention.head_count: expected a whole"),
        ("granite.attention.head_count", 0, "attention.head_count: expected a whole number above"),
        ("granite.rope.freq_base", float("nan"), "rope.freq_base: expected a number above zero"),
        ("granite.embedding_scale", float("inf"), "embedding_scale: expected a number above zero"),
        ("granite.logit_scale", "16", "logit_scale: expected a number above zero, got '16'"),
        ("granite.block_count", 1 << 30, "block_count 1073741824, but there are"),
        ("granite.context_length", None, "context_length: missing"),
        ("granite.rope.dimension_count", 8, "rope.dimension_count 8: RoPE over a part of a head"),
        ("granite.rope.scaling.type", "longrope", "'longrope': expected one of none, linear, yarn"),
        ("tokenizer.ggml.tokens", 3, "tokens: Input should be"),
        ("tokenizer.ggml.model", ["gpt2"], "of kind '['gpt2']'; expected 'gpt2'"),
        ("split.count", "two", "split.count: expected a whole number above zero, got 'two'"),
        ("split.no", "one", "split.no: expected a whole number above zero, got 'one'"),
        ("tokenizer.ggml.token_type", [1, 1], "token_type has 2 kinds for 320 tokens"),
        ("tokenizer.ggml.merges", [1, 2], "merges.0: Input should be a valid string"),
        ("tokenizer.ggml.bos_token_id", 400, "bos_token_id: 400, of 320 tokens"),
        ("tokenizer.ggml.eos_token_id", 320, "eos_token_id: 320, of 320 tokens"),
        ("tokenizer.ggml.eos_token_id", None, "no metadata 'tokenizer.ggml.eos_token_id'"),
    ],
)
def test_metadata_that_cannot_be_are_refused(
    name: str, value: Any, says: str, whole: Path, tmp_path: Path
) -> None:
    refused(rewritten(whole, tmp_path / "y.gguf", {name: value}), says)


def test_one_name_for_two_tokens_is_refused(whole: Path, tmp_path: Path) -> None:
    tokens = metadata(whole)["tokenizer.ggml.tokens"]
    tokens[300] = tokens[299]
    file = rewritten(whole, tmp_path / "y.gguf", {"tokenizer.ggml.tokens": tokens})
    refused(file, "is token 299 and token 300")


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ("blk.0.attn_q.bias", "not supported: biases"),
        ("blk.0.attn_q_norm.weight", "not supported: norms of query and key (QK-norm)"),
        ("rope_factors_long.weight", "not supported: RoPE that is scaled with the length"),
    ],
)
def test_a_part_that_is_not_supported_is_named(
    tensor: str, says: str, whole: Path, tmp_path: Path
) -> None:
    names = {"output_norm.weight": tensor}
    refused(rewritten(whole, tmp_path / "y.gguf", names=names), tensor, says)


@pytest.mark.parametrize(
    ("name", "says"), [("qwen2", "a Llama with biases"), ("qwen3", "a Llama with norms of query")]
)
def test_an_architecture_that_is_nearly_a_llama(
    name: str, says: str, whole: Path, tmp_path: Path
) -> None:
    file = rewritten(whole, tmp_path / "y.gguf", architecture=name)
    refused(file, f"architecture '{name}'", says, "expected one of llama")
