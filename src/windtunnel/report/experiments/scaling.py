"""Figures of the scaling study: the loss against tokens and against FLOPs, and what the study
cost.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from windtunnel.report.figures import interval_bars, styled
from windtunnel.results.scaling import (
    AuditForecast,
    FormFound,
    ScalingNumbers,
    ScalingRow,
    SizeLosses,
)
from windtunnel.results.study import StudyResult

_AUDIT = "#d1495b"
_ENVELOPE = "#555"
_COST = "#33658a"
_COSINE = "#c9c9c9"
# how a form was tried, by the axis along which points were held out
_TRIED = {
    "params": ("larger", _AUDIT),
    "tokens": ("longer", _COST),
    "flops": ("dearer", "#86a873"),
}


def figures(
    result: StudyResult[ScalingNumbers], table: Sequence[ScalingRow]
) -> list[tuple[str, go.Figure]]:
    """(caption, figure) each."""
    points = [row for row in table if row.source == "all" and row.loss]
    numbers = result.numbers
    forecast = numbers.law.audit
    found = [
        (
            "Loss after the decay against tokens, a line for each size (parameters, embedding "
            "included) and seed. The star is the audit run, which no fit sees; the bar is the 90% "
            "interval that the law predicted for it.",
            _losses(points, "tokens", "tokens", forecast),
        ),
        (
            "The same against training FLOPs. Dashed: the envelope, the lowest loss that any "
            "branch reaches at that cost or below.",
            _with_envelope(_losses(points, "flops", "FLOPs of the run", forecast), points),
        ),
        (
            "FLOPs of the study beside those of a cosine run from scratch for each of its points: "
            f"the study took {numbers.cost.ratio:.3f} of them.",
            _costs(numbers.sizes),
        ),
    ]
    if any(form.record for form in numbers.law.forms):
        caption = (
            "How far each form of the law was off on the larger, the longer and the dearer runs "
            "when it was fitted to the others: a dot for each cut. Beside its name stands its "
            "weight in a prediction."
        )
        found.append((caption, _records(numbers.law.forms)))
    return found


def _losses(
    points: Sequence[ScalingRow], axis: str, title: str, forecast: AuditForecast | None
) -> go.Figure:
    """The losses against a column of the table, on logarithmic axes."""
    figure = go.Figure()
    branches = [row for row in points if row.kind == "branch"]
    # by all parameters, size and seed, in the order of the legend
    lines: dict[tuple[int, str, int], list[ScalingRow]] = {}
    for row in branches:
        key = (row.params_total, f"{row.width}x{row.depth}", row.seed)
        lines.setdefault(key, []).append(row)
    totals = sorted({row.params_total for row in branches})
    shades = sample_colorscale("Viridis", np.linspace(0, 0.85, max(2, len(totals))).tolist())
    for (total, size, seed), rows in sorted(lines.items()):
        figure.add_scatter(
            x=[float(getattr(row, axis)) for row in rows],
            y=[row.loss for row in rows],
            mode="lines+markers",
            name=f"{size}: {total:,}",
            legendgroup=size,
            showlegend=seed == 0,
            marker={"size": 5},
            line={"color": shades[totals.index(total)], "width": 1.5},
            opacity=1 if seed == 0 else 0.5,
            hovertemplate=f"{size}, seed {seed}<br>%{{x:.3s}}: %{{y:.4f}}<extra></extra>",
        )
    for row in points:
        if row.kind == "audit":
            _add_audit(figure, row, float(getattr(row, axis)), forecast)
    styled(figure)
    exponent = "power" if axis == "flops" else "SI"
    figure.update_xaxes(type="log", title=title, exponentformat=exponent)
    return figure.update_yaxes(type="log", title="loss, nats/token", nticks=8)


def _add_audit(
    figure: go.Figure, row: ScalingRow, at: float, forecast: AuditForecast | None
) -> None:
    """The audit run as a star, and what was predicted of it as a bar."""
    figure.add_scatter(
        x=[at],
        y=[row.loss],
        mode="markers",
        marker={"color": _AUDIT, "size": 13, "symbol": "star"},
        name=f"audit {row.width}x{row.depth}: {row.params_total:,}",
    )
    if forecast is None:
        return
    interval = interval_bars([forecast.predicted], [forecast.interval90])
    figure.add_scatter(
        x=[at],
        y=[forecast.predicted],
        mode="markers",
        name="predicted, 90%",
        marker={"color": _ENVELOPE, "size": 8, "symbol": "line-ew-open"},
        error_y=interval | {"color": _ENVELOPE, "width": 6},
    )


def _records(forms: Sequence[FormFound]) -> go.Figure:
    """A dot for each cut at which a form was tried."""
    figure = go.Figure()
    named = {}
    for form in sorted(forms, key=lambda form: form.weight):
        named[f"{form.form}, N as {form.count} ({form.weight:.2f})"] = form
    for axis, (title, color) in _TRIED.items():
        errors, names = [], []
        for name, form in named.items():
            for tried in form.record:
                if tried.axis == axis:
                    errors.append(100 * tried.error)
                    names.append(name)
        figure.add_scatter(
            x=errors,
            y=names,
            mode="markers",
            name=title,
            marker={"color": color, "size": 8, "opacity": 0.8},
            hovertemplate="%{x:.2f}%<extra>%{y}</extra>",
        )
    styled(figure)
    figure.update_yaxes(categoryorder="array", categoryarray=list(named), automargin=True)
    return figure.update_xaxes(type="log", title="mean error of the loss, %")


def _with_envelope(figure: go.Figure, points: Sequence[ScalingRow]) -> go.Figure:
    """With the lowest losses so far, in the order of the cost."""
    branches = [row for row in points if row.kind == "branch"]
    costs: list[float] = []
    losses: list[float] = []
    for flops, loss in sorted((row.flops or 0, row.loss or 0.0) for row in branches):
        if not losses or loss <= losses[-1]:
            costs.append(float(flops))
            losses.append(loss)
    figure.add_scatter(
        x=costs,
        y=losses,
        mode="lines",
        name="envelope",
        line={"color": _ENVELOPE, "width": 1, "dash": "dash"},
        hoverinfo="skip",
    )
    return figure


def _costs(sizes: Sequence[SizeLosses]) -> go.Figure:
    figure = go.Figure()
    names = [size.size for size in sizes]
    ours = [size.flops * size.seeds for size in sizes]
    cosine = [size.flops_cosine * size.seeds for size in sizes]
    for name, flops, colour in (
        ("stem and branches", ours, _COST),
        ("cosine runs", cosine, _COSINE),
    ):
        figure.add_bar(x=names, y=flops, name=name, marker={"color": colour})
    styled(figure)
    figure.update_xaxes(title="size", type="category")
    return figure.update_yaxes(title="training FLOPs", exponentformat="power", automargin=True)
