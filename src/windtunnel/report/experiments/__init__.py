"""The figures of each experiment, made from its table and result alone."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from windtunnel.report.experiments import ablate, batch, check, dynamics, scaling, search, transfer
from windtunnel.results.study import StudyResult

Figures = Callable[[StudyResult[Any], Sequence[Any]], list[tuple[str, go.Figure]]]

FIGURES: dict[str, Figures] = {
    "check": check.figures,
    "search": search.figures,
    "transfer": transfer.figures,
    "batch": batch.figures,
    "dynamics": dynamics.figures,
    "scaling": scaling.figures,
    "ablate": ablate.figures,
}
