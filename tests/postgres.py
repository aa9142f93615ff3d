"""A real PostgreSQL server in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import wait_until
from ports import free_port

_DEBIAN = "/usr/lib/postgresql/15/bin"
_USER = "postgres"


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:{_DEBIAN}")
    if found is None:
        pytest.skip("PostgreSQL's server is not installed")
    return found


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a database."""
    # the server refuses to run as root, and may not read a test's own folder
    user = {"user": _USER, "group": _USER} if os.getuid() == 0 else {}
    initdb, server = _program("initdb"), _program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="wt-postgres-"))
    if user:
        shutil.chown(folder, _USER, _USER)
    data, name = folder / "data", user.get("user", str(os.environ.get("USER")))
    subprocess.run(
        [initdb, "-D", data, "-A", "trust", "-U", name], check=True, capture_output=True, **user
    )
    port = free_port()
    command = [server, "-D", data, "-k", folder, "-h", "127.0.0.1", "-p", str(port)]
    with (folder.with_suffix(".log")).open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, **user)  # type: ignore[call-overload]
    try:
        wait_until(lambda: _answers(port, name), process)
        yield f"postgresql://{name}@127.0.0.1:{port}/postgres"
    finally:
        # SIGTERM would wait until every client has left
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink()


def _answers(port: int, name: str) -> bool:
    from psycopg import OperationalError, connect

    try:
        with connect(host="127.0.0.1", port=port, user=name, dbname="postgres"):
            return True
    except OperationalError:
        return False
