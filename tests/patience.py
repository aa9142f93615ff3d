"""How long a test waits for another process. No test depends on the clock: the limit only ends what
hangs, and is far above what the slowest machine needs.
"""

import subprocess
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

PATIENCE = 1800.0  # seconds


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[Any] | BaseProcess | None = None,
    every: float = 0.01,
) -> None:
    """Look `every` so many seconds until the condition holds. Fails where `process`, which is to
    bring it about, ends before.
    """
    give_up = time.monotonic() + PATIENCE
    while not condition():
        code = _code(process)
        if code is not None:
            raise AssertionError(f"it ended before, with {code}: {_said(process)}")
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(every)


def _code(process: subprocess.Popen[Any] | BaseProcess | None) -> int | None:
    """With which it ended; None where it has not."""
    return process.exitcode if isinstance(process, BaseProcess) else process and process.poll()


def _said(process: Any) -> Any:
    return process.communicate() if getattr(process, "stderr", None) else "nothing"
