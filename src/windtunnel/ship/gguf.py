"""GGUF, the file of llama.cpp, written and read with the `gguf` package.

A model with multipliers is written in Granite's layout, whose graph applies all of them, one with
experts in that of Granite's mixtures, which renormalises the chosen experts' shares as we do; one
with neither is a plain Llama:

| key                  | value                 | what llama.cpp does with it          |
|----------------------|-----------------------|--------------------------------------|
| embedding_scale      | scale_emb             | embedding x it                       |
| residual_scale       | scale_depth / sqrt(L) | each block's output x it             |
| logit_scale          | m = width/base_width  | logits / it: a divisor (paper 10.3)  |
| attention.scale      | 1 / sqrt(head_size)   | scores x it                          |

Rows of query and key are in another order: llama.cpp turns neighbouring pairs, we turn the two
halves of a head.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from windtunnel import quantities
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError, did_you_mean
from windtunnel.model.roles import Multipliers, multipliers
from windtunnel.model.shape import count, tensor_shapes
from windtunnel.recipe import Model
from windtunnel.ship import gguf_vocabulary
from windtunnel.ship.extras import package
from windtunnel.ship.gguf_file import contents
from windtunnel.ship.layouts import with_multipliers

QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
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
# Below 8 bits these keep 8. (The paper's int4, App D, left them unquantised; 8 bits cost them
# next to nothing.)
_TABLES = ("embedding", "head")
# `minicpm` is what llama.cpp wrote before; its files from before the keys existed mean the
# paper's values
_NONE = Multipliers(1.0, 1.0, 0.0, 1.0)
_LAYOUTS = {"llama": _NONE, "granite": _NONE, "granitemoe": _NONE, "minicpm": None}


@dataclass(frozen=True)
class About:
    """What a file says of itself. `context`: the longest sequence that the model was trained on,
    tokens.
    """

    name: str
    context: int
    chat_template: str = ""
    description: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Imported:
    """A model read from a file: `weights` fp32 by our names, `tokenizer` a tokenizer.json."""

    model: Model
    weights: dict[str, Tensor]
    tokenizer: bytes
    about: About


def write(
    model: Model,
    weights: Mapping[str, Tensor],
    tokenizer: Path,
    file: Path,
    quantisation: str,
    about: About,
    encoded: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a model. `weights`: by our names. `encoded`: matrices that are quantised already, as
    bytes, (rows, bytes a row). A row that a quantisation's blocks of 32 do not fill stays 16-bit.
    Raises InputError.
    """
    gguf = package("gguf")
    if quantisation not in QUANTISATIONS:
        expected = ", ".join(QUANTISATIONS)
        raise InputError(
            f"{quantisation}: expected one of {expected}{did_you_mean(quantisation, QUANTISATIONS)}"
        )
    vocabulary = gguf_vocabulary.from_tokenizer(Tokenizer.load(tokenizer), model.vocab)
    if len(vocabulary.tokens) != model.vocab:
        raise InputError(
            f"{tokenizer}: {len(vocabulary.tokens)} tokens, but the model has {model.vocab}"
        )
    scales = multipliers(model)
    plain = (scales.embedding, scales.residual, scales.logits) == (
        1.0,
        1.0,
        1.0,
    ) and not model.experts
    part = file.with_name(f"{file.name}.part")
    try:
        writer = gguf.GGUFWriter(
            part, "llama" if plain else "granitemoe" if model.experts else "granite"
        )
        _write_settings(writer, model, about, quantisation)
        if not plain:
            writer.add_embedding_scale(scales.embedding)
            writer.add_residual_scale(scales.residual)
            writer.add_logit_scale(1 / scales.logits)
            writer.add_attention_scale(scales.attention)
        gguf_vocabulary.write(vocabulary, writer)
        for name in tensor_shapes(model):
            _write_tensor(
                writer, model, name, weights[name], quantisation, (encoded or {}).get(name)
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{file}: could not be written: {error.strerror}") from None


def read(file: Path) -> Imported:
    """A model of Llama's, Granite's, GraniteMoe's or MiniCPM's layout, dequantised. Raises
    InputError for a damaged file, another architecture, a missing tensor or one of a wrong
    shape.
    """
    gguf = package("gguf")
    fields, tensors = contents(file)
    try:
        settings, given, context = _read_settings(fields, tensors)
        vocabulary = gguf_vocabulary.read(fields.__getitem__)
        tokenizer = gguf_vocabulary.to_tokenizer(vocabulary)
    except KeyError as error:
        raise InputError(f"{file}: no metadata {error}") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    try:
        published = with_multipliers(
            Model.model_validate(settings | {"parametrization": "standard"}), given
        )
    except ValidationError as error:
        raise InputError(f"{file}: {error.errors()[0]['msg']}") from None
    weights = {}
    for name, shape in tensor_shapes(published.model).items():
        theirs = _gguf_name(published.model, name)
        found = tensors.pop(theirs, None)
        if found is None:
            raise InputError(f"{file}: tensor {theirs} is missing")
        if (there := tuple(int(n) for n in found.shape[::-1])) != shape:
            raise InputError(f"{file}: tensor {theirs} is {there}; its metadata say {shape}")
        try:
            values = gguf.dequantize(found.data, found.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError:
            kind = found.tensor_type.name
            raise InputError(
                f"{file}: {found.name} is {kind}, which cannot be read; expected F32 or Q8_0"
            ) from None
        weights[name] = torch.from_numpy(
            _unpaired(values.reshape(shape), _rotated_heads(published.model, name)).copy()
        )
    if tensors:
        raise InputError(f"{file}: a tensor that this layout has not: {next(iter(tensors))}")
    about = About(
        fields.get("general.name") or file.stem,
        context,
        fields.get("tokenizer.chat_template") or "",
        fields.get("general.description") or "",
        fields.get("general.license") or "",
    )
    return Imported(published.model, published.exact(weights), tokenizer, about)


def _write_settings(writer: Any, model: Model, about: About, quantisation: str) -> None:
    gguf = package("gguf")
    files = gguf.LlamaFileType
    kind = files.ALL_F32 if quantisation == "F32" else files[f"MOSTLY_{quantisation}"]
    writer.add_name(about.name)
    for text, add in (
        (about.description, writer.add_description),
        (about.licence, writer.add_license),
        (about.chat_template, writer.add_chat_template),
    ):
        if text:
            add(text)
    writer.add_size_label(quantities.about(count(model).params_total).upper())
    writer.add_file_type(int(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(about.context)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.depth)
    writer.add_feed_forward_length(model.ffn)
    if model.experts:
        writer.add_expert_count(model.experts)
        writer.add_expert_used_count(model.experts_per_token)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_rope_dimension_count(model.head_size)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_vocab_size(model.vocab)


def _write_tensor(
    writer: Any,
    model: Model,
    name: str,
    weight: Tensor,
    quantisation: str,
    encoded: np.ndarray | None,
) -> None:
    gguf = package("gguf")
    heads, theirs = _rotated_heads(model, name), _gguf_name(model, name)
    if encoded is not None:
        writer.add_tensor(
            theirs, _paired(encoded, heads), raw_dtype=gguf.GGMLQuantizationType[quantisation]
        )
        return
    values = _paired(weight.detach().float().cpu().numpy(), heads)
    kind = gguf.GGMLQuantizationType[_precision(name, values.shape, quantisation)]
    writer.add_tensor(theirs, gguf.quantize(values, kind), raw_dtype=kind)


def _precision(name: str, shape: tuple[int, ...], quantisation: str) -> str:
    """How one tensor is kept: gains and routers in full, tables with 8 bits at least, 16 bits
    where blocks of 32 do not fit. (llama.cpp never rounds a router: another expert is no small
    error.)
    """
    if len(shape) == 1 or name.endswith(".router"):
        return "F32"
    if not quantisation.startswith("Q"):
        return quantisation
    return "F16" if shape[-1] % 32 else "Q8_0" if name in _TABLES else quantisation


def _gguf_name(model: Model, name: str) -> str:
    names = _NAMES | (_EXPERTS if model.experts else {})
    if not name.startswith("layers."):
        return f"{names[name]}.weight"
    _, index, leaf = name.split(".")
    return f"blk.{index}.{names[leaf]}.weight"


def _rotated_heads(model: Model, name: str) -> int:
    """The heads whose rows change order; 0 where none do."""
    return {"query": model.heads, "key": model.kv_heads}.get(name.rpartition(".")[2], 0)


def _paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows (first half, second half) of each head -> neighbouring pairs."""
    if not heads:
        return np.ascontiguousarray(rows)
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _unpaired(rows: np.ndarray, heads: int) -> np.ndarray:
    """The reverse."""
    if not heads:
        return rows
    return rows.reshape(heads, len(rows) // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _read_settings(
    fields: Mapping[str, Any], tensors: Mapping[str, Any]
) -> tuple[dict[str, Any], Multipliers, int]:
    """The shape as settings of `recipe.Model`, what the graph multiplies by, and the context."""
    layout = fields["general.architecture"]
    if layout not in _LAYOUTS:
        raise InputError(f"architecture '{layout}'; expected one of {', '.join(_LAYOUTS)}")
    scaling = fields.get(f"{layout}.rope.scaling.type", "none")
    if scaling != "none" or any(name.startswith("rope_") for name in tensors):
        raise InputError("RoPE that is scaled with the length; expected plain RoPE")

    def of(key: str, *default: Any) -> Any:
        return fields.get(f"{layout}.{key}", *default) if default else fields[f"{layout}.{key}"]

    width, depth, heads = of("embedding_length"), of("block_count"), of("attention.head_count")
    head_size = of("attention.key_length", width // heads)
    settings = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "kv_heads": of("attention.head_count_kv", heads),
        "head_size": head_size,
        "ffn": of("feed_forward_length"),
        "vocab": len(fields["tokenizer.ggml.tokens"]),
        "tied": "output.weight" not in tensors,
        "rope_base": _short(of("rope.freq_base", 10_000.0)),
        "norm_eps": _short(of("attention.layer_norm_rms_epsilon")),
    }
    if layout == "granitemoe":
        settings |= {"experts": of("expert_count"), "experts_per_token": of("expert_used_count")}
    elif experts := of("expert_count", 0):
        raise InputError(
            f"{experts} experts in architecture '{layout}'; expected them in granitemoe"
        )
    old = _LAYOUTS[layout] or Multipliers(12.0, 1.4 / math.sqrt(depth), 0.0, 256 / width)
    given = Multipliers(
        embedding=_short(of("embedding_scale", old.embedding)),
        residual=_short(of("residual_scale", old.residual) * math.sqrt(depth)) / math.sqrt(depth),
        attention=_near(of("attention.scale", 0.0), 1 / math.sqrt(head_size)),
        logits=_of_width(width, of("logit_scale", 1 / old.logits)),
    )
    return settings, given, of("context_length")


def _near(value: float, usual: float) -> float:
    """The usual value in full precision, where 32 bits of it stand here, or nothing."""
    return usual if not value or math.isclose(value, usual, rel_tol=1e-6) else value


def _of_width(width: int, divisor: float) -> float:
    """1 / divisor as the share of the width that it was, base_width / width, in full precision."""
    return _near(1 / divisor, max(1, round(width / divisor)) / width)


def _short(value: float) -> float:
    """What was typed before it became 32 bits: 1.4, not 1.39999998."""
    return float(f"{value:.7g}")
