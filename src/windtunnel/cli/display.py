"""What a person sees while something runs: a bar in a terminal, a line now and then in a log."""

import os
import shutil
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from windtunnel.quantities import about, about_hours

if TYPE_CHECKING:
    from rich.progress import Task

    from windtunnel.results.run import StepLine

_WIDEST = 100  # columns: longer lines are hard to read
_WIDE = 120  # columns from which on a terminal has room for a long bar
_BAR, _SHORT_BAR = 24, 10  # columns of a bar, and of one in a narrower terminal
_TIMES = len("0:00:00 0:00:00 left")  # columns of the times beside a bar
# What a training's line drops in a narrow terminal, first to last.
_DROPPED = ("peak", "aim", "speed", "bits")
_LAST_WORDS = 2.0  # seconds to end in, after the second Ctrl-C
# Seconds between lines where there is no terminal: at least so many, and after the most there is
# one though the share is as it was.
_LOG_EVERY, _LOG_AT_LAST = 10.0, 600.0


class _LeftColumn(TimeRemainingColumn):
    """The time left, and that it is that."""

    def render(self, task: "Task") -> Text:
        return super().render(task).append(" left")


class Display:
    """Progress on stderr; several things may run one after the other, each with its own bar."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self._bar = _BAR if self.console.width >= _WIDE else _SHORT_BAR
        self._bars = Progress(
            # A name may hold brackets, which are no markup.
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=self._bar),
            TimeElapsedColumn(),
            _LeftColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._logged: dict[str, tuple[float, str]] = {}  # when, and how far it had come

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False)

    def show(self, what: str, done: float, total: float | None, note: str = "") -> None:
        """`done` of `total` (None: not known) of something."""
        finished = total is not None and done >= total
        if not self.console.is_terminal:
            self._log(what, done, total, note)
            return
        if what not in self._tasks and not finished:
            self._bars.start()
            self._tasks[what] = self._bars.add_task(what, total=total, note=note)
        if what in self._tasks:
            self._bars.update(self._tasks[what], completed=done, total=total, note=note)
        if finished and what in self._tasks:
            self._bars.remove_task(self._tasks.pop(what))
            if not self._tasks:
                self._bars.stop()

    def training(
        self, name: str, aim: str = "", bits: Callable[[], float | None] = lambda: None
    ) -> Callable[[int, int, "StepLine"], None]:
        """For `Watch.step`: a run's line. `aim`: what was forecast of its end; `bits`: a byte of
        held-out text, as it was last validated.
        """

        def step(tokens: int, total: int, line: "StepLine") -> None:
            found = bits()
            parts = {
                "tokens": f"{about(tokens)} of {about(total)}",
                "loss": f"loss {line.loss:.3f}",
                "bits": f"{found:.3f} bits/byte" if found else "",
                "left": "",
                "aim": aim,
                "speed": f"{about(line.tokens_per_s)} tokens/s",
                "peak": f"{line.peak_share:.0%} of peak",
            }
            if self.console.is_terminal:
                self._narrow(parts, self._room(name))
            elif line.tokens_per_s:
                left = (total - tokens) / line.tokens_per_s / 3600
                parts["left"] = f"{about_hours(left)} left"
            self.show(name, tokens, total, _joined(parts))

        return step

    def _room(self, name: str) -> int:
        """Columns beside a bar of this name, its times and the spaces between them."""
        return self.console.width - len(name) - self._bar - _TIMES - 4

    def _narrow(self, parts: dict[str, str], room: int) -> None:
        for part in _DROPPED:
            if len(_joined(parts)) <= room:
                return
            parts[part] = ""

    def close(self) -> None:
        if self._tasks:  # a stop prints an empty line where nothing was shown
            self._bars.stop()

    def _log(self, what: str, done: float, total: float | None, note: str) -> None:
        now = time.monotonic()
        share = f"{done / total:.0%}" if total else about(done)
        since, said = self._logged.setdefault(what, (now, "0%"))
        waited = now - since
        if waited >= _LOG_AT_LAST or (waited >= _LOG_EVERY and share != said):
            self._logged[what] = now, share
            self.say(f"{what}: {share}, {note}" if note else f"{what}: {share}")


def _joined(parts: dict[str, str]) -> str:
    return ", ".join(filter(None, parts.values()))


def paragraph(text: str, indent: str = "") -> None:
    """Print text, in a terminal broken between words where its lines end."""
    if sys.stdout.isatty():
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        text = textwrap.fill(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        print(text)
    else:
        print(indent + text)


@contextmanager
def display(quiet: bool = False) -> Iterator[Display]:
    # of the processes that torchrun starts for one run, the first one speaks
    shown = Display(quiet or os.environ.get("RANK", "0") != "0")
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def stopping(quiet: bool = False) -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM once: what runs is asked to stop, and saves. Twice: it is killed. `quiet`:
    where another process says so.

    A terminal sends Ctrl-C to every program that we have started, too, and a compiler must live
    through it. So SIGINT is blocked, which they inherit, and one thread takes it; it also answers
    at once where the main thread can't.
    """
    asked, (heard, wake), seen = threading.Event(), socket.socketpair(), list[int]()
    wake.setblocking(False)

    def end(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) > 1:
            sys.exit(130)

    def listen() -> None:
        while heard.recv(1):
            if asked.is_set():
                time.sleep(_LAST_WORDS)
                os._exit(130)
            if not quiet:
                print(
                    "stopping after this step, with a checkpoint; what is being compiled comes "
                    "first. Ctrl-C once more stops at once",
                    file=sys.stderr,
                )
            asked.set()

    resource_tracker.ensure_running()  # multiprocessing's; where it starts, it unblocks SIGINT
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    woken = signal.set_wakeup_fd(wake.fileno())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield asked.is_set
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        wake.close()
        if len(seen) < 2:  # else it sees to it that we end
            listener.join()
            heard.close()
