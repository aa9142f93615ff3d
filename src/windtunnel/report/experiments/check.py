"""Figures of the coordinate check: every quantity against the size, a line for each number of
steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from windtunnel.report.figures import styled

_COLUMNS = 4
_PANEL = 190  # pixels
_FAILED = "#d1495b"


def figures(result: dict[str, Any], table: list[dict[str, str]]) -> list[tuple[str, go.Figure]]:
    """(caption, figure) for the width and for the depth."""
    found = []
    for axis in ("width", "depth"):
        slopes = [slope for slope in result["numbers"]["quantities"] if slope["axis"] == axis]
        causes = result["numbers"]["causes"][axis]
        named = f" Probable causes: {'; '.join(causes)}." if causes else ""
        caption = (
            f"Root mean squares against the {axis}, geometric means over seeds; dark is early, bright is late. Red and "
            f"dashed: its slope is out of what the theory allows.{named}"
        )
        if slopes:
            found.append(
                (caption, _panels(slopes, [row for row in table if row["axis"] == axis], axis))
            )
    return found


def _panels(
    slopes: Sequence[dict[str, Any]], table: Sequence[dict[str, str]], axis: str
) -> go.Figure:
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for slope in slopes:
        panels.setdefault((slope["quantity"], slope["statistic"]), []).append(slope)
    steps = sorted({slope["t"] for slope in slopes})
    colours = dict(
        zip(
            steps,
            sample_colorscale("Viridis", np.linspace(0, 0.85, len(steps)).tolist()),
            strict=True,
        )
    )
    values: dict[tuple[str, str, int], dict[int, list[float]]] = {}
    for row in table:
        by_size = values.setdefault((row["quantity"], row["statistic"], int(row["t"])), {})
        by_size.setdefault(int(row["size"]), []).append(float(row["value"]))
    rows = -(-len(panels) // _COLUMNS)
    figure = make_subplots(
        rows,
        _COLUMNS,
        subplot_titles=[" ".join(panel) for panel in panels],
        vertical_spacing=0.3 / rows,
        horizontal_spacing=0.06,
    )
    shown: set[int] = set()
    for index, panel in enumerate(panels):
        at = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        for slope in panels[panel]:
            t, failed = slope["t"], slope["verdict"] == "fail"
            sizes = values[*panel, t]
            line = {
                "color": _FAILED if failed else colours[t],
                "width": 1.5,
                "dash": "dash" if failed else "solid",
            }
            label = "no slope" if slope["slope"] is None else f"{slope['slope']:+.2f}"
            figure.add_scatter(
                x=list(sizes),
                y=[_mean(numbers) for numbers in sizes.values()],
                mode="lines+markers",
                line=line,
                marker={"size": 4},
                name=f"t = {t}",
                legendgroup=str(t),
                showlegend=not failed and t not in shown,
                hovertemplate=f"t = {t}, slope {label}<br>%{{x}}: %{{y:.3g}}<extra></extra>",
                **at,
            )
            if not failed:
                shown.add(t)
    styled(figure)
    ticks = sorted({size for by_size in values.values() for size in by_size})
    figure.update_xaxes(
        type="log", title="", tickvals=ticks, ticktext=[str(tick) for tick in ticks]
    )
    figure.update_xaxes(title=axis, row=rows)
    figure.update_yaxes(type="log", exponentformat="power", nticks=4)
    figure.update_annotations(font={"size": 12})
    return figure.update_layout(height=_PANEL * rows + 60, margin={"t": 30})


def _mean(values: Sequence[float]) -> float | None:
    """Geometric; None where a logarithm does not exist."""
    return (
        float(np.exp(np.mean(np.log(values))))
        if all(0 < value < np.inf for value in values)
        else None
    )
