"""A table of choices that only tests have."""

from dataclasses import dataclass

from windtunnel.choices import Table


@dataclass(frozen=True)
class Wind:
    """A choice."""

    name: str
    help: str


WINDS = Table("wind", (Wind("north", "cold"), Wind("south", "warm")))
