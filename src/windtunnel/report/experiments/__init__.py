"""The figures of each experiment, made from its table and result alone."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from windtunnel.report.experiments import ablate, batch, check, dynamics, scaling, search, transfer
from windtunnel.results.study import Row, StudyResult

Figures = Callable[[StudyResult[Any], Sequence[Any]], list[tuple[str, go.Figure]]]
_OfText = Callable[[dict[str, Any], list[dict[str, str]]], list[tuple[str, go.Figure]]]


def _of_text(figures: _OfText) -> Figures:
    """Figures that still read a result as a dict and a row as text."""

    def typed(result: StudyResult[Any], rows: Sequence[Row]) -> list[tuple[str, go.Figure]]:
        table = []
        for row in rows:
            values = row.model_dump().items()
            table.append({key: "" if value is None else str(value) for key, value in values})
        return figures(result.model_dump(mode="json"), table)

    return typed


FIGURES: dict[str, Figures] = {
    "check": _of_text(check.figures),
    "search": search.figures,
    "transfer": transfer.figures,
    "batch": batch.figures,
    "dynamics": _of_text(dynamics.figures),
    "scaling": _of_text(scaling.figures),
    "ablate": _of_text(ablate.figures),
}
