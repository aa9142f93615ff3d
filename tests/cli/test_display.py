"""What a person who presses Ctrl-C gets."""

import io
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE
from rich.console import Console

from windtunnel.cli.display import Display
from windtunnel.results.run import StepLine

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


def test_without_a_terminal_a_line_says_something_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    shown = Display()
    for seconds, done in ((0, 0), (11, 0), (22, 0), (33, 3), (44, 3), (55, 4), (700, 4)):
        now = float(seconds)
        shown.show("a study", done, 100, f"{done} runs")
    assert capsys.readouterr().err.splitlines() == [
        "a study: 3%, 3 runs",
        "a study: 4%, 4 runs",
        "a study: 4%, 4 runs",  # ten minutes later: it still lives
    ]


def test_a_training_s_line_says_where_it_is_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    step = Display().training("run", "to end between 3.9 and 4.1", lambda: 1.9)
    line = StepLine(
        tokens=500, loss=4.25, lr=0.01, grad_norm=1.0, tokens_per_s=1000, peak_share=0.4
    )
    step(0, 7_200_000, line)
    now = 20.0
    step(3_600_000, 7_200_000, line)
    assert capsys.readouterr().err.splitlines() == [
        "run: 50%, 3.6M of 7.2M, loss 4.250, 1.900 bits/byte, 1 hours left, "
        "to end between 3.9 and 4.1, 1k tokens/s, 40% of peak"
    ]


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (160, "loss 4.250, 1.900 bits/byte, to end between 3.9 and 4.1, 1k tokens/s, 40% of peak"),
        (150, "loss 4.250, 1.900 bits/byte, to end between 3.9 and 4.1, 1k tokens/s"),
        (110, "loss 4.250, 1.900 bits/byte, 1k tokens/s"),
        (90, "loss 4.250, 1.900 bits/byte"),
        (80, "loss 4.250"),
    ],
)
def test_a_narrow_terminal_drops_the_share_of_peak_first_and_never_the_time_left(
    width: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "windtunnel.cli.display.Console",
        lambda **_: Console(file=io.StringIO(), width=width, force_terminal=True),
    )
    shown = Display()
    line = StepLine(
        tokens=500, loss=4.25, lr=0.01, grad_norm=1.0, tokens_per_s=1000, peak_share=0.4
    )
    step = shown.training("hours-1-1-cpu", "to end between 3.9 and 4.1", lambda: 1.9)
    step(3_600_000, 7_200_000, line)
    paper = Console(file=io.StringIO(), width=width)
    paper.print(shown._bars.get_renderable())
    shown.close()
    written = paper.file.getvalue()  # type: ignore[attr-defined]
    assert written.rstrip().endswith(f" -:--:-- left 3.6M of 7.2M, {said}")
