"""Laws by name: what can be chosen is one table, and an unknown name is refused."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class Named(dict[str, T]):
    """The laws of one kind by name, in the order in which they are tried and shown.

    A law is added by adding its record here, and by nothing else. `table[name]` raises ValueError
    for an unknown name, with the known ones.
    """

    def __init__(self, kind: str, records: Mapping[str, T]) -> None:
        """`kind`: what one of them is called, such as "law of the batch"."""
        super().__init__(records)
        self.kind = kind

    def __missing__(self, name: str) -> T:
        raise ValueError(f"{self.kind} '{name}': expected one of {', '.join(self)}")
