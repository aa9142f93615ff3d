"""The figures of each experiment, made from its table and result alone; and of some, what stands
beside them in words and tables.
"""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from windtunnel.report.blocks import Block
from windtunnel.report.experiments import (
    ablate,
    ablate_longer,
    batch,
    check,
    dynamics,
    scaling,
    search,
    transfer,
)
from windtunnel.results.study import StudyResult

# (caption, figure) or (caption, small figures side by side); the first one carries the message
Drawn = tuple[str, go.Figure | list[go.Figure]]
Figures = Callable[[StudyResult[Any], Sequence[Any]], list[Drawn]]

FIGURES: dict[str, Figures] = {
    "check": check.figures,
    "search": search.figures,
    "transfer": transfer.figures,
    "batch": batch.figures,
    "dynamics": dynamics.figures,
    "scaling": scaling.figures,
    "ablate": ablate.figures,
    "ablate-longer": ablate_longer.figures,
}
# of some experiments, their numbers
DETAILS: dict[str, Callable[[StudyResult[Any]], list[Block]]] = {"scaling": scaling.details}
