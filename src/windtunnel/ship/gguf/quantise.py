"""In which type a matrix is kept in a GGUF file, and its numbers in that type.

Types of blocks of 32 numbers come from the `gguf` package. Those of 256 numbers in smaller groups
(K-quants) need a search for the best scales, which is llama.cpp's own code: xllamacpp hands it out.
A file of K-quants is a mixture, by llama.cpp's rules (src/llama-quant.cpp): Q4_K_M keeps half of
the value and down matrices in six bits, and the head too.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.recipe import Model
from windtunnel.ship.packages import package

BLOCK = 32  # numbers that are quantised together, and share a scale
_SUPER_BLOCK = 256  # the same of a K-quant
# These keep 8 bits where the matrices have fewer. The paper's int4 (appendix D) left them
# unquantised; 8 bits cost them next to nothing.
_TABLES = ("embedding", "head")
# The type of most matrices of a mixture.
_MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K"}
# What llama.cpp takes where rows are not whole blocks of 256, but of 32.
_SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_EIGHT_EXPERTS = {"value": "Q8_0", "key": "Q8_0"}


def type_of(model: Model, name: str, shape: tuple[int, ...], dtype: str) -> str:
    """How one tensor is kept in a file of `dtype`, such as Q8_0 or Q4_K_M: gains and routers in
    full, and 16 bits where blocks do not fill the rows. llama.cpp never rounds a router: to choose
    another expert is no small error.
    """
    if len(shape) == 1 or name.endswith(".router"):
        return "F32"
    if not dtype.startswith("Q"):
        return dtype
    if shape[-1] % BLOCK:
        return "F16"
    if dtype not in _MIXTURES:
        return "Q8_0" if name in _TABLES else dtype
    mixed = _mixed(model, name, dtype)
    return _SMALLER_BLOCKS.get(mixed, mixed) if shape[-1] % _SUPER_BLOCK else mixed


def quantised(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers (..., columns), fp32, in a type: as they are, in 16 bits, or as the bytes of blocks
    (..., bytes a row). Raises InputError where llama.cpp's quantiser is needed and not there.
    """
    gguf = package("gguf")
    if kind not in _SMALLER_BLOCKS:
        return gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    return by_llama_cpp(values, kind)


def by_llama_cpp(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers (..., columns) as the bytes of blocks (..., bytes a row), by llama.cpp's quantiser.
    Raises InputError where xllamacpp does not hand it out.
    """
    gguf = package("gguf")
    number = gguf.GGMLQuantizationType[kind]
    columns = values.shape[-1]
    block, size = gguf.GGML_QUANT_SIZES[number]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, columns)
    made = np.empty((len(rows), columns // block * size), np.uint8)
    written = _quantiser(kind)(
        int(number), rows.ctypes.data, made.ctypes.data, 0, len(rows), columns, None
    )
    assert written == made.nbytes, (kind, written, made.nbytes)
    return made.reshape(*values.shape[:-1], -1)


def _mixed(model: Model, name: str, dtype: str) -> str:
    """The type of a matrix in a mixture, before its rows are looked at."""
    *layer, leaf = name.split(".")
    if leaf == "head" or (leaf == "embedding" and model.tied):
        # where the rows are not whole, llama.cpp takes 8 bits
        return "Q6_K"
    if model.experts == 8 and leaf in _EIGHT_EXPERTS:
        return _EIGHT_EXPERTS[leaf]
    if model.experts == 8 and leaf == "output" and dtype == "Q4_K_M":
        return "Q5_K"
    more = leaf in ("value", "down") and _has_more_bits(int(layer[1]), model.depth)
    return "Q6_K" if more else _MIXTURES[dtype]


def _has_more_bits(layer: int, depth: int) -> bool:
    """Whether value and down of a layer have six bits in a mixture: in the first and the last
    eighth of the layers, and in every third between.
    """
    outer = layer < depth // 8 or layer >= 7 * depth // 8
    return outer or (layer - depth // 8) % 3 == 2


@cache
def _quantiser(kind: str) -> Any:
    """ggml_quantize_chunk(type, numbers, bytes, first number, rows, columns, importance) -> bytes
    written.
    """
    library = ctypes.CDLL(package("xllamacpp").xllamacpp.__file__)
    try:
        found = library.ggml_quantize_chunk
    except AttributeError:
        raise InputError(
            f"gguf: {kind} needs llama.cpp's quantiser, which this build of xllamacpp does not "
            "hand out; expected another --dtype, such as Q8_0 or Q4_1"
        ) from None
    found.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    found.restype = ctypes.c_size_t
    return found
