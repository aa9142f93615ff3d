"""Files that appear whole, what they hold as a hash, and their names."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from windtunnel.errors import InputError


def write_whole(path: Path, content: bytes | str, make_folder: bool = False) -> None:
    """Write a file so that it has all of its content, as UTF-8, or stays as it was, however many
    write it at once; `make_folder`: and the folder that it is in, where that is missing.

    Raises InputError, one line that names the file, where it can't be written.
    """
    # Each writer has a name of its own, or one would rename what another has half written.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, in hex. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def named(path: str | Path) -> str:
    """A path as text that every file and terminal can hold: a byte of its name that is not UTF-8
    stands as `\\xe9`.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
