"""The table of experiments: every name that a lab's `studies/` may hold, and how it is read."""

from pathlib import Path
from typing import Any

from windtunnel.errors import InputError, did_you_mean
from windtunnel.results.ablate import ABLATE
from windtunnel.results.batch import BATCH
from windtunnel.results.check import CHECK
from windtunnel.results.dynamics import DYNAMICS
from windtunnel.results.scaling import SCALING
from windtunnel.results.search import SEARCH
from windtunnel.results.study import Experiment, Numbers, StudyResult
from windtunnel.results.tour import TOUR
from windtunnel.results.transfer import TRANSFER

EXPERIMENTS: dict[str, Experiment[Any, Any]] = {
    experiment.name: experiment
    for experiment in (CHECK, SEARCH, TRANSFER, BATCH, SCALING, DYNAMICS, ABLATE, TOUR)
}


def experiment_named(name: str) -> Experiment[Any, Any]:
    """The experiment of that name. Raises InputError that names the known ones."""
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        hint = did_you_mean(name, EXPERIMENTS)
        raise InputError(f"{name}: not an experiment; expected one of {known}{hint}")
    return EXPERIMENTS[name]


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
