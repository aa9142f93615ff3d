"""Folders as Hugging Face tools read them: config.json, safetensors (in shards above a size),
tokenizer files.

Weights are read from safetensors alone: a pickle is a program, and none is ever run.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError, did_you_mean
from windtunnel.recipe import Model
from windtunnel.ship.layouts import Layout, Published, config_of, fold, read_config
from windtunnel.ship.tensor_names import Part, PublishedTensor, our_tensors, published_tensors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHARD_BYTES = 5_000_000_000  # what hubs take at once
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_READ = {"F32": 4, "BF16": 2, "F16": 2}  # bytes a number; integers would be quantised weights
_SKIPPED = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
)  # caches that old checkpoints carry


@dataclass(frozen=True)
class Foreign:
    """A model from elsewhere, by this project's names, as a `stem` is made of it."""

    model: Model
    weights: dict[str, Tensor]  # in the type that they were published in
    context: int
    tokenizer: bytes  # a tokenizer.json
    tokenizer_config: dict[str, Any]
    layout: str
    name: str


def write(
    folder: Path,
    layout: Layout,
    model: Model,
    weights: dict[str, Tensor],
    context: int,
    tokenizer: Tokenizer,
    tokenizer_config: dict[str, Any],
    dtype: str = "fp32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model with its tokenizer into an empty folder. `weights`: fp32, by this project's
    names; they are folded where the layout asks for it, and then rounded to `dtype`.
    """
    if layout == "llama":
        model, weights = fold(model, weights)
    begin, end = special_ids(tokenizer, tokenizer_config)
    config = config_of(layout, model, context, begin, end)
    config["torch_dtype"] = str(DTYPES[dtype]).removeprefix("torch.")
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(begin, end, tokenizer.eos))
    _write_json(folder / "tokenizer_config.json", tokenizer_config | {"model_max_length": context})
    tokenizer.save(folder / "tokenizer.json")
    _write_weights(folder, published_tensors(layout, model), weights, DTYPES[dtype], shard_bytes)


def read(folder: Path) -> Foreign:
    """Read a folder in any of the three layouts. Raises InputError for what is missing, cut,
    misshapen or a pickle, naming the file and the tensor.
    """
    config = _read_json(folder / "config.json")
    published = read_config(config, str(folder / "config.json"))
    weights = published.exact(_read_weights(folder, published))
    try:
        tokenizer = (folder / "tokenizer.json").read_bytes()
    except OSError:
        raise InputError(
            f"{folder}: no tokenizer.json; a tokenizer.model must be converted to one first"
        ) from None
    settings = _tokenizer_config(
        folder, config, Tokenizer(tokenizer, str(folder / "tokenizer.json"))
    )
    name = folder.resolve().name
    return Foreign(
        published.model, weights, published.context, tokenizer, settings, published.layout, name
    )


def special_ids(tokenizer: Tokenizer, tokenizer_config: dict[str, Any]) -> tuple[int | None, int]:
    """The tokens that begin and end a text, by tokenizer_config.json; the end of a document where
    it says nothing.
    """

    def of(role: str) -> int | None:
        token = tokenizer_config.get(f"{role}_token")
        name = token.get("content") if isinstance(token, dict) else token
        return tokenizer.id(name) if name else None

    begin, end = of("bos"), of("eos")
    return begin, tokenizer.eos if end is None else end


def _generation_config(begin: int | None, end: int, document_end: int) -> dict[str, Any]:
    ends = sorted({end, document_end})
    sampling = {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }  # as `windtunnel chat` samples
    return {
        "bos_token_id": begin,
        "eos_token_id": ends if len(ends) > 1 else end,
        "pad_token_id": end,
    } | sampling


def _write_weights(
    folder: Path,
    tensors: dict[str, PublishedTensor],
    weights: dict[str, Tensor],
    dtype: torch.dtype,
    shard_bytes: int,
) -> None:
    sizes = {name: math.prod(tensor.shape) * dtype.itemsize for name, tensor in tensors.items()}
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    files = {}
    for number, names in enumerate(shards, start=1):
        file = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        part = {name: tensors[name].join(weights).detach().to(dtype).contiguous() for name in names}
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(
            (folder / "config.json").stat().st_mode
        )  # it is made for its owner alone
        files |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        _write_json(folder / "model.safetensors.index.json", index)


def _read_weights(folder: Path, published: Published) -> dict[str, Tensor]:
    """Every tensor of the model and no other, by this project's names."""
    files, asked = _files_of(folder), published_tensors(published.layout, published.model)
    spare = [name for name in files if name not in asked and not _SKIPPED.search(name)]
    for name in asked:
        if name not in files:
            raise InputError(f"{folder}: the tensor {name} is missing{did_you_mean(name, spare)}")
    parts: dict[Part, Tensor] = {}
    for name, tensor in _tensors(folder, files):
        if name in asked:
            _check(folder / files[name], name, tensor, asked[name].shape)
            parts |= asked[name].cut(tensor)
        elif name == "lm_head.weight" and published.model.tied:
            spare.remove(name)
            _check_tie(folder / files[name], tensor, parts.get(Part("embedding")))
    if spare:
        raise InputError(
            f"{folder / files[spare[0]]}: {spare[0]}: this architecture has no such tensor"
        )
    return our_tensors(parts, published.model)


def _files_of(folder: Path) -> dict[str, str]:
    """The file of every tensor: by the index of a sharded checkpoint, or of the one file."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = _read_json(index).get("weight_map")
        if not isinstance(files, dict) or any(f != Path(str(f)).name for f in files.values()):
            raise InputError(f"{index}: no weight_map from tensors to files of this folder")
        for file in sorted(set(files.values())):
            if not (folder / file).exists():
                raise InputError(f"{folder / file}: missing; {index.name} names it")
        return files
    file = folder / "model.safetensors"
    if file.exists():
        with _opened(file) as tensors:
            return dict.fromkeys(tensors.keys(), file.name)
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if pickles:
        raise InputError(f"{folder / pickles[0]}: {NO_PICKLE}")
    raise InputError(f"{folder}: no model.safetensors and no model.safetensors.index.json")


NO_PICKLE = "a pickle is a program and is not read; expected safetensors"


def _tensors(folder: Path, files: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, file by file, the embedding before a head that may be tied to it."""
    for file in sorted(set(files.values())):
        with _opened(folder / file) as tensors:
            there = set(tensors.keys())
            asked = [name for name, its in files.items() if its == file]
            for name in sorted(asked, key=lambda name: (not name.startswith("model."), name)):
                if name not in there:
                    raise InputError(
                        f"{folder / file}: the tensor {name} is missing, which the index says is here"
                    )
                if _SKIPPED.search(name):
                    continue
                kind = tensors.get_slice(name).get_dtype()
                if kind not in _READ:
                    raise InputError(
                        f"{folder / file}: {name} is of type {kind}; expected one of {', '.join(_READ)}"
                    )
                yield name, tensors.get_tensor(name)


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a whole safetensors file: {error}") from None


def _check(file: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"{file}: {name} has shape {tuple(tensor.shape)}; config.json asks for {shape}"
        )
    if not torch.isfinite(tensor).all():
        raise InputError(f"{file}: {name} holds numbers that are not finite")


def _check_tie(file: Path, head: Tensor, embedding: Tensor | None) -> None:
    """A head that is stored although it is tied must be the embedding, or one of the two would be
    lost.
    """
    if embedding is None or not torch.equal(head, embedding):
        raise InputError(
            f"{file}: lm_head.weight is not model.embed_tokens.weight, but config.json ties them; "
            "set tie_word_embeddings to false if the head is one of its own"
        )


def _tokenizer_config(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer_config.json without what belongs to another machine, with the chat template of a
    file beside it and the special tokens that only config.json names.
    """
    file, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = _read_json(file) if file.exists() else {"tokenizer_class": "PreTrainedTokenizerFast"}
    for key in ("auto_map", "name_or_path", "tokenizer_file"):
        settings.pop(key, None)
    if template.exists():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    for role in ("bos", "eos"):
        ids = config.get(f"{role}_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if not settings.get(f"{role}_token") and isinstance(first, int) and first < tokenizer.vocab:
            settings[f"{role}_token"] = tokenizer.decode([first])
    return settings


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); expected the folder of a checkpoint"
        ) from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
