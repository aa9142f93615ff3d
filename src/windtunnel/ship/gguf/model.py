"""A model as GGUF, the file of llama.cpp, written and read with the `gguf` package.

A model with multipliers is written as Granite, whose graph applies all of them. One with experts is
written as GraniteMoe, which makes the shares of the chosen experts sum to 1, as we do. One with
neither is a plain Llama.

| key                  | value                 | what llama.cpp does with it          |
|----------------------|-----------------------|--------------------------------------|
| embedding_scale      | scale_emb             | embedding x it                       |
| residual_scale       | scale_depth / sqrt(L) | each block's output x it             |
| logit_scale          | m = width/base_width  | logits / it: a divisor (paper 10.3)  |
| attention.scale      | 1 / sqrt(head_size)   | scores x it                          |

The rows of query and key are in another order: llama.cpp turns neighbouring pairs, and we turn the
two halves of a head.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from windtunnel import quantities
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.model.roles import Multipliers, multipliers
from windtunnel.model.shape import count, tensor_shapes
from windtunnel.recipe import Model
from windtunnel.ship import missing_parts
from windtunnel.ship.fields import Fields
from windtunnel.ship.gguf import marks, rope
from windtunnel.ship.gguf import vocabulary as tokens
from windtunnel.ship.gguf.file import contents
from windtunnel.ship.gguf.quantise import quantised, type_of
from windtunnel.ship.multipliers import scaled, with_multipliers
from windtunnel.ship.packages import package
from windtunnel.ship.portable import PortableModel

_NAMES = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_EXPERTS = {
    "router": "ffn_gate_inp",
    "gate": "ffn_gate_exps",
    "up": "ffn_up_exps",
    "down": "ffn_down_exps",
}
# What is read. llama.cpp wrote `minicpm` before it had granite.
_ARCHITECTURES = ("llama", "granite", "granitemoe", "minicpm")


def write(
    file: Path,
    portable: PortableModel,
    dtype: str,
    encoded: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a model with its matrices in `dtype`, such as Q8_0 or Q4_K_M, so that the file appears
    whole. A matrix whose rows are not whole blocks of 32 stays in 16 bits. Raises InputError.

    `encoded`: matrices that are quantised already, by our names, as bytes: (rows, bytes a row), or
    (experts, rows, bytes a row).
    """
    gguf = package("gguf")
    model = portable.model
    rope.check(model, portable.context)
    vocabulary = tokens.from_tokenizer(portable.tokenizer, model.vocab)
    if len(vocabulary.tokens) != model.vocab:
        tokens_there = len(vocabulary.tokens)
        raise InputError(
            f"gguf: the tokenizer has {tokens_there} tokens, but the model has {model.vocab}"
        )
    # Written beside its place, so that a reader never sees half of a file.
    part = file.with_name(f"{file.name}.part")
    try:
        writer = gguf.GGUFWriter(part, _architecture_of(model))
        _write_settings(writer, portable, dtype)
        tokens.write(vocabulary, writer)
        marks.write(portable, writer)
        if (divisors := rope.divisors(model)) is not None:
            writer.add_tensor(rope.DIVISORS, divisors)
        for name in tensor_shapes(model):
            if encoded and name in encoded:
                _write_encoded(writer, model, name, encoded[name], dtype)
            else:
                _write_tensor(writer, model, name, portable.weights[name], dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        # numpy says how much of an array it has written, and not what stopped it
        reason = error.strerror or f"is the disk full? ({error})"
        raise InputError(f"{file}: could not be written: {reason}") from None


def read(file: Path) -> PortableModel:
    """A model of the architecture llama, granite, granitemoe or minicpm, dequantised to fp32.
    Raises InputError for a damaged file, another architecture, and a tensor that is missing, of a
    wrong shape, unknown or not finite.
    """
    fields, tensors = contents(file)
    try:
        name = _read_architecture(fields["general.architecture"], tensors)
        own = Fields(_of_architecture(fields, name), name)
        settings = _read_settings(name, own, tensors)
        given = _read_multipliers(name, own, settings)
        context = own.whole("context_length")
        vocabulary = tokens.read(fields.__getitem__)
        tokenizer = tokens.to_tokenizer(vocabulary, *marks.around(fields))
        tokenizer_config, generation_config = marks.read(fields)
    except KeyError as error:
        raise InputError(f"{file}: no metadata {error}") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    settings |= {"vocab": len(vocabulary.tokens), "parametrization": "standard"}
    try:
        model, factors = with_multipliers(Model.model_validate(settings), given)
    except ValidationError as error:
        raise InputError(f"{file}: {error.errors()[0]['msg']}") from None
    return PortableModel(
        name=fields.get("general.name") or file.stem,
        model=model,
        weights=scaled(_read_tensors(file, model, tensors), factors),
        context=context,
        tokenizer=Tokenizer(tokenizer, str(file), tokenizer_config.get("eos_token")),
        tokenizer_config=tokenizer_config,
        generation_config=generation_config,
    )


def _architecture_of(model: Model) -> str:
    """The simplest architecture whose graph computes the model."""
    if model.experts:
        return "granitemoe"
    m = multipliers(model)
    return "llama" if (m.embedding, m.residual, m.logits) == (1.0, 1.0, 1.0) else "granite"


def _write_settings(writer: Any, portable: PortableModel, dtype: str) -> None:
    gguf = package("gguf")
    files = gguf.LlamaFileType
    model, m = portable.model, multipliers(portable.model)
    settings: dict[str, Any] = {
        "name": portable.name,
        "size_label": quantities.about(count(model).params_total).upper(),
        "file_type": int(files.ALL_F32 if dtype == "F32" else files[f"MOSTLY_{dtype}"]),
        "quantization_version": gguf.GGML_QUANT_VERSION,
        "context_length": portable.context,
        "embedding_length": model.width,
        "block_count": model.depth,
        "feed_forward_length": model.ffn,
        "expert_count": model.experts,
        "expert_used_count": model.experts_per_token,
        "head_count": model.heads,
        "head_count_kv": model.kv_heads,
        "key_length": model.head_size,
        "value_length": model.head_size,
        "rope_dimension_count": model.head_size,
        **rope.written(model),
        "layer_norm_rms_eps": model.norm_eps,
        "vocab_size": model.vocab,
        "embedding_scale": m.embedding,
        "residual_scale": m.residual,
        "logit_scale": 1 / m.logits,
        "attention_scale": m.attention,
    }
    # A file says nothing of what the model does not have.
    unsaid = set() if model.experts else {"expert_count", "expert_used_count"}
    if _architecture_of(model) == "llama":
        unsaid |= {name for name in settings if name.endswith("_scale")}
    for name, value in settings.items():
        if name not in unsaid:
            getattr(writer, f"add_{name}")(value)


def _write_encoded(writer: Any, model: Model, name: str, blocks: np.ndarray, dtype: str) -> None:
    kind = package("gguf").GGMLQuantizationType[dtype]
    rows = _paired(blocks, _rotated_heads(model, name))
    writer.add_tensor(_gguf_name(model, name), rows, raw_dtype=kind)


def _write_tensor(writer: Any, model: Model, name: str, weight: Tensor, dtype: str) -> None:
    values = _paired(weight.detach().float().cpu().numpy(), _rotated_heads(model, name))
    kind = type_of(model, name, values.shape, dtype)
    raw = package("gguf").GGMLQuantizationType[kind]
    writer.add_tensor(_gguf_name(model, name), quantised(values, kind), raw_dtype=raw)


def _gguf_name(model: Model, name: str) -> str:
    """`layers.3.query` -> `blk.3.attn_q.weight`."""
    names = _NAMES | (_EXPERTS if model.experts else {})
    if not name.startswith("layers."):
        return f"{names[name]}.weight"
    _, index, leaf = name.split(".")
    return f"blk.{index}.{names[leaf]}.weight"


def _rotated_heads(model: Model, name: str) -> int:
    """How many heads a tensor has whose rows change order; 0 where none do."""
    return {"query": model.heads, "key": model.kv_heads}.get(name.rpartition(".")[2], 0)


def _paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head from (first half, second half) to neighbouring pairs."""
    if not heads:
        return np.ascontiguousarray(rows)
    # (heads, 2, half, in): rows j and j + half of each head become neighbours
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _unpaired(rows: np.ndarray, heads: int) -> np.ndarray:
    """The reverse of `_paired`."""
    if not heads:
        return rows
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _read_tensors(file: Path, model: Model, tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor of the model and no other, by our names, in fp32. Raises InputError."""
    weights = {}
    for name, shape in tensor_shapes(model).items():
        theirs = _gguf_name(model, name)
        found = tensors.pop(theirs, None)
        if found is None:
            raise InputError(f"{file}: tensor {theirs} is missing")
        # GGUF lists the fastest dimension first
        there = tuple(int(n) for n in found.shape[::-1])
        if there != shape:
            raise InputError(f"{file}: tensor {theirs} is {there}; its metadata say {shape}")
        values = _dequantised(file, found).reshape(shape)
        if not np.isfinite(values).all():
            raise InputError(f"{file}: {theirs} holds numbers that are not finite")
        # a copy, because the file stays mapped while its memory is looked at
        weights[name] = torch.from_numpy(_unpaired(values, _rotated_heads(model, name)).copy())
    if tensors:
        name = next(iter(tensors))
        raise InputError(f"{file}: {name}: this architecture has no such tensor")
    return weights


def _dequantised(file: Path, tensor: Any) -> np.ndarray:
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # what comes out is looked at
            values = package("gguf").dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise InputError(
            f"{file}: {tensor.name} is {kind}, which cannot be read; expected F32 or Q8_0"
        ) from None
    return values.astype(np.float32, copy=False)


def _read_architecture(name: str, tensors: Mapping[str, Any]) -> str:
    """The architecture that a file names. Raises InputError for one that is not read, and for
    parts that no architecture here has.
    """
    if name not in _ARCHITECTURES:
        has = missing_parts.of_architecture(name)
        expected = f"expected one of {', '.join(_ARCHITECTURES)}"
        raise InputError(f"architecture '{name}'{has}; {expected}")
    for tensor in tensors:
        if part := missing_parts.of_tensor(tensor):
            raise InputError(f"{tensor}: not supported: {part}")
    return name


def _of_architecture(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The metadata of this architecture, such as `granite.block_count`, without its name."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in fields.items()
        if key.startswith(f"{name}.")
    }


def _read_settings(name: str, own: Fields, tensors: dict[str, Any]) -> dict[str, Any]:
    """The shape as settings of `recipe.Model`, without the vocabulary; takes RoPE's tensor out of
    the others. Raises InputError.
    """
    if name != "granitemoe" and (experts := own.config.get("expert_count")):
        raise InputError(f"{experts} experts in architecture '{name}'; expected them in granitemoe")
    width = own.whole("embedding_length")
    heads = own.whole("attention.head_count")
    depth = own.whole("block_count")
    if depth > len(tensors):  # before their names are listed
        raise InputError(f"{own.where}: block_count {depth}, but there are {len(tensors)} tensors")
    settings = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "kv_heads": own.whole("attention.head_count_kv", heads),
        "head_size": own.whole("attention.key_length", width // heads),
        "ffn": own.whole("feed_forward_length"),
        # llama.cpp takes the embedding for a head that is missing
        "tied": "output.weight" not in tensors,
        "norm_eps": rope.short(own.number("attention.layer_norm_rms_epsilon")),
    }
    divided = tensors.pop(rope.DIVISORS, None)
    settings |= rope.read(own, settings["head_size"], None if divided is None else divided.data)
    turned = own.whole("rope.dimension_count", settings["head_size"])
    if turned != settings["head_size"]:
        raise InputError(
            f"{own.where}: rope.dimension_count {turned}: RoPE over a part of a head, of "
            f"{settings['head_size']}, is not supported"
        )
    if name == "granitemoe":
        settings["experts"] = own.whole("expert_count")
        settings["experts_per_token"] = own.whole("expert_used_count")
    return settings


def _read_multipliers(architecture: str, own: Fields, settings: Mapping[str, Any]) -> Multipliers:
    """What the graph multiplies by, in the precision that it had before it became 32 bits. Raises
    InputError.

    Where a file names no multiplier there is none, but for `minicpm`: llama.cpp's old files of it
    mean the values of the paper.
    """
    width, depth = settings["width"], settings["depth"]
    unsaid = (1.0, 1.0, 1.0)
    if architecture == "minicpm":
        unsaid = (12.0, 1.4 / math.sqrt(depth), width / 256)
    embedding, residual, divisor = unsaid
    residual = own.number("residual_scale", residual)
    divisor = own.number("logit_scale", divisor)
    # A recipe says scale_depth, and the file scale_depth / sqrt(L) in 32 bits: what was typed is
    # found again before the division.
    scale_depth = rope.short(residual * math.sqrt(depth))
    usual = 1 / math.sqrt(settings["head_size"])
    base_width = max(1, round(width / divisor))
    # llama.cpp takes a zero for unsaid
    attention = own.number("attention.scale") if own.config.get("attention.scale") else usual
    return Multipliers(
        embedding=rope.short(own.number("embedding_scale", embedding)),
        residual=scale_depth / math.sqrt(depth),
        attention=_near(attention, usual),
        logits=_near(1 / divisor, base_width / width),
    )


def _near(value: float, usual: float) -> float:
    """The usual value in full precision where `value` is 32 bits of it."""
    return usual if math.isclose(value, usual, rel_tol=1e-6) else value
