"""`populations.json` of a lab: how much faster members train together than one after the other, as
it was measured on each kind of device.
"""

from pathlib import Path

from pydantic import ConfigDict, RootModel

from windtunnel.results.record import Record

Speedups = dict[int, float]
"""Times as fast as one after the other, by the number of members."""


class Populations(Record, RootModel[dict[str, dict[str, Speedups]]]):
    """Speedups by kind of device, and by what a measurement depends on: a shape, its batch and
    engine.
    """

    model_config = ConfigDict(extra=None)  # the file has no keys of its own that could be unknown

    @classmethod
    def of(cls, lab: Path) -> "Populations":
        """What the lab has measured, which may be nothing. Raises InputError for a damaged file."""
        file = lab / "populations.json"
        return cls.read(file) if file.exists() else cls({})

    def find(self, kind: str, shape: str) -> Speedups | None:
        """What was measured of a shape on a kind of device; None where nothing was."""
        return self.root.get(kind, {}).get(shape)

    def write_with(self, lab: Path, kind: str, shape: str, speedups: Speedups) -> None:
        """Write the file with one measurement more. Raises InputError."""
        measured = self.root.get(kind, {}) | {shape: speedups}
        Populations(self.root | {kind: measured}).write(lab / "populations.json")
