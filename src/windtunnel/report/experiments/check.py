"""Figures of the coordinate check: a matrix of verdicts, quantity by time, and a small figure for
each quantity.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from windtunnel.report.figures import DIVERGING, INK, ORANGE, log_ticks, ramp, styled
from windtunnel.results.check import CheckNumbers, CheckRow, Slope
from windtunnel.results.study import StudyResult

_LINE, _ROOM = 19, 90  # pixels: a row of the matrix, and what is around it
_PANEL = 200
_FEW = 2  # ticks of a small panel
_STRONG = 0.5  # of a slope off the theory: the strongest colour
_CONSTANT = 1e-4  # relative spread below which a quantity is a constant, and its lines are noise

# a quantity and a statistic
_What = tuple[str, str]
# the values of all seeds by size
_BySize = dict[int, list[float]]


def figures(
    result: StudyResult[CheckNumbers], table: Sequence[CheckRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figures): the matrices, and then the lines behind them, along width and depth."""
    matrices: list[go.Figure] = []
    lines: list[tuple[str, go.Figure | list[go.Figure]]] = []
    for axis, causes in result.numbers.causes:
        slopes = [slope for slope in result.numbers.quantities if slope.axis == axis]
        if not slopes:
            continue
        matrices.append(_matrix(slopes, f"as the {axis} grows"))
        named = f" Probable causes: {'; '.join(causes)}." if causes else ""
        caption = (
            f"Root mean squares against the {axis} (geometric means over seeds), from early steps "
            "(blue) to late ones (orange). Dashed: the slope is not what the theory allows. "
            f"Quantities that do not change at all are left out.{named}"
        )
        panels = _panels(slopes, [row for row in table if row.axis == axis], axis)
        if panels:
            lines.append((caption, panels))
    caption = (
        "How each quantity goes with the size after so many steps. A pale cell is as the theory "
        "has it; orange grows too much with the size and blue too little: a slope of 1 is in "
        "proportion to it. A cross marks what fails."
    )
    return [(caption, matrices), *lines] if matrices else lines


def off_theory(slope: Slope) -> float | None:
    """By how much it lies beyond the slopes that the theory allows; None without a slope."""
    if slope.slope is None:
        return None
    low, high = slope.expected
    return min(slope.slope - low, 0.0) + max(slope.slope - high, 0.0)


def _matrix(slopes: Sequence[Slope], title: str) -> go.Figure:
    rows: dict[_What, dict[int, Slope]] = {}
    for slope in slopes:
        rows.setdefault((slope.quantity, slope.statistic), {})[slope.t] = slope
    steps = sorted({slope.t for slope in slopes})
    colours, marks, notes = [], [], []
    for cells in rows.values():
        off = [off_theory(cells[t]) if t in cells else None for t in steps]
        colours.append(off)
        marks.append(["✕" if t in cells and cells[t].verdict == "fail" else "" for t in steps])
        notes.append([_note(cells[t]) if t in cells else "" for t in steps])
    names = [f"{quantity} {statistic}" for quantity, statistic in rows]
    figure = go.Figure(
        go.Heatmap(
            z=colours,
            x=[str(t) for t in steps],
            y=names,
            text=marks,
            texttemplate="%{text}",
            textfont={"color": INK, "size": 13},
            hovertext=notes,
            hovertemplate="%{y} after %{x} steps<br>%{hovertext}<extra></extra>",
            colorscale=DIVERGING,
            zmin=-_STRONG,
            zmax=_STRONG,
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    styled(figure, _LINE * len(rows) + _ROOM, title)
    figure.update_xaxes(type="category", title="steps trained", showgrid=False)
    return figure.update_yaxes(
        autorange="reversed", type="category", showgrid=False, tickfont={"size": 11}
    )


def _note(slope: Slope) -> str:
    low, high = slope.expected
    allowed = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    if slope.slope is None:
        return f"no slope; the theory has {allowed}"
    return f"slope {slope.slope:+.2f}, the theory has {allowed}: {slope.verdict}"


def _panels(slopes: Sequence[Slope], table: Sequence[CheckRow], axis: str) -> list[go.Figure]:
    """What moves, the failures first; with one range of decades, so that they compare."""
    steps = sorted({slope.t for slope in slopes})
    colours = dict(zip(steps, ramp(len(steps)), strict=True))
    values = _by_size(table)
    panels: dict[_What, list[Slope]] = {}
    for slope in slopes:
        panels.setdefault((slope.quantity, slope.statistic), []).append(slope)
    moving = {}
    for what, inside in panels.items():
        means = [_mean(seeds) for slope in inside for seeds in values[*what, slope.t].values()]
        known = [mean for mean in means if mean]
        failed = any(slope.verdict == "fail" for slope in inside)
        if failed or (known and max(known) / min(known) > 1 + _CONSTANT):
            moving[what] = (not failed, known)
    spans = [np.log10(max(known) / min(known)) for _, known in moving.values() if known]
    half = 0.5 * max(spans, default=1.0) + 0.1
    drawn = []
    for what in sorted(moving, key=lambda what: moving[what][0]):
        figure = go.Figure()
        for slope in panels[what]:
            _add_line(figure, slope, values[*what, slope.t], colours[slope.t])
        styled(figure, _PANEL, " ".join(what))
        ticks = sorted({row.size for row in table})
        figure.update_xaxes(type="log", title=axis, tickvals=ticks, ticktext=list(map(str, ticks)))
        known = moving[what][1]
        figure.update_yaxes(type="log")
        if known:
            centre = 0.5 * float(np.log10(max(known) * min(known)))
            seen = [centre - half, centre + half]
            figure.update_yaxes(range=seen, **log_ticks([10**end for end in seen], _FEW))
        figure.update_layout(showlegend=False, margin={"b": 38})
        drawn.append(figure)
    return drawn


def _by_size(table: Sequence[CheckRow]) -> dict[tuple[str, str, int], _BySize]:
    """By quantity, statistic and steps."""
    values: dict[tuple[str, str, int], _BySize] = {}
    for row in table:
        by_size = values.setdefault((row.quantity, row.statistic, row.t), {})
        by_size.setdefault(row.size, []).append(row.value)
    return values


def _add_line(figure: go.Figure, slope: Slope, sizes: _BySize, colour: str) -> None:
    """The readings after one number of steps."""
    t, failed = slope.t, slope.verdict == "fail"
    label = "no slope" if slope.slope is None else f"{slope.slope:+.2f}"
    figure.add_scatter(
        x=list(sizes),
        y=[_mean(numbers) for numbers in sizes.values()],
        mode="lines+markers",
        line={
            "color": ORANGE if failed else colour,
            "width": 1.6,
            "dash": "dash" if failed else "solid",
        },
        marker={"size": 4},
        name=f"t = {t}",
        hovertemplate=f"t = {t}, slope {label}<br>%{{x}}: %{{y:.3g}}<extra></extra>",
    )


def _mean(values: Sequence[float]) -> float | None:
    """Geometric; None where a logarithm does not exist."""
    if all(0 < value < np.inf for value in values):
        return float(np.exp(np.mean(np.log(values))))
    return None
