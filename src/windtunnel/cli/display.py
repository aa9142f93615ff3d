"""What a person sees while something runs: a bar in a terminal, a line now and then in a log."""

import os
import signal
import socket
import sys
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

from windtunnel.quantities import about

if TYPE_CHECKING:
    from windtunnel.results.run import StepLine

_LAST_WORDS = 2.0  # seconds to end in, after the second Ctrl-C
_LOG_EVERY = 10.0  # seconds between lines where there is no terminal


class Display:
    """Progress on stderr; several things may run one after the other, each with its own bar."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self._bars = Progress(
            # A name may hold brackets, which are no markup.
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._logged: dict[str, float] = {}

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

    def training(self, name: str) -> Callable[[int, int, "StepLine"], None]:
        """For `Watch.step`: a run's bar."""

        def step(tokens: int, total: int, line: "StepLine") -> None:
            note = f"{about(tokens)}/{about(total)} tokens  loss {line.loss:.3f}"
            speed = f"{about(line.tokens_per_s)}/s ({line.peak_share:.0%} of peak)"
            self.show(name, tokens, total, f"{note}  {speed}")

        return step

    def close(self) -> None:
        if self._tasks:  # a stop prints an empty line where nothing was shown
            self._bars.stop()

    def _log(self, what: str, done: float, total: float | None, note: str) -> None:
        now = time.monotonic()
        self._logged.setdefault(what, now)
        if now - self._logged[what] >= _LOG_EVERY:
            self._logged[what] = now
            share = f" {done / total:.0%}" if total else f" {about(done)}"
            self.say(f"{what}:{share} {note}".rstrip())


@contextmanager
def display(quiet: bool = False) -> Iterator[Display]:
    shown = Display(quiet)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM once: what runs is asked to stop, and saves. Twice: it is killed.

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
            print(
                "stopping after this step, with a checkpoint; once more to stop at once",
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
