"""Where a lab stands, as `windtunnel --json` prints it."""

from pathlib import Path

from windtunnel.results.record import Record


class Next(Record):
    """A command that is sensible now."""

    command: str
    """What to type."""
    why: str
    """What it is for."""


class Standing(Record):
    """Where a lab stands."""

    lab: Path
    """The lab's folder."""
    lines: tuple[str, ...]
    """What it holds, in words."""
    next: tuple[Next, ...]
    """What to do next, the most sensible first."""
