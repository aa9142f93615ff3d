"""Checkpoints are written while training goes on: what is to be saved is copied, and a thread
writes the copy.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from windtunnel.errors import InputError
from windtunnel.train.checkpoint import Checkpoint, copied
from windtunnel.train.parallel import ALONE, Ranks, save
from windtunnel.train.run import Busy


class Saver:
    """What is due at one moment is written at once; what is due next waits for it. Nothing says
    that a checkpoint is there before `end` has returned.

    Left by an error, it lets what it writes come to its end, for that is of a moment at which all
    was well. Where another process has taken the run over, nothing of it appears any more.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks, self._wanted = ranks, True
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()
        elif issubclass(kind, Exception):
            self._wanted = not issubclass(kind, Busy)
            self._join()

    def begin(self, due: Sequence[tuple[Path, Checkpoint]]) -> None:
        """Copy these, each to be saved in its folder, and write them from now on. Raises what
        `end` does.
        """
        self.end()
        copies = [(folder, copied(state)) for folder, state in due]
        self._thread = Thread(target=self._write, args=(copies,), name="checkpoints", daemon=True)
        self._thread.start()

    def has_ended(self) -> bool:
        """Whether what was begun needs `end` alone, on every rank."""
        if self._thread is None:
            return False
        if self._error and not isinstance(self._error, InputError):
            self.end()  # no other rank may know of it, and all wait for this one
        return not self._ranks.agree(self._thread.is_alive())

    def end(self) -> None:
        """Wait until all is on the disk. Raises InputError where it could not be written."""
        self._join()
        if error := self._error:
            self._error = None
            raise error

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _write(self, copies: list[tuple[Path, Checkpoint]]) -> None:
        try:
            while copies:
                # of what is written nothing is held
                save(*copies.pop(0), self._ranks.on_a_thread(), lambda: self._wanted)
        except Exception as error:
            self._error = error
