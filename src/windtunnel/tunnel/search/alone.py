"""One search at a time asks and tells, where several share an Optuna storage."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from windtunnel.errors import InputError

_POSTGRES = "postgresql"
_DRIVER = "postgresql+psycopg"


def with_driver(storage: str) -> str:
    """The URL with the driver that `windtunnel[postgres]` installs, where it names none."""
    scheme, separator, rest = storage.partition("://")
    return f"{_DRIVER}{separator}{rest}" if scheme in (_POSTGRES, "postgres") else storage


@contextmanager
def alone(storage: str, what: str) -> Iterator[None]:
    """Wait for every other process that is at the same `what` in this storage. Whoever is killed
    inside holds up nobody.

    Other databases than PostgreSQL and SQLite, and one in memory, have one process each.
    """
    from sqlalchemy.engine import make_url

    url = make_url(storage)
    kind = url.get_backend_name()
    if kind == _POSTGRES:
        with _advisory_lock(storage, what):
            yield
    elif kind == "sqlite" and url.database and url.database != ":memory:":
        with _file_lock(Path(f"{url.database}.lock")):
            yield
    else:
        yield


@contextmanager
def _advisory_lock(storage: str, what: str) -> Iterator[None]:
    """Of the server, which lets go of it where the connection ends, in whatever way."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    key = int.from_bytes(hashlib.sha256(f"windtunnel {what}".encode()).digest()[:8], signed=True)
    # no transaction: it would stay open, and idle, while a point is chosen
    engine = create_engine(storage, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        yield


@contextmanager
def _file_lock(file: Path) -> Iterator[None]:
    try:
        stream = file.open("wb")
    except OSError as error:
        raise InputError(f"{file}: could not be written: {error.strerror}") from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
