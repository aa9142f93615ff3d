"""What `windtunnel export --json` prints: where a model was exported to, and how well an engine
agrees with it.
"""

import math
from pathlib import Path

from pydantic import ConfigDict, Field

from windtunnel.results.record import Record


class Agreement(Record):
    """How near an engine comes to our own forward pass in fp32, on held-out text."""

    # an engine that is off may give a log-probability that is not a number
    model_config = ConfigDict(allow_inf_nan=True)

    layout: str
    """The layout, with the type of its numbers where that is part of its name."""
    engine: str
    """The engine's name and version."""
    tokens: int
    """How many log-probabilities were compared."""
    max_difference: float
    """The largest difference of a log-probability, nats."""
    mean_difference: float
    """The mean |difference| of the log-probabilities, nats."""
    bits_per_byte: float
    """Of the text, with our forward pass."""
    bits_per_byte_change: float
    """How much more the engine needs, bits a byte."""
    most: float | None
    """What `max_difference` may be at most, nats; null: anything."""
    most_change: float | None
    """What |`bits_per_byte_change`| may be at most, as a share of `bits_per_byte`; null:
    anything."""
    lines: int
    """How many lines had their token ids compared."""
    wrong_lines: int
    """How many of them have other ids in the engine."""
    marked_lines: int = 0
    """How many texts had their ids compared with special tokens: those written in them, and those
    that belong around a text."""
    wrong_marked_lines: int = 0
    """How many of them have other ids in the engine."""
    template: bool | None = None
    """Whether the engine writes a conversation as the model's chat template says; null: it has
    none."""
    ends: list[str] = Field(default=[])
    """The tokens that should end an answer."""
    missed_ends: list[str] = Field(default=[])
    """Those of them at which the engine went on."""

    @property
    def good(self) -> bool:
        """Whether the engine computes the model that was to be written."""
        if self.wrong_lines or self.wrong_marked_lines:
            return False
        if self.template is False or self.missed_ends:
            return False
        if not math.isfinite(self.max_difference):
            return False
        if self.most is not None and self.max_difference > self.most:
            return False
        change = abs(self.bits_per_byte_change)
        return self.most_change is None or change <= self.most_change * self.bits_per_byte

    def __str__(self) -> str:
        largest = f"{self.max_difference:.2g} nats at most"
        if self.most is not None:
            largest += f" ({self.most:g} allowed)"
        change = f"{self.bits_per_byte_change:+.2g}"
        if self.most_change is not None:
            change += f" ({self.most_change:.1%} allowed)"
        same = f"{self.lines - self.wrong_lines:,} of {self.lines:,}"
        lines = f"; the same token ids for {same} lines" if self.lines else ""
        if self.marked_lines:
            same = f"{self.marked_lines - self.wrong_marked_lines} of {self.marked_lines}"
            lines += f", and with special tokens for {same}"
        if self.template is not None:
            lines += f"; the chat template is {'the same' if self.template else 'ANOTHER'}"
        if self.ends:
            lines += f"; an answer ends at {', '.join(self.ends)}"
        if self.missed_ends:
            lines += f", but the engine goes on after {', '.join(self.missed_ends)}"
        return (
            f"{self.layout}, {self.engine}: the log-probabilities of {self.tokens:,} held-out "
            f"tokens differ from ours by {largest}, {self.mean_difference:.2g} on average; "
            f"{self.bits_per_byte:.4f} bits/byte, change {change}{lines}"
        )


class Exported(Record):
    """An export, as `windtunnel export --json` prints it."""

    path: Path
    """The folder."""
    to: str
    """The layout's name."""
    dtype: str
    """The type of its numbers."""
    tokens: int
    """Tokens that the run was trained on at the exported checkpoint."""
    agreement: Agreement
    """What the engine that reads it made of it."""


class ExportedFiles(Record):
    """windtunnel-export.json, beside the files of an export: what it wrote, and so what
    `--overwrite` may replace.
    """

    version: str
    """The version of windtunnel that wrote it."""
    files: list[str]
    """The names of its files, this one among them."""


class Precision(Record):
    """One row of `windtunnel export --table`: a model as GGUF in one precision."""

    name: str
    """The precision, such as Q4_1, and whether it was calibrated."""
    file: Path
    """Where it is."""
    bytes: int
    """The size of the file."""
    bits_per_byte: float
    """Of held-out text."""
    difference: float
    """The mean |difference| of its log-probabilities from our forward pass in fp32, nats."""
    generation: float
    """Tokens a second, generated one after the other."""
    prompt: float
    """Tokens a second of a prompt."""
