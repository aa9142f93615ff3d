"""The table of experiments: every name that a lab's `studies/` may hold, and how it is read."""

from pathlib import Path
from typing import Any

from windtunnel.choices import Table
from windtunnel.results.ablate import ABLATE
from windtunnel.results.batch import BATCH
from windtunnel.results.check import CHECK
from windtunnel.results.dynamics import DYNAMICS
from windtunnel.results.scaling import SCALING
from windtunnel.results.search import SEARCH
from windtunnel.results.study import Experiment, Numbers, StudyResult
from windtunnel.results.tour import TOUR
from windtunnel.results.transfer import TRANSFER

EXPERIMENTS: Table[Experiment[Any, Any]] = Table(
    "experiment", (CHECK, SEARCH, TRANSFER, BATCH, SCALING, DYNAMICS, ABLATE, TOUR)
)


def outcome(lab: Path, name: str) -> StudyResult[Numbers] | None:
    """Verdict, summary and runs of the lab's study of this name, its numbers left out; None where
    it has none. Raises InputError for a damaged result.
    """
    file = EXPERIMENTS[name].folder(lab) / "result.json"
    return StudyResult[Numbers].read(file) if file.exists() else None


def outcomes(lab: Path) -> dict[str, StudyResult[Numbers]]:
    """That of every study in the lab, by name. Raises InputError for a damaged result."""
    found = {}
    for name in EXPERIMENTS:
        if (result := outcome(lab, name)) is not None:
            found[name] = result
    return found
