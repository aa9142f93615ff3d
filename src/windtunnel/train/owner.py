"""Who trains a run where the lab lies on a file system that several machines share.

There `flock` is not trusted: some network file systems know no locks, some keep them to one
machine, and some leave those of a machine that died. So a fleet on several machines owns its runs
itself. It writes `owner.json` into a run's folder before it gives the run to a worker, with a lease
of that worker's own, and touches the file while the worker is at it. A worker that finds another
lease there was taken for dead: it writes nothing more.

This needs of the file system that a file appears at once for all (link, rename), and of the
machines that their clocks agree within half a minute.
"""

import math
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.results.run import Owner

BEAT = 10.0  # seconds between touches
SETTLE = 5.0  # seconds after which a worker that was taken for dead has seen that it is
_EXPIRED = 60.0  # seconds without one, after which nobody is there any more
_FILE = "owner.json"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """By which a worker has a run."""

    name: str
    after_another: bool
    """Whether another worker had the run, which may not know yet that it is taken for dead."""


def own(run: Path, lost: Lease | None = None) -> Lease | None:
    """Take a run, a folder, for a worker of this process; None where somebody else who is alive
    owns it. `lost`: by which this process owned it for a worker that is dead. Raises InputError
    where nothing may be written.
    """
    file = run / _FILE
    before = _read(file)
    if before and _is_alive(file, before) and not (lost and before.lease == lost.name):
        return None
    mine = Owner(lease=secrets.token_hex(8), host=socket.gethostname(), pid=os.getpid())
    part = run / f".{_FILE}.{mine.lease}"
    mine.write(part)
    try:
        if before is None:
            os.link(part, file)  # only one can
        elif _takes(part, run / f".{_FILE}.{before.lease}.taken"):
            part.replace(file)
        else:
            return None
    except FileExistsError:
        return None
    except OSError as error:
        raise InputError(f"{file}: could not be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return Lease(name=mine.lease, after_another=before is not None)


def is_owned(run: Path) -> bool:
    """Whether somebody who is alive owns the run."""
    file = run / _FILE
    owner = _read(file)
    return owner is not None and _is_alive(file, owner)


def holds(run: Path, lease: Lease) -> bool:
    """Whether the run is still owned by this lease, as far as can be seen."""
    try:
        return lease.name in (run / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except OSError:  # a network that is slow, and says nothing of who owns the run
        return True


def renew(run: Path) -> None:
    """Touch what this process owns."""
    with suppress(OSError):
        os.utime(run / _FILE)


def disown(run: Path, lease: Lease) -> None:
    """Let others have the run."""
    if holds(run, lease):
        (run / _FILE).unlink(missing_ok=True)


def _read(file: Path) -> Owner | None:
    with suppress(InputError):
        return Owner.read(file)
    return None


def _takes(part: Path, mark: Path) -> bool:
    """Whether this process may put itself in a dead owner's place: the first of several that find
    it dead, or the next after a while where the first one has not done it.
    """
    try:
        os.link(part, mark)
    except FileExistsError:
        if _age(mark) > _EXPIRED:
            mark.unlink(missing_ok=True)
        return False
    return True


def _is_alive(file: Path, owner: Owner) -> bool:
    return _age(file) < _EXPIRED and not _is_gone(owner)


def _age(file: Path) -> float:
    """Seconds since it was touched; for ever where it is not there."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return math.inf


def _is_gone(owner: Owner) -> bool:
    """Whether it was a process of this machine that has ended."""
    if owner.host != socket.gethostname():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
