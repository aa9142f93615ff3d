"""Folders as Hugging Face tools read them: config.json, safetensors (in shards above a size) and
the tokenizer's files.

Weights are read from safetensors alone: a pickle is a program, and none is ever run.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError, did_you_mean
from windtunnel.recipe import Model
from windtunnel.ship import missing_parts
from windtunnel.ship.huggingface.architectures import Architecture
from windtunnel.ship.huggingface.config import config_of, read_config
from windtunnel.ship.huggingface.tensors import (
    Part,
    PublishedTensor,
    our_tensors,
    published_tensors,
)
from windtunnel.ship.marks import mark_ids, marks_of, named_marks, token_name
from windtunnel.ship.multipliers import fold, scaled
from windtunnel.ship.portable import PortableModel

SHARD_BYTES = 5_000_000_000  # the largest file that hubs take in one piece
NO_PICKLE = "a pickle is a program and is not read; expected safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_READ = ("F32", "BF16", "F16")  # types that are read; integers would be quantised weights
# Caches that old checkpoints carry beside their weights.
_CACHES = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}  # as `windtunnel chat` samples


def write(
    folder: Path,
    architecture: Architecture,
    portable: PortableModel,
    dtype: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model with its tokenizer into an empty folder. Its weights are folded where the
    architecture asks for it, and then rounded to `dtype`.
    """
    # Folded in fp32, and rounded only then.
    model, weights = portable.model, portable.weights
    if architecture.folds:
        model, weights = fold(model, weights)
    context, tokenizer = portable.context, portable.tokenizer
    ids = mark_ids(portable.marks)
    config = config_of(architecture, model, context) | ids
    config["torch_dtype"] = str(_DTYPES[dtype]).removeprefix("torch.")
    _write_json(folder / "config.json", config)
    generation = portable.generation_config or _SAMPLING
    _write_json(folder / "generation_config.json", {**generation, **ids})
    settings = named_marks(portable.marks, tokenizer, portable.tokenizer_config)
    _write_json(folder / "tokenizer_config.json", settings | {"model_max_length": context})
    tokenizer.save(folder / "tokenizer.json")
    tensors = published_tensors(architecture, model)
    _write_weights(folder, tensors, weights, _DTYPES[dtype], shard_bytes)


def read(folder: Path, architectures: Sequence[Architecture]) -> PortableModel:
    """Read a folder of one of these architectures. Raises InputError that names the file and the
    tensor for what is missing, cut off, misshapen or a pickle.
    """
    config = config_in(folder)
    found = read_config(config, architectures, str(folder / "config.json"))
    weights = _read_weights(folder, found.architecture, found.model)
    file = folder / "tokenizer.json"
    if not file.exists():
        raise InputError(
            f"{folder}: no tokenizer.json; a tokenizer.model must be converted to one first"
        )
    settings, generation = _read_tokenizer_config(folder), _read_generation_config(folder, config)
    tokenizer = _read_tokenizer(file, settings, generation)
    try:
        marks = marks_of(tokenizer, settings, generation)
    except InputError as error:
        raise InputError(f"{folder / 'tokenizer_config.json'}: {error}") from None
    return PortableModel(
        name=folder.resolve().name,
        model=found.model,
        weights=scaled(weights, found.factors),
        context=found.context,
        tokenizer=tokenizer,
        # tokens that only the other files name get their names here
        tokenizer_config=named_marks(marks, tokenizer, settings),
        generation_config=generation,
    )


def config_in(folder: Path) -> dict[str, Any]:
    """What the folder's config.json says. Raises InputError."""
    return _read_json(folder / "config.json")


def _write_weights(
    folder: Path,
    tensors: dict[str, PublishedTensor],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    shard_bytes: int,
) -> None:
    """model.safetensors, or shards of about `shard_bytes` with an index."""
    sizes = {name: math.prod(tensor.shape) * dtype.itemsize for name, tensor in tensors.items()}
    shards = _shards(sizes, shard_bytes)
    mode = (folder / "config.json").stat().st_mode
    files: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        part = {name: tensors[name].join(weights).detach().to(dtype).contiguous() for name in names}
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(mode)  # safetensors makes it for its owner alone
        files |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """The names in their order, in lists whose sizes add up to `most` bytes or less, unless one
    alone is larger.
    """
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > most:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _read_weights(folder: Path, architecture: Architecture, model: Model) -> dict[str, Tensor]:
    """Every tensor of the model and no other, by this project's names."""
    files = _files_of(folder)
    # Before the names of a million layers or experts are listed.
    apart = any("*" in name for name in architecture.expert_tensors.values())
    least = model.depth * max(1, model.experts if apart else 1)
    if least > len(files):
        raise InputError(f"{folder}: {len(files)} tensors are too few for {model.depth} layers")
    asked = published_tensors(architecture, model)
    spare = [name for name in files if name not in asked and not _CACHES.search(name)]
    for name in asked:
        if name not in files:
            raise InputError(f"{folder}: the tensor {name} is missing{did_you_mean(name, spare)}")
    # Every tensor is cut into the parts that are ours as it is read, so that no more than one is
    # in memory twice.
    parts: dict[Part, Tensor] = {}
    for name, tensor in _tensors(folder, files):
        if name in asked:
            _check(folder / files[name], name, tensor, asked[name].shape)
            parts |= asked[name].cut(tensor)
        elif name == "lm_head.weight" and model.tied:
            spare.remove(name)
            _check_tie(folder / files[name], tensor, parts.get(Part("embedding")))
    if spare:
        part = missing_parts.of_tensor(spare[0])
        fault = f"not supported: {part}" if part else "this architecture has no such tensor"
        raise InputError(f"{folder / files[spare[0]]}: {spare[0]}: {fault}")
    return our_tensors(parts, model)


def _files_of(folder: Path) -> dict[str, str]:
    """The file of every tensor: by the index of a sharded checkpoint, or of the one file."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = _read_json(index).get("weight_map")
        # a name with a folder in it could point anywhere
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


def _tensors(folder: Path, files: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, file by file; the embedding comes before a head that may be tied to it."""
    for file in sorted(set(files.values())):
        with _opened(folder / file) as tensors:
            there = set(tensors.keys())
            asked = [name for name, its in files.items() if its == file]
            # `lm_head` sorts before `model.`, and must come after the embedding
            for name in sorted(asked, key=lambda name: (not name.startswith("model."), name)):
                where = folder / file
                if name not in there:
                    raise InputError(
                        f"{where}: the tensor {name} is missing; the index says that it is here"
                    )
                if _CACHES.search(name):
                    continue
                kind = tensors.get_slice(name).get_dtype()
                if kind not in _READ:
                    expected = f"expected one of {', '.join(_READ)}"
                    raise InputError(f"{where}: {name} is of type {kind}; {expected}")
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


def _read_tokenizer(
    file: Path, settings: Mapping[str, Any], generation: Mapping[str, Any]
) -> Tokenizer:
    """tokenizer.json, with the end that the folder names for it."""
    ids = generation.get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    named = token_name(settings, "eos") or (first if isinstance(first, int) else None)
    return Tokenizer(file.read_bytes(), str(file), named)


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json without what belongs to another machine, with the chat template of a
    file beside it, and special tokens that only special_tokens_map.json names.
    """
    file, named = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    template = folder / "chat_template.jinja"
    settings = _read_json(file) if file.exists() else {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokens = _read_json(named) if named.exists() else {}
    for key in ("bos_token", "eos_token", "pad_token"):
        if not settings.get(key) and tokens.get(key):
            settings[key] = tokens[key]
    # code to run, and paths on the machine of whoever published it
    for key in ("auto_map", "name_or_path", "tokenizer_file"):
        settings.pop(key, None)
    if template.exists():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    return settings


def _read_generation_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json; where there is none, what config.json says of the tokens."""
    file = folder / "generation_config.json"
    if not file.exists():
        keys = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {key: config[key] for key in keys if config.get(key) is not None}
    settings = _read_json(file)
    # of the version and the file that it was made with
    for key in ("transformers_version", "_from_model_config"):
        settings.pop(key, None)
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
