"""Figures of the coordinate check: every quantity against the size, a line for each number of
steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from windtunnel.report.figures import styled
from windtunnel.results.check import CheckNumbers, CheckRow, Slope
from windtunnel.results.study import StudyResult

_COLUMNS = 4
_PANEL = 190  # pixels
_FAILED = "#d1495b"

# what a panel shows: a quantity and a statistic
_Panel = tuple[str, str]
# the values of all seeds by size
_BySize = dict[int, list[float]]


def figures(
    result: StudyResult[CheckNumbers], table: Sequence[CheckRow]
) -> list[tuple[str, go.Figure]]:
    """(caption, figure) for the width and for the depth."""
    found = []
    for axis, causes in result.numbers.causes:
        slopes = [slope for slope in result.numbers.quantities if slope.axis == axis]
        if not slopes:
            continue
        named = f" Probable causes: {'; '.join(causes)}." if causes else ""
        caption = (
            f"Root mean squares against the {axis} (geometric means over seeds), from early steps "
            "(dark) to late ones (bright). Red and dashed: the slope is not what the theory allows."
            f"{named}"
        )
        found.append((caption, _panels(slopes, [row for row in table if row.axis == axis], axis)))
    return found


def _panels(slopes: Sequence[Slope], table: Sequence[CheckRow], axis: str) -> go.Figure:
    panels: dict[_Panel, list[Slope]] = {}
    for slope in slopes:
        panels.setdefault((slope.quantity, slope.statistic), []).append(slope)
    steps = sorted({slope.t for slope in slopes})
    shades = sample_colorscale("Viridis", np.linspace(0, 0.85, len(steps)).tolist())
    colours = dict(zip(steps, shades, strict=True))
    values = _by_size(table)
    rows = -(-len(panels) // _COLUMNS)
    figure = make_subplots(
        rows,
        _COLUMNS,
        subplot_titles=[" ".join(panel) for panel in panels],
        vertical_spacing=0.3 / rows,
        horizontal_spacing=0.06,
    )
    shown: set[int] = set()  # steps that stand in the legend
    for index, (panel, inside) in enumerate(panels.items()):
        place = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        for slope in inside:
            _add_line(figure, slope, values[*panel, slope.t], colours, shown, place)
    styled(figure)
    ticks = sorted({row.size for row in table})
    figure.update_xaxes(type="log", title="", tickvals=ticks, ticktext=list(map(str, ticks)))
    figure.update_xaxes(title=axis, row=rows)
    figure.update_yaxes(type="log", exponentformat="power", nticks=4)
    figure.update_annotations(font={"size": 12})
    return figure.update_layout(height=_PANEL * rows + 60, margin={"t": 30})


def _by_size(table: Sequence[CheckRow]) -> dict[tuple[str, str, int], _BySize]:
    """By quantity, statistic and steps."""
    values: dict[tuple[str, str, int], _BySize] = {}
    for row in table:
        by_size = values.setdefault((row.quantity, row.statistic, row.t), {})
        by_size.setdefault(row.size, []).append(row.value)
    return values


def _add_line(
    figure: go.Figure,
    slope: Slope,
    sizes: _BySize,
    colours: Mapping[int, Any],
    shown: set[int],
    place: dict[str, int],
) -> None:
    """The readings after one number of steps. The legend shows each number once."""
    t, failed = slope.t, slope.verdict == "fail"
    label = "no slope" if slope.slope is None else f"{slope.slope:+.2f}"
    figure.add_scatter(
        x=list(sizes),
        y=[_mean(numbers) for numbers in sizes.values()],
        mode="lines+markers",
        line={
            "color": _FAILED if failed else colours[t],
            "width": 1.5,
            "dash": "dash" if failed else "solid",
        },
        marker={"size": 4},
        name=f"t = {t}",
        legendgroup=str(t),
        showlegend=not failed and t not in shown,
        hovertemplate=f"t = {t}, slope {label}<br>%{{x}}: %{{y:.3g}}<extra></extra>",
        **place,
    )
    if not failed:
        shown.add(t)


def _mean(values: Sequence[float]) -> float | None:
    """Geometric; None where a logarithm does not exist."""
    if all(0 < value < np.inf for value in values):
        return float(np.exp(np.mean(np.log(values))))
    return None
