"""A clock of the time in which this process could run."""

import threading
from time import perf_counter
from typing import Self

_BEAT = 0.1  # seconds between looks at the time
_LONGEST = 2.0  # seconds between two looks on a busy machine; more, and nothing ran


class RunningClock:
    """Seconds that pass while this process can run. Where it is stopped, by Ctrl-Z, a closed lid
    or a frozen container, the clock stands: no such time is a speed of training.

    A thread looks at the time again and again while the clock is entered. Two looks that are far
    apart had nothing running between them.
    """

    def __init__(self) -> None:
        self._lock, self._left = threading.Lock(), threading.Event()
        self._last, self._stood = perf_counter(), 0.0

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, name="clock", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def now(self) -> float:
        """Seconds since some moment, while the process could run."""
        with self._lock:
            now = perf_counter()
            gap, self._last = now - self._last, now
            if gap > _LONGEST:
                self._stood += gap - _BEAT
            return now - self._stood

    def _look(self) -> None:
        while not self._left.wait(_BEAT):
            self.now()
