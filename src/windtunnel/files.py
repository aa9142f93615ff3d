"""Files that appear whole."""

import contextlib
import os
from pathlib import Path

from windtunnel.errors import InputError


def write_whole(path: Path, content: bytes | str, make_folder: bool = False) -> None:
    """Write a file so that it has all of its content or stays as it was; `make_folder`: and the
    folder that it is in, where that is missing.

    Raises InputError, one line that names the file, where it can't be written.
    """
    # always the same name: what a killed process left is written over
    part = path.with_name(f"{path.name}.part")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{path}: could not be written: {error.strerror}") from None
