"""Figures of the scaling study: the loss against tokens and against FLOPs, and what the study
cost.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from windtunnel.report.figures import styled

_AUDIT, _ENVELOPE, _COST, _COSINE = "#d1495b", "#555", "#33658a", "#c9c9c9"

Rows = Sequence[dict[str, str]]


def figures(result: dict[str, Any], table: list[dict[str, str]]) -> list[tuple[str, go.Figure]]:
    """(caption, figure) each."""
    points = [row for row in table if row["source"] == "all" and row["loss"]]
    cost = result["numbers"]["cost"]
    law = result["numbers"].get(
        "law", {"forms": [], "audit": None}
    )  # a study of before there were laws has none
    found = [
        (
            "Loss after the decay against tokens, a line for each size (parameters, embedding included) and seed. The "
            "star is the audit run, which no fit sees; the bar is what the law predicted of it, 90%.",
            _losses(points, "tokens", "tokens", law["audit"]),
        ),
        (
            "The same against training FLOPs. Dashed: the envelope, the lowest loss that any branch reaches at that "
            "cost or below.",
            _with_envelope(_losses(points, "flops", "FLOPs of the run", law["audit"]), points),
        ),
        (
            f"FLOPs of the study against those of a cosine run from scratch for each of its points: "
            f"{cost['ratio']:.3f} of them.",
            _costs(result["numbers"]["sizes"]),
        ),
    ]
    if any(form["record"] for form in law["forms"]):
        found.append(
            (
                "How far each form of the law was off on the larger, the longer and the dearer runs when it was fitted to "
                "the others: a dot a cut. What it weighs in a prediction stands beside its name.",
                _records(law["forms"]),
            )
        )
    return found


def _losses(points: Rows, axis: str, title: str, said: dict[str, Any] | None) -> go.Figure:
    figure = go.Figure()
    lines: dict[tuple[int, str, str], list[dict[str, str]]] = {}
    for row in points:
        if row["kind"] == "branch":
            lines.setdefault(
                (int(row["params_total"]), f"{row['width']}x{row['depth']}", row["seed"]), []
            ).append(row)
    totals = sorted({total for total, _, _ in lines})
    shades = sample_colorscale("Viridis", np.linspace(0, 0.85, max(2, len(totals))).tolist())
    for (total, size, seed), rows in sorted(lines.items()):
        figure.add_scatter(
            x=[float(row[axis]) for row in rows],
            y=[float(row["loss"]) for row in rows],
            mode="lines+markers",
            name=f"{size}: {total:,}",
            legendgroup=size,
            showlegend=seed == "0",
            marker={"size": 5},
            line={"color": shades[totals.index(total)], "width": 1.5},
            opacity=1 if seed == "0" else 0.5,
            hovertemplate=f"{size}, seed {seed}<br>%{{x:.3s}}: %{{y:.4f}}<extra></extra>",
        )
    for row in points:
        if row["kind"] == "audit":
            figure.add_scatter(
                x=[float(row[axis])],
                y=[float(row["loss"])],
                mode="markers",
                marker={"color": _AUDIT, "size": 13, "symbol": "star"},
                name=f"audit {row['width']}x{row['depth']}: {int(row['params_total']):,}",
            )
            if said:
                low, high = said["interval90"]
                figure.add_scatter(
                    x=[float(row[axis])],
                    y=[said["predicted"]],
                    mode="markers",
                    name="predicted, 90%",
                    marker={"color": _ENVELOPE, "size": 8, "symbol": "line-ew-open"},
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": [high - said["predicted"]],
                        "arrayminus": [said["predicted"] - low],
                        "color": _ENVELOPE,
                        "width": 6,
                    },
                )
    styled(figure)
    figure.update_xaxes(
        type="log", title=title, exponentformat="power" if axis == "flops" else "SI"
    )
    return figure.update_yaxes(type="log", title="loss, nats/token", nticks=8)


def _records(forms: Sequence[dict[str, Any]]) -> go.Figure:
    figure = go.Figure()
    in_order = sorted(forms, key=lambda form: form["weight"])
    names = [f"{form['form']}, N as {form['count']} ({form['weight']:.2f})" for form in in_order]
    for axis, title, color in (
        ("params", "larger", _AUDIT),
        ("tokens", "longer", _COST),
        ("flops", "dearer", "#86a873"),
    ):
        dots = [
            (100 * tried["error"], name)
            for form, name in zip(in_order, names, strict=True)
            for tried in form["record"]
            if tried["axis"] == axis
        ]
        figure.add_scatter(
            x=[error for error, _ in dots],
            y=[name for _, name in dots],
            mode="markers",
            name=title,
            marker={"color": color, "size": 8, "opacity": 0.8},
            hovertemplate="%{x:.2f}%<extra>%{y}</extra>",
        )
    styled(figure)
    figure.update_yaxes(categoryorder="array", categoryarray=names, automargin=True)
    return figure.update_xaxes(type="log", title="mean error of the loss, %")


def _with_envelope(figure: go.Figure, points: Rows) -> go.Figure:
    """The lowest losses so far, in the order of the cost."""
    in_order = sorted(
        (float(row["flops"]), float(row["loss"])) for row in points if row["kind"] == "branch"
    )
    lowest = np.minimum.accumulate([loss for _, loss in in_order])
    kept = [
        (flops, loss) for (flops, loss), best in zip(in_order, lowest, strict=True) if loss <= best
    ]
    figure.add_scatter(
        x=[flops for flops, _ in kept],
        y=[loss for _, loss in kept],
        mode="lines",
        name="envelope",
        line={"color": _ENVELOPE, "width": 1, "dash": "dash"},
        hoverinfo="skip",
    )
    return figure


def _costs(sizes: Sequence[dict[str, Any]]) -> go.Figure:
    figure = go.Figure()
    for key, name, colour in (
        ("flops", "stem and branches", _COST),
        ("flops_cosine", "cosine runs", _COSINE),
    ):
        figure.add_bar(
            x=[size["size"] for size in sizes],
            y=[size[key] * size["seeds"] for size in sizes],
            name=name,
            marker={"color": colour},
        )
    styled(figure)
    figure.update_xaxes(title="size", type="category")
    return figure.update_yaxes(title="training FLOPs", exponentformat="power", automargin=True)
