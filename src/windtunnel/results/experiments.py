"""The table of experiments: every name that a lab's `studies/` may hold, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from windtunnel.choices import Table
from windtunnel.results.ablate import ABLATE
from windtunnel.results.ablate_longer import ABLATE_LONGER
from windtunnel.results.batch import BATCH, BatchNumbers
from windtunnel.results.check import CHECK
from windtunnel.results.dynamics import DYNAMICS
from windtunnel.results.scaling import SCALING, ScalingNumbers
from windtunnel.results.search import SEARCH, SearchNumbers
from windtunnel.results.study import Experiment, StudyResult, find_study
from windtunnel.results.tour import TOUR
from windtunnel.results.transfer import TRANSFER, TransferNumbers

EXPERIMENTS: Table[Experiment[Any, Any]] = Table(
    "experiment",
    (CHECK, SEARCH, TRANSFER, BATCH, SCALING, DYNAMICS, ABLATE, ABLATE_LONGER, TOUR),
)


# The results that say which corpus they were made on.
Studied = TypeVar("Studied", BatchNumbers, ScalingNumbers, SearchNumbers, TransferNumbers)


def study_of(
    lab: Path, experiment: Experiment[Studied, Any], corpus: str
) -> StudyResult[Studied] | None:
    """The lab's study, if it was made on the corpus of this name or does not say on which; else
    None. Raises InputError as `find_study` does.
    """
    result = find_study(lab, experiment)
    return result if result and result.numbers.corpus in (None, corpus) else None
