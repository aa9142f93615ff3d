"""What a person who presses Ctrl-C gets."""

import io
import os
import pty
import signal
import subprocess
import sys
import time

from patience import PATIENCE
from rich.console import Console

from windtunnel.cli.display import Display

PROGRAM = """
import sys, time
from multiprocessing import get_context
from signal import SIG_BLOCK, SIGINT, pthread_sigmask
from windtunnel.cli.display import display, stopping

with display() as shown, stopping() as stop:
    shown.show("waiting", 0, 10)
    queue = get_context("forkserver").SimpleQueue()
    print("blocked" if SIGINT in pthread_sigmask(SIG_BLOCK, []) else "open", flush=True)
    while not (stop() and "once" in sys.argv):
        time.sleep(0.05)
print("ended well", flush=True)
"""


def in_a_terminal(word: str, times: int) -> tuple[int, str]:
    """Exit code and all that was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, word], stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while b"blocked" not in shown and b"open" not in shown:
        shown += os.read(ours, 4096)
    for _ in range(times):
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
    code = process.wait(timeout=PATIENCE)
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    return code, shown.decode()


def test_once_it_is_asked_to_stop_and_what_it_started_lives_on() -> None:
    code, shown = in_a_terminal("once", 1)
    assert code == 0 and "stopping after this step" in shown and "ended well" in shown
    assert "blocked" in shown, (
        "for a compiler that it starts, too, after a fleet's processes were begun"
    )


def test_a_name_with_brackets_is_no_markup() -> None:
    bars = Display()._bars
    for name in ("[/b]", "[red]"):
        bars.add_task(name, total=10, note=f"of {name}")
    paper = Console(file=io.StringIO(), width=100)
    paper.print(bars.get_renderable())
    written = paper.file.getvalue()  # type: ignore[attr-defined]
    assert written.count("[/b]") == written.count("[red]") == 2


def test_twice_it_ends_at_once_and_the_terminal_is_as_it_was() -> None:
    code, shown = in_a_terminal("never", 2)  # of a program that never ends by itself
    assert code == 130 and "ended well" not in shown and "Traceback" not in shown
    hidden, visible = shown.count("\x1b[?25l"), shown.count("\x1b[?25h")
    assert hidden == visible > 0, "the cursor"
