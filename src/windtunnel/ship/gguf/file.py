"""A GGUF file opened, whatever its architecture, without torch."""

from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.ship.packages import package


def metadata(file: Path) -> dict[str, Any]:
    """What a file says of itself. Raises InputError as `contents` does."""
    return contents(file)[0]


def contents(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors (gguf.ReaderTensor), each by name. Raises InputError for what is not a
    whole GGUF file.
    """
    gguf = package("gguf")
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    if magic != b"GGUF":
        raise InputError(f"{file}: not a GGUF file: it begins with {magic!r}")
    try:
        reader = gguf.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{file}: cut off or damaged: {error}") from None
    return fields, {tensor.name: tensor for tensor in reader.tensors}
