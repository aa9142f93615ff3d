"""What a run is carried out on: device, precision, compilation, threads. `auto` decides by the
machine alone, never by the run's length or by a clock, so that a resumed, extended or branched
run computes the same.
"""

import ctypes
import functools
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from windtunnel.devices import known_peak
from windtunnel.errors import InputError
from windtunnel.model.fp8 import ALIGNED
from windtunnel.model.memory import (
    SPLIT,
    devices_that_hold,
    largest_part,
    through_at_once,
    training_memory,
)
from windtunnel.quantities import about_bytes
from windtunnel.recipe import PRECISIONS, Model, Recipe
from windtunnel.results.run import Engine

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # of Linux' control groups, version 2
_NARROW = (8, 9)  # compute capability from which a GPU has products in 8 bits


def autocast(device: str, precision: str) -> torch.autocast:
    """A context in which products are computed in 16 bits, where this precision has them so."""
    return torch.autocast(device, torch.bfloat16, enabled=PRECISIONS[precision].half)


def choose_engine(
    recipe: Recipe,
    members: int = 1,
    begun: Engine | None = None,
    world: int = 1,
    cut: int = 1,
) -> Engine:
    """Settle every `auto` of the recipe, for a run alone or as one of `members`. Where it was
    `begun` already, what changes the bits of the result stays as it was: all but the device, its
    threads, and whether memory is saved by computing layers again; and of `world` ranks, each of
    which has its share of a batch and of the model, cut over `cut` of them, what goes through the
    model at once. Raises InputError where a
    device was asked for that is not there, or that does not take the shape.
    """
    train = recipe.train
    device = device_of(train.device)
    precision = (
        train.precision if train.precision != "auto" else ("bf16" if _has_bf16(device) else "fp32")
    )
    compiled = can_compile(device) if train.compile == "auto" else train.compile
    check_experts(recipe.model, device)
    check_narrow(recipe, device)
    worlds = begun.worlds if begun else (world,)
    if begun:
        members, precision, compiled = begun.members, begun.precision, begun.compiled
    share, asked = math.gcd(*recipe.batches) // world, train.micro_batch
    if begun:
        asked = begun.micro_batch
    if world > 1 and share % max(1, asked):  # all ranks go through the model as often
        asked = largest_part(share, recipe.data.context, asked)
    micro_batch, recompute = through_at_once(
        recipe.model,
        share,
        recipe.data.context,
        device=device,
        memory=device_memory(device),
        asked=asked,
        ranks=cut,
        members=members,
        optimizer=recipe.optimizer.kind,
        precision=precision,
    )
    return Engine(
        device=device,
        precision=precision,
        compiled=compiled,
        micro_batch=micro_batch,
        threads=torch.get_num_threads(),
        members=members,
        recompute=recompute,
        deterministic=train.deterministic,
        worlds=worlds if worlds[-1] == world else (*worlds, world),
    )


def check_fits(recipe: Recipe, engine: Engine, cut: int = 1) -> None:
    """Raises InputError where what goes through a model that is cut over `cut` devices is too much
    for each of them, even with layers computed again, and says what it would take.
    """
    model, context, memory = recipe.model, recipe.data.context, device_memory(engine.device)
    if memory is None or not engine.recompute:
        return
    settings: dict[str, Any] = {
        "context": context,
        "device": engine.device,
        "optimizer": recipe.optimizer.kind,
        "precision": engine.precision,
    }
    at_once = engine.micro_batch
    held = training_memory(model, at_once, recompute=True, ranks=cut, **settings).total
    if held <= memory:
        return
    needed = devices_that_hold(model, memory, **settings)
    if needed is None:
        what = f"a smaller data.context than {context}, or devices with more; {SPLIT}"
    elif needed > cut:
        what = f"{needed} such devices or more, over which torchrun cuts it"
    else:
        what = f"train.micro_batch = {context}, which is one window"
    raise InputError(
        f"{recipe.name}: training with {at_once} tokens at once takes {about_bytes(held)} of a "
        f"device that has {about_bytes(memory)}; expected {what}"
    )


@contextmanager
def as_deterministic(engine: Engine) -> Iterator[None]:
    """Inside, a GPU computes the same bits each time where the engine says so: by kernels without
    such sums as depend on the order in which they are done. Raises RuntimeError, as torch does,
    where there is no such kernel.
    """
    if not engine.deterministic or engine.device != "cuda":
        yield
        return
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    # the backward pass of flash attention has such a form, and that of cuDNN's has not
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


def check_experts(model: Model, device: str) -> None:
    """Raises InputError for experts that a GPU's grouped product does not take: rows are
    multiples of 16 bytes.
    """
    for name in ("width", "ffn"):
        if device == "cuda" and model.experts and getattr(model, name) % 8:
            raise InputError(
                f"model.{name}={getattr(model, name)}: experts on a GPU need a multiple of 8"
            )


def check_narrow(recipe: Recipe, device: str) -> None:
    """Raises InputError for products in 8 bits on a device, or of a shape, that has none."""
    model = recipe.model
    if not PRECISIONS[recipe.train.precision].narrow:
        return
    if device == "mps" or (device == "cuda" and torch.cuda.get_device_capability() < _NARROW):
        raise InputError(
            f"train.precision='{recipe.train.precision}': this device has no products in 8 bits; "
            "expected bf16 or fp32"
        )
    lengths = {
        "model.width": model.width,
        "model.ffn": model.ffn,
        "model.heads times the size of a head": model.heads * model.head_size,
        "model.kv_heads times the size of a head": model.kv_heads * model.head_size,
        "data.context": recipe.data.context,
    }
    for name, length in lengths.items():
        if length % ALIGNED:
            raise InputError(f"{name} is {length}: products in 8 bits need a multiple of {ALIGNED}")


def keep_memory() -> None:
    """Have the C library keep what is freed, up to 2 GiB: given back to the system, the pages of
    a step's large tensors are faulted in and zeroed anew in each step. Does nothing without
    glibc.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)


def device_memory(device: str) -> int | None:
    """Bytes of the GPU, or of this machine for a CPU; used ones too, since what is chosen must not
    depend on the moment. None where they are not known.
    """
    if device == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return _host_memory() if device == "cpu" else None


@functools.cache
def _host_memory() -> int | None:
    """Of the machine, or of the container that this process may not leave."""
    if not hasattr(os, "sysconf"):
        return None
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = _CONTAINER.read_text("utf-8") if _CONTAINER.exists() else "max"
    return whole if told.strip() == "max" else min(whole, int(told))


def matrix_peak(engine: Engine) -> float:
    """FLOP/s of this device's matrix products at the engine's precision: the maker's figure for a
    known GPU at bf16, else the best of a few large products, measured once (0.3 s).
    """
    return _matrix_peak(engine.device, engine.precision)


@functools.cache
def _matrix_peak(device: str, precision: str) -> float:
    half = PRECISIONS[precision].half
    if device == "cuda" and half:
        known = known_peak(torch.cuda.get_device_name())
        if known is not None:
            return known
    dtype = torch.bfloat16 if half else torch.float32
    return measured_peak(torch.device(device), dtype)


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of the best of repeated products of 1024 (4096 on a GPU) square matrices."""
    size = 1024 if device.type == "cpu" else 4096
    a = torch.randn(size, size, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, a)
        synchronize(device)
        # the best, not the mean: what else runs on the machine only ever makes it slower
        best = min(best, time.perf_counter() - start)
    # n^3 multiplications and as many additions
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for what was queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without waiting for what the device is at: from pageable memory a copy would."""
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def device_of(asked: str) -> str:
    """The device, with `auto` settled. Raises InputError for one that is not there."""
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if asked == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[asked]:
        known = ", ".join(["auto", *(name for name, is_there in there.items() if is_there)])
        raise InputError(f"train.device: '{asked}' is not on this machine; expected one of {known}")
    return asked


def _has_bf16(device: str) -> bool:
    """Whether the processor multiplies bf16 natively: emulated, it would be slower than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device == "cpu"
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and torch.cpu._is_avx512_bf16_supported()
    )


def can_compile(device: str) -> bool:
    """Inductor needs a C++ compiler on CPU and Triton on CUDA."""
    if device == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    return device == "cuda"
