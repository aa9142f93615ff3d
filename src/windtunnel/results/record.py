"""What a file of a lab says, as a typed value: written in one place, read in one place, and named
field by field where it is damaged or older than this code.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from windtunnel.errors import InputError
from windtunnel.files import write_whole


class Record(BaseModel):
    """The base of every result. The docstring below a field says what it is, and its unit.

    Fields that a newer version added are ignored when they are read, so they need no care; a field
    that is missing must have a default, or the file is refused by the field's name.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # a command reads a few kinds of results, and need not wait for the others
        defer_build=True,
    )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a JSON file. Raises InputError that names the file, and the field that is
        missing or is not what it should be.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: missing or damaged: {error}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Self:
        """The record in a JSON text. Raises InputError that begins with `where`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(f"{where}: {first_fault(error)}") from None

    def write(self, path: Path, make_folder: bool = False) -> None:
        """Write the record so that the file appears whole. Raises InputError."""
        write_whole(path, self.to_json(), make_folder)

    def to_json(self) -> str:
        """The record as `--json` prints it and as its file holds it."""
        # not pydantic's own writer: it spells floats in another way (1e-8, not 1e-08), and the
        # files of a lab would no longer have the bytes that they had
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)


class Spread(Record):
    """A record with a field that holds what has names of its own, such as the settings of a search.
    In a file these stand one by one in the field's place, beside the record's other fields.
    """

    spread: ClassVar[str]
    """The field's name."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict) or cls.spread in values:
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        named = {name: value for name, value in values.items() if name not in cls.model_fields}
        return own | {cls.spread: named}

    @model_serializer(mode="wrap")
    def _spread(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in plain(self).items():
            found |= value if name == self.spread else {name: value}
        return found


class SparseRecord(Record):
    """A record whose optional keys stand in its file only where something was said of them."""

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}


def first_fault(error: ValidationError) -> str:
    """`numbers.law.forms.0.weight: missing`, from what pydantic has to say."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{where}: missing"
    if fault["type"] == "json_invalid":
        return f"damaged: {fault['msg']}"
    said = f"{fault['msg']}, got {fault['input']!r:.60}"
    return f"{where}: {said}" if where else said
