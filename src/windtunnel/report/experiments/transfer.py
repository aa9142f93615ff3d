"""Figures of the transfer study: loss against the rate by size, and where the best rate goes."""

from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from windtunnel.recipe import PARAMETRIZATIONS
from windtunnel.report.figures import styled

# by parametrization, in the order of their table; those that a lab has beside them come after
_COLOURS = ("#33658a", "#6a994e", "#d1495b", "#f4a259", "#8d6a9f", "#2f2f2f")


def figures(result: dict[str, Any], table: list[dict[str, str]]) -> list[tuple[str, go.Figure]]:
    """(caption, figure): the bowls by parametrization, and the best rate against width."""
    found = result["numbers"]["parametrizations"]
    return [
        (
            "Held-out loss after the decay against the base learning rate: thin, each run; thick, the mean of the seeds. "
            "Where the rate transfers, the bowls of all sizes have their bottom above one another.",
            _bowls(found, table),
        ),
        (
            "The best learning rate with its 90% interval, from a parabola through the points about it.",
            _best(found),
        ),
    ]


def _bowls(found: dict[str, Any], table: list[dict[str, str]]) -> go.Figure:
    figure = make_subplots(
        1, len(found), subplot_titles=list(found), shared_yaxes=True, horizontal_spacing=0.04
    )
    whole = [row for row in table if row["source"] == "all" and row["loss"]]
    for column, (name, numbers) in enumerate(found.items(), 1):
        sizes = [(size["width"], size["depth"]) for size in numbers["sizes"]]
        shades = sample_colorscale(
            "Viridis", [0.9 * i / max(1, len(sizes) - 1) for i in range(len(sizes))]
        )
        for size, colour in zip(sizes, shades, strict=True):
            here = [
                r
                for r in whole
                if r["parametrization"] == name and (int(r["width"]), int(r["depth"])) == size
            ]
            points: dict[float, list[float]] = {}
            for row in here:
                points.setdefault(float(row["lr"]), []).append(float(row["loss"]))
            line = sorted(points.items())
            figure.add_scatter(
                x=[lr for lr, _ in line],
                y=[sum(losses) / len(losses) for _, losses in line],
                mode="lines",
                line={"color": colour, "width": 2},
                name=f"{size[0]} wide, {size[1]} deep",
                legendgroup=str(size),
                showlegend=column == 1,
                row=1,
                col=column,
            )
            figure.add_scatter(
                x=[float(r["lr"]) for r in here],
                y=[float(r["loss"]) for r in here],
                mode="markers",
                marker={"color": colour, "size": 5},
                legendgroup=str(size),
                showlegend=False,
                row=1,
                col=column,
            )
    styled(figure)
    figure.update_xaxes(type="log", title="learning rate (base)", exponentformat="none", dtick="D2")
    figure.update_yaxes(title="loss, nats/token", col=1)
    return figure.update_layout(margin={"t": 40})


def _best(found: dict[str, Any]) -> go.Figure:
    figure = go.Figure()
    known = list(dict.fromkeys([*PARAMETRIZATIONS, *found]))
    for name, numbers in found.items():
        first = numbers["sizes"][0]["depth"]
        sizes = [size for size in numbers["sizes"] if size["lr"] and size["depth"] == first]
        drift = numbers["drift"]["width"]
        label = f"{name}: {drift['slope']:+.2f} octaves an octave" if drift else name
        figure.add_scatter(
            x=[size["width"] for size in sizes],
            y=[size["lr"] for size in sizes],
            name=label,
            mode="lines+markers",
            line={"color": _COLOURS[known.index(name) % len(_COLOURS)]},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [size["interval"][1] - size["lr"] for size in sizes],
                "arrayminus": [size["lr"] - size["interval"][0] for size in sizes],
            },
        )
    styled(figure)
    figure.update_xaxes(type="log", title="width", dtick=0.30103)
    figure.update_yaxes(
        type="log", title="best learning rate (base)", exponentformat="none", dtick="D2"
    )
    return figure
