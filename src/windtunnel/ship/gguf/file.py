"""A GGUF file opened, whatever its architecture, without torch; or the several files of one model
that was split.
"""

import re
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.ship.fields import Fields
from windtunnel.ship.packages import package

_OPPOSITE = "S"  # what gguf calls the byte order that is not this machine's
# llama.cpp's name for the parts of a model: NAME-00001-of-00003.gguf
_PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def metadata(file: Path) -> dict[str, Any]:
    """What a file says of itself. Raises InputError as `contents` does."""
    return _fields(_opened(file), file)


def contents(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors (gguf.ReaderTensor), each by name; of a model in several files, by the
    first of them. Raises InputError for what is not a whole GGUF file of this machine's byte order,
    and for a part that is missing.
    """
    reader = _opened(file)
    fields = _fields(reader, file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for part in _other_parts(file, fields):
        tensors |= {tensor.name: tensor for tensor in _opened(part).tensors}
    promised = fields.get("split.tensors.count", len(tensors))
    if len(tensors) != promised:
        raise InputError(f"{file}: its parts hold {len(tensors)} tensors, of {promised}")
    return fields, tensors


def _opened(file: Path) -> Any:
    """A gguf.GGUFReader."""
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
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{file}: cut off or damaged: {error}") from None
    if reader.byte_order == _OPPOSITE:
        order = reader.endianess.name.lower()
        raise InputError(
            f"{file}: its bytes are in {order}-endian order; turn a copy of it with "
            "`gguf-convert-endian COPY native`"
        )
    return reader


def _fields(reader: Any, file: Path) -> dict[str, Any]:
    """The metadata. Raises InputError for a part that is not the first, which has next to none."""
    try:
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cut off or damaged: {error}") from None
    if fields.get("split.no"):  # counted from 0
        said = Fields(fields, str(file))
        raise InputError(
            f"{file}: part {said.whole('split.no') + 1} of the {said.whole('split.count')} files "
            "of a model; expected the first of them"
        )
    return fields


def _other_parts(file: Path, fields: dict[str, Any]) -> list[Path]:
    """The files beside this one that hold the rest of its model. Raises InputError."""
    # a file that is whole may say 0
    count = Fields(fields, str(file)).whole("split.count") if fields.get("split.count") else 1
    if count < 2:
        return []
    named = _PART.fullmatch(file.name)
    if not named or int(named["count"]) != count:
        raise InputError(
            f"{file}: the first of the {count} files of a model; expected a name like "
            f"NAME-00001-of-{count:05d}.gguf, by which the others are found"
        )
    parts = [
        file.with_name(f"{named['name']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(2, count + 1)
    ]
    for part in parts:
        if not part.exists():
            raise InputError(f"{part}: missing; the model of {file.name} is in {count} files")
    return parts
