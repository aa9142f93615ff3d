"""A lab as the page reads it, once: its runs and its studies. What is damaged joins the faults and
hides nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from windtunnel.errors import InputError
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.run import RunSummary
from windtunnel.results.study import StudyResult, find_study
from windtunnel.train.run import Run, RunsFound, read_runs

T = TypeVar("T")


@dataclass
class LabView:
    """A lab, and why parts of it cannot be read."""

    lab: Path
    faults: list[str] = field(default_factory=list)

    @cached_property
    def runs(self) -> list[Run]:
        """Every run that can be read, oldest first."""
        return self._found.runs

    @cached_property
    def summaries(self) -> dict[str, RunSummary]:
        """What became of each run, by its id."""
        return {run.id: run.summary(self._found.statuses[run.id]) for run in self.runs}

    @cached_property
    def _found(self) -> RunsFound:
        found = read_runs(self.lab)
        self.faults += found.unreadable.values()
        return found

    @cached_property
    def parents(self) -> set[str | None]:
        """The ids of the runs that others leave."""
        return {run.parent for run in self.runs}

    @cached_property
    def studies(self) -> dict[str, StudyResult[Any]]:
        """The lab's studies by name, in the order of the experiments."""
        found: dict[str, StudyResult[Any]] = {}
        for name, experiment in EXPERIMENTS.items():
            result = self.attempt(lambda which=experiment: find_study(self.lab, which))
            if result is not None:
                found[name] = result
        return found

    @cached_property
    def of_studies(self) -> set[str]:
        """The ids of the runs that studies rest on."""
        return {run for result in self.studies.values() for run in result.runs}

    def attempt(self, part: Callable[[], T]) -> T | None:
        """What it gives; None where a file is damaged, which joins the faults."""
        try:
            return part()
        except InputError as error:
            self.faults.append(str(error))
            return None
