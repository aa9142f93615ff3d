"""How much memory a function holds at its peak."""

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_SMALL, _MANY = 1 << 16, 1 << 16  # bytes; mappings


def peak_of(function: Callable[[], object]) -> int:
    """Bytes of this process's own memory at the peak of a call, above what it holds before."""
    libc = ctypes.CDLL(None)
    # what is freed is given back at once: else the peak would be that of earlier calls
    libc.mallopt(_TRIM_THRESHOLD, _SMALL)
    libc.mallopt(_MMAP_THRESHOLD, _SMALL)
    libc.mallopt(_MMAP_MAX, _MANY)
    libc.malloc_trim(0)
    base, over = _resident(), threading.Event()
    seen = [base]

    def watch() -> None:
        while not over.wait(0.0005):
            seen.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        over.set()
        watcher.join()
    return max(seen) - base


def _resident() -> int:
    _, resident, of_files, *_ = map(int, Path("/proc/self/statm").read_text().split())
    # pages of files, such as torch's libraries, come and go as the kernel likes
    return (resident - of_files) * 4096
