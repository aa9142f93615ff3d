"""One H100 that is not there: what a CUDA build of torch needs to trace and lower work for it with
fake tensors, which hold no numbers. Nothing is computed or measured: run as a script, it does
nothing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

TORCH = "2.11"  # the build whose questions to the driver no_gpu.cpp answers
NAME, MEMORY = "NVIDIA H100 80GB HBM3", 85_000_000_000
_ENTERED = "WINDTUNNEL_NO_GPU"  # of the environment, in the process that believes


def missing() -> str | None:
    """What this needs and has not, in one line; None where all is there."""
    if torch.version.cuda is None or not torch.__version__.startswith(TORCH):
        return f"torch {torch.__version__} is here; a CUDA build of torch {TORCH} is needed"
    return None if shutil.which("g++") else "g++ is needed"


def enter(folder: Path, memory: int = MEMORY) -> None:
    """Begin this process anew with no_gpu.cpp before torch's libraries, built into `folder`, and
    have it believe in the device, with so many bytes; comes back there.
    """
    if _ENTERED not in os.environ:
        shim = _built(folder.absolute())
        told = {"LD_PRELOAD": str(shim), "LD_LIBRARY_PATH": str(shim.parent), _ENTERED: "1"}
        for cache in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            told[cache] = str(shim.parent / cache.lower())
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | told)
    _believe(memory)


def _built(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shim, source = folder / "no_gpu.so", Path(__file__).with_suffix(".cpp")
    if not shim.exists() or shim.stat().st_mtime < source.stat().st_mtime:
        root = Path(torch.__file__).parent
        # CUDA's headers come with torch's own requirements, a few of them with Triton alone
        found = [root / "include", root / "include/torch/csrc/api/include"]
        found += [*root.parent.glob("nvidia/*/include")]
        found += [root.parent / "triton/backends/nvidia/include"]
        include = [part for path in found for part in ("-I", str(path))]
        flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-w"]
        subprocess.run(["g++", *flags, str(source), "-o", str(shim), *include], check=True)
        driver = shim.with_name("libcuda.so.1")
        driver.unlink(missing_ok=True)
        driver.symlink_to(shim.name)
    return shim


def _believe(memory: int) -> None:
    """Answer Python's own questions as no_gpu.cpp does those of the libraries."""
    import torch._subclasses.fake_tensor as fake
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]

    properties = SimpleNamespace(
        name=NAME,
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=memory,
        max_threads_per_multi_processor=2048,
        warp_size=32,
        regs_per_multiprocessor=65_536,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=232_448,
        shared_memory_per_multiprocessor=233_472,
        L2_cache_size=50 * 2**20,
        gcnArchName="",
        uuid="none",
        is_integrated=0,
        is_multi_gpu_board=0,
    )
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_device_capability=lambda *_: (9, 0),
        get_current_stream=lambda *_: 0,
        is_active=lambda: True,
        get_active_torch_device=lambda: torch.device("cuda", 0),
    )
    cuda: Any = torch.cuda
    cuda._initialized = True
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "get_device_name": NAME,
        "is_bf16_supported": True,
        "synchronize": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
    }
    for question, answer in answers.items():
        setattr(cuda, question, lambda *_, answer=answer, **__: answer)
    fake.init_gpu_context = lambda *_: None
    triton.runtime.driver.set_active(driver)
