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


def outcomes(lab: Path) -> dict[str, StudyResult[Numbers]]:
    """Verdict, summary and runs of every study in the lab, by name, its numbers left out. Raises
    InputError for a damaged result.
    """
    found = {}
    for name, experiment in EXPERIMENTS.items():
        file = experiment.folder(lab) / "result.json"
        if file.exists():
            found[name] = StudyResult[Numbers].read(file)
    return found
