"""What a fleet and its workers say to each other, wherever the workers are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.recipe import Recipe
from windtunnel.train.compiled import Compiled
from windtunnel.train.owner import Lease


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """Train runs: one, or several as members of a population. Its outcome is the status of each."""

    runs: tuple[Path, ...]
    corpus: Path
    leases: tuple[Lease, ...] = ()
    """By which the fleet owns the runs; none where each worker locks what it trains."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Measure how many times as fast at most `most` members train together as one after the other.
    Its outcome is the speedups.
    """

    recipe: Recipe
    most: int


Job = Training | Measurement


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run has been trained by so many FLOPs since this job began."""

    run: str
    flops: float


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A run has a new checkpoint."""

    run: str
    tokens: int


Report = Progress | Saved | Compiled
"""What a worker tells while it is at a job."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job: a value, or why there is none."""

    value: Any = None
    fault: Exception | None = None
