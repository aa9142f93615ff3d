"""Named choices: what a person may choose by name is one table of records. The names that are
allowed, the help texts, the labels and the tests' parameters all come from it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from windtunnel.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Choice(Protocol):
    """What every record of a table has."""

    @property
    def name(self) -> str:
        """What a person types."""
        ...

    @property
    def help(self) -> str:
        """What it is: a phrase of one line, without a full stop."""
        ...


T = TypeVar("T", bound=Choice)


class Table(dict[str, T]):
    """The records of one kind of choice by name, in the order in which people see them.

    A choice is added by adding its record, and by nothing else. `table[name]` raises InputError
    for an unknown name. As metadata of an annotation, `Annotated[str, DECAY_SHAPES]`, the table
    makes pydantic refuse unknown names, and a command's options can be made from it.
    """

    def __init__(self, kind: str, records: Iterable[T]) -> None:
        """`kind`: what one of them is called, such as "decay shape"."""
        super().__init__()
        self.kind = kind
        for record in records:
            self.add(record)

    def add(self, record: T) -> None:
        """Let people choose one more. Raises ValueError where its name is taken."""
        if record.name in self:
            raise ValueError(f"there is a {self.kind} '{record.name}' already")
        self[record.name] = record

    def choose(self, name: str, where: str) -> T:
        """The record of this name. Raises InputError that begins with `where`, such as
        `--shape linaer`, and names the known ones.
        """
        if name not in self:
            known = ", ".join(self)
            raise InputError(f"{where}: expected one of {known}{did_you_mean(name, self)}")
        return self[name]

    @property
    def listed(self) -> str:
        """The names as a sentence has them: `linear, cosine or sqrt`."""
        *others, last = self
        return f"{', '.join(others)} or {last}" if others else last

    # what stands in an annotation needs one; two tables are never the same
    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __missing__(self, name: str) -> T:
        return self.choose(name, f"{self.kind} '{name}'")

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> "CoreSchema":
        """Text that is one of the names, and None where the annotation allows it; anything else
        is refused as `choose` refuses it.
        """
        from pydantic_core import core_schema

        def known(name: str | None) -> str | None:
            try:
                return None if name is None else self.choose(name, f"'{name}'").name
            except InputError as error:
                raise ValueError(str(error)) from None

        return core_schema.no_info_after_validator_function(known, handler(source))
