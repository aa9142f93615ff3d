"""What `windtunnel runs remove` finds that may go, and what became of it."""

from pathlib import Path

from windtunnel.results.record import Record
from windtunnel.results.run import RunSummary


class RunToRemove(RunSummary):
    """A run that may go."""

    bytes: int
    """Of all its files."""


class Removal(Record):
    """What `windtunnel runs remove --json` prints."""

    removed: bool
    """Whether it is gone; false where `--yes` was not given."""
    study: Path | None
    """Folder of the study that goes too; null without `--study`."""
    runs: tuple[RunToRemove, ...]
    """The runs, those that leave another one before it."""
    bytes: int
    """Of all files together, those of the study among them."""
    kept: int
    """Runs of the study that stay, since something else names them; 0 without `--study`."""
