"""The ledger of a lab's forecasts: `forecasts.jsonl`, to which lines are only ever added. Each line
is chained to the one before it, so that a later change of any of them shows.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from windtunnel.errors import InputError
from windtunnel.results.forecast import Forecast, Outcome

_KINDS: dict[str, type[Forecast] | type[Outcome]] = {"forecast": Forecast, "outcome": Outcome}
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Line = TypeVar("Line", bound=Forecast | Outcome)


@dataclass(frozen=True)
class Entry:
    """A line of a ledger, as it stands there."""

    number: int  # counted from 1, in the file
    line: Forecast | Outcome
    follows: bool  # from the line before, so that neither was changed since


@dataclass(frozen=True)
class Ledger:
    """What a ledger says."""

    file: Path
    entries: tuple[Entry, ...] = ()
    """In the order in which they were added."""

    @property
    def forecasts(self) -> list[Forecast]:
        """In the order in which they were sealed."""
        return [entry.line for entry in self.entries if isinstance(entry.line, Forecast)]

    @property
    def outcomes(self) -> list[Outcome]:
        """In the order in which they were opened."""
        return [entry.line for entry in self.entries if isinstance(entry.line, Outcome)]

    @property
    def chain(self) -> str:
        """Of the last line; empty without one."""
        return self.entries[-1].line.chain if self.entries else ""

    @property
    def changed(self) -> tuple[int, ...]:
        """Numbers of the lines that were changed, or before which lines were removed."""
        return tuple(entry.number for entry in self.entries if not entry.follows)

    def is_changed(self, line: Forecast | Outcome) -> bool:
        """Whether this line of it is one of those."""
        return any(entry.line is line and not entry.follows for entry in self.entries)


def read_ledger(lab: Path) -> Ledger:
    """The lab's ledger; an empty one where it has none. Raises InputError for a line that is
    damaged.
    """
    file = _file(lab)
    try:
        return _parsed(file, _whole(file.read_bytes()))
    except FileNotFoundError:
        return Ledger(file)
    except OSError as error:
        raise InputError(f"{file}: could not be read: {error.strerror}") from None


class HeldLedger:
    """A ledger to which nobody else can add."""

    def __init__(self, file: Path, stream: FileIO) -> None:
        self._stream = stream
        # What lies beyond whole lines was left by a process that died.
        self._whole = _whole(stream.readall())
        self._says = _parsed(file, self._whole)

    @property
    def says(self) -> Ledger:
        """What it says now."""
        return self._says

    def add(self, line: Line) -> Line:
        """Add a line; returns it as it stands there, with its time and its chain. Raises
        InputError, with nothing added.
        """
        body = line.model_dump(mode="json", exclude={"chain"})
        body["time"] = datetime.now(UTC).strftime(_TIME)
        chain = _chain(self._says.chain, body)
        self._write(json.dumps(body | {"chain": chain}, allow_nan=False).encode() + b"\n")
        added = line.model_copy(update={"time": body["time"], "chain": chain})
        entry = Entry(self._whole.count(b"\n"), added, follows=True)
        self._says = replace(self._says, entries=(*self._says.entries, entry))
        return added

    def _write(self, text: bytes) -> None:
        """All of it, or nothing."""
        end = len(self._whole)
        if self._whole and not self._whole.endswith(b"\n"):  # an editor took it away
            text = b"\n" + text
        try:
            self._stream.truncate(end)
            written = 0
            while written < len(text):
                written += self._stream.write(text[written:])
            os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(end)
            raise _not_written(self._says.file, error) from None
        self._whole += text


@contextmanager
def held(lab: Path) -> Iterator[HeldLedger]:
    """Hold the lab's ledger, which is made where there is none; others wait. Raises InputError
    where it can't be written, or is damaged.
    """
    file = _file(lab)
    try:
        lab.mkdir(parents=True, exist_ok=True)
        stream = FileIO(file, "a+")
    except OSError as error:
        raise _not_written(file, error) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise _not_written(file, error) from None
        stream.seek(0)
        yield HeldLedger(file, stream)


def seconds_of(line: Forecast | Outcome) -> float:
    """When a line was added, in seconds since 1970. Raises InputError."""
    try:
        return datetime.strptime(line.time, _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InputError(f"the ledger's time {line.time!r}: expected one such as {_TIME}") from None


def _file(lab: Path) -> Path:
    return lab / "forecasts.jsonl"


def _not_written(file: Path, error: OSError) -> InputError:
    return InputError(f"{file}: could not be written: {error.strerror}")


def _whole(content: bytes) -> bytes:
    """Without the part of a line that a process left when it died."""
    before, newline, last = content.rpartition(b"\n")
    try:
        json.loads(last.decode())
    except ValueError:
        return before + newline
    return content


def _parsed(file: Path, content: bytes) -> Ledger:
    entries: list[Entry] = []
    for number, text in enumerate(content.split(b"\n"), 1):
        if text.strip():
            before = entries[-1].line.chain if entries else ""
            entries.append(_entry(text, number, before, f"{file}, line {number}"))
    return Ledger(file, tuple(entries))


def _entry(text: bytes, number: int, before: str, where: str) -> Entry:
    """A line after one with the chain `before`. Raises InputError that begins with `where`."""
    try:
        body = json.loads(text.decode())
    except ValueError as error:
        raise InputError(f"{where}: damaged: {error}") from None
    kind = _KINDS.get(str(body.get("kind"))) if isinstance(body, dict) else None
    if kind is None:
        expected = " or ".join(_KINDS)
        raise InputError(f"{where}: kind: expected {expected}, got {text[:60]!r}")
    line = kind.parse(text, where)
    body.pop("chain", None)
    return Entry(number, line, follows=line.chain == _chain(before, body))


def _chain(before: str, body: dict[str, Any]) -> str:
    """`chain` of a line with this content, after one with the chain `before`."""
    # what it says counts, not how it is written
    content = json.dumps([before, body], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
