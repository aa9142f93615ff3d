"""How long a test waits for another process. No test depends on the clock: the limit only ends what
hangs, and is far above what the slowest machine needs.
"""

import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 1800.0  # seconds


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[Any] | None = None,
    every: float = 0.01,
) -> None:
    """Look `every` so many seconds until the condition holds. Fails where `process`, which is to
    bring it about, ends before.
    """
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended before, with {process.returncode}: {_said(process)}")
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(every)


def _said(process: subprocess.Popen[Any]) -> Any:
    return process.communicate() if process.stderr else "nothing"
