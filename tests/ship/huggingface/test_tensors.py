"""How published tensors are cut into ours, file by file, and what a folder may hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ship_models import SHAPES, model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import tensor_shapes
from windtunnel.ship.huggingface.architectures import GRANITE, GRANITE_MOE, MINICPM
from windtunnel.ship.huggingface.folder import _shards, config_in, read, write
from windtunnel.ship.huggingface.tensors import Part, our_tensors, published_tensors

ALL = (GRANITE, GRANITE_MOE, MINICPM)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ALL, ids=lambda one: one.name)
def test_what_is_joined_is_cut_into_the_same_tensors(shape: str, architecture: Any) -> None:
    model = model_of(shape)
    if architecture.refusal(model):
        return
    weights = weights_of(model)
    parts: dict[Part, torch.Tensor] = {}
    for published in published_tensors(architecture, model).values():
        joined = published.join(weights)
        assert tuple(joined.shape) == published.shape
        parts |= published.cut(joined)
    again = our_tensors(parts, model)
    assert list(again) == list(tensor_shapes(model)) and not parts, "none is held twice"
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_experts_are_one_tensor_or_many() -> None:
    model = model_of("experts")
    weights = weights_of(model)
    granite, minicpm = (published_tensors(one, model) for one in (GRANITE_MOE, MINICPM))
    both = granite["model.layers.1.block_sparse_moe.input_linear.weight"]
    assert both.shape == (8, 2 * 96, 64), "the rows of gate, and below them those of up"
    joined = both.join(weights)
    assert torch.equal(joined[:, :96], weights["layers.1.gate"])
    assert torch.equal(joined[:, 96:], weights["layers.1.up"])
    one = minicpm["model.layers.1.mlp.experts.3.w2.weight"]
    assert one.shape == (64, 96)
    assert torch.equal(one.join(weights), weights["layers.1.down"][3])
    assert "model.layers.1.mlp.experts.7.w1.weight" in minicpm
    assert "model.layers.1.mlp.experts.8.w1.weight" not in minicpm
    assert minicpm["model.layers.0.mlp.gate.weight"].parts == (Part("layers.0.router"),)
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(granite)


@pytest.mark.parametrize(
    ("sizes", "most", "shards"),
    [
        ([3, 3, 3], 9, ["abc"]),
        ([3, 3, 3], 8, ["ab", "c"]),
        ([3, 3, 3], 6, ["ab", "c"]),
        ([3, 3, 3], 5, ["a", "b", "c"]),
        ([9, 1, 1], 5, ["a", "bc"]),
        ([1, 9, 1], 5, ["a", "b", "c"]),
    ],
)
def test_shards_hold_as_much_as_they_may(sizes: list[int], most: int, shards: list[str]) -> None:
    found = _shards(dict(zip("abc", sizes, strict=False)), most)
    assert ["".join(names) for names in found] == shards


@pytest.fixture
def folder(tmp_path: Path, corpus: Corpus) -> Path:
    model = model_of("tied")
    portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
    made = tmp_path / "x"
    made.mkdir()
    write(made, GRANITE, portable, "fp32", shard_bytes=200_000)
    return made


def changed(folder: Path, file: str, **content: Any) -> None:
    path = folder / file
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | content))


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def test_a_sharded_folder_is_indexed_whole(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    model = model_of("tied")
    weights = weights_of(model)
    assert index["metadata"]["total_size"] == 4 * sum(one.numel() for one in weights.values())
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    for file in shards:
        there = load_file(file)
        assert {name for name, its in index["weight_map"].items() if its == file.name} == set(there)
        assert sum(one.numel() * 4 for one in there.values()) <= 200_000
        assert file.stat().st_mode == (folder / "config.json").stat().st_mode
    again = read(folder, ALL)
    assert all(torch.equal(again.weights[name], weights[name]) for name in weights)


def test_ids_and_names_of_marks_are_in_their_files(folder: Path, corpus: Corpus) -> None:
    config = config_in(folder)
    end = corpus.tokenizer.eos
    assert (config["eos_token_id"], config["torch_dtype"]) == (end, "float32")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["temperature"], generation["top_p"]) == (
        True,
        0.8,
        0.95,
    )
    assert generation["eos_token_id"] == end
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|end|>" and settings["model_max_length"] == 64


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("no index", "no model.safetensors and no model.safetensors.index.json"),
        ("a pickle", "pytorch_model.bin: a pickle is a program and is not read"),
        ("a file elsewhere", "no weight_map from tensors to files of this folder"),
        ("a missing file", r"gone\.safetensors: missing; model\.safetensors\.index\.json names it"),
        ("a missing tensor", r"the tensor model\.norm\.weight is missing"),
        ("one that is not where it should be", "is missing; the index says that it is here"),
        ("a spare tensor", r"other\.weight: this architecture has no such tensor"),
        ("biases", r"q_proj\.bias: not supported: biases"),
        ("integers", "is of type I8; expected one of F32, BF16, F16"),
        ("not finite", "holds numbers that are not finite"),
        ("a shape", r"has shape \(2, 2\); config\.json asks for"),
        ("a head", r"lm_head\.weight is not model\.embed_tokens\.weight, but config\.json ties"),
        ("cut off", "not a whole safetensors file"),
        ("layers", r"tensors are too few for 1000 layers"),
        ("no tokenizer", r"no tokenizer\.json; a tokenizer\.model must be converted"),
        ("no object", r"config\.json: expected a JSON object"),
        ("no json", r"config\.json: not JSON"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder: Path, fault: str, says: str) -> None:
    index = folder / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    shard = first_shard(folder)
    held = load_file(shard)
    norm = folder / files["model.norm.weight"]

    def put(**tensors: torch.Tensor) -> None:
        """Tensors more, in the first file and in the index."""
        save_file(held | tensors, shard, metadata={"format": "pt"})
        changed(folder, index.name, weight_map=files | dict.fromkeys(tensors, shard.name))

    embedding = "model.embed_tokens.weight"
    if fault in ("no index", "a pickle"):
        index.unlink()
        if fault == "a pickle":
            (folder / "pytorch_model.bin").write_bytes(b"x")
    elif fault == "a file elsewhere":
        changed(folder, index.name, weight_map=files | {embedding: "../x.safetensors"})
    elif fault == "a missing file":
        changed(folder, index.name, weight_map=files | {embedding: "gone.safetensors"})
    elif fault == "a missing tensor":
        del files["model.norm.weight"]
        changed(folder, index.name, weight_map=files)
    elif fault == "one that is not where it should be":
        left = {k: v for k, v in load_file(norm).items() if k != "model.norm.weight"}
        save_file(left, norm)
    elif fault == "a spare tensor":
        put(**{"other.weight": torch.ones(2)})
    elif fault == "biases":
        put(**{"model.layers.0.self_attn.q_proj.bias": torch.ones(2)})
    elif fault == "integers":
        put(**{embedding: held[embedding].to(torch.int8)})
    elif fault == "not finite":
        put(**{embedding: held[embedding] * torch.inf})
    elif fault == "a shape":
        put(**{embedding: torch.ones(2, 2)})
    elif fault == "a head":
        put(**{"lm_head.weight": held[embedding] + 1})
    elif fault == "cut off":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif fault == "layers":
        changed(folder, "config.json", num_hidden_layers=1000)
    elif fault == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif fault == "no object":
        (folder / "config.json").write_text("[]")
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=says):
        read(folder, ALL)


def test_a_head_that_is_the_embedding_and_caches_of_old_checkpoints_are_taken(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    shard = first_shard(folder)
    held = load_file(shard)
    more = {
        "lm_head.weight": held["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2, dtype=torch.float64),
    }
    save_file(held | more, shard, metadata={"format": "pt"})
    changed(folder, index.name, weight_map=files | dict.fromkeys(more, shard.name))
    found = read(folder, ALL)
    assert found.model.tied and "head" not in found.weights


def test_what_other_files_say_of_the_tokenizer(folder: Path) -> None:
    """Tokens that only special_tokens_map.json names, a template in a file of its own, and nothing
    of another machine.
    """
    (folder / "chat_template.jinja").write_text("by file")
    settings = {"auto_map": {"x": "y"}, "name_or_path": "/home/x", "eos_token": None}
    changed(folder, "tokenizer_config.json", chat_template="inside", **settings)
    changed(folder, "special_tokens_map.json", eos_token="<|end|>", pad_token="<|user|>")
    changed(folder, "generation_config.json", transformers_version="4", _from_model_config=True)
    found = read(folder, ALL)
    assert found.chat_template == "by file"
    assert found.tokenizer_config["eos_token"] == "<|end|>"
    assert found.tokenizer_config["pad_token"] == "<|user|>"
    assert not {"auto_map", "name_or_path", "tokenizer_file"} & set(found.tokenizer_config)
    assert not {"transformers_version", "_from_model_config"} & set(found.generation_config)
    (folder / "generation_config.json").unlink()
    again = read(folder, ALL)
    config = config_in(folder)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert again.generation_config == {k: config[k] for k in keys if config.get(k) is not None}
    (folder / "tokenizer_config.json").unlink()
    bare = read(folder, ALL)
    assert bare.tokenizer_config["tokenizer_class"] == "PreTrainedTokenizerFast"
