"""Files that appear whole."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """The file appears with all of its content, on the disk, or stays as it was. Raises OSError."""
    part = path.with_name(f"{path.name}.part")  # always the same: what a killed process left is written over
    try:
        with part.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
