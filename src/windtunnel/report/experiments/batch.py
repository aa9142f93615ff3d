"""Figures of the batch study: contours of equal loss with their lowest points, and the batch laws
through those.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from windtunnel.report.figures import styled

_COLOURS = ("#33658a", "#d1495b", "#6a994e", "#8f6bb3", "#d68c45")
_PANEL = 320  # pixels


def figures(result: dict[str, Any], table: list[dict[str, str]]) -> list[tuple[str, go.Figure]]:
    """(caption, figure) each: the measured losses, and the best batch against loss and tokens."""
    numbers = result["numbers"]
    drawn = [
        (
            f"Decayed loss against the batch, with the rate {_called(arm)}: a line for each number of tokens.",
            _losses(arm, numbers, table),
        )
        for arm in numbers["arms"]
    ]
    drawn += [
        (
            "The batch that needs the fewest tokens for a loss, with its 90% interval, by size, with the rate "
            f"{_called(arm)}; crosses: from batch branches. Line: bs = c / L^k. Contours whose vertex lies outside of "
            "the sampled batches are left out.",
            _vertices(arm, numbers),
        )
        for arm in numbers["arms"]
    ]
    return drawn


def _called(arm: str) -> str:
    return "fixed" if arm == "fixed" else "scaled by the root of the batch"


def _losses(arm: str, numbers: dict[str, Any], table: list[dict[str, str]]) -> go.Figure:
    sizes = [(size["width"], size["depth"]) for size in numbers["sizes"]]
    figure = make_subplots(
        1, len(sizes), subplot_titles=[f"{w}x{d}" for w, d in sizes], horizontal_spacing=0.06
    )
    shades = sample_colorscale("Viridis", np.linspace(0, 0.85, len(numbers["lengths"])).tolist())
    for column, size in enumerate(sizes, 1):
        for length, shade in zip(numbers["lengths"], shades, strict=True):
            points = [
                (int(row["batch"]), float(row["loss"]))
                for row in table
                if (row["way"], row["arm"], row["source"]) == ("full", arm, "all")
                and (int(row["width"]), int(row["depth"])) == size
                and row["loss"]
                and int(row["tokens"]) == length
            ]
            points.sort()
            figure.add_scatter(
                x=[batch for batch, _ in points],
                y=[loss for _, loss in points],
                mode="lines+markers",
                line={"color": shade, "width": 1.5},
                name=f"{length:,} tokens",
                legendgroup=str(length),
                showlegend=column == 1,
                row=1,
                col=column,
            )
    styled(figure)
    figure.update_xaxes(type="log", title="batch, tokens", tickvals=numbers["batches"])
    figure.update_yaxes(title="loss, nats/token", col=1)
    return figure.update_layout(height=_PANEL + 60, margin={"t": 30})


def _vertices(arm: str, numbers: dict[str, Any]) -> go.Figure:
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    found = numbers["arms"][arm]
    for way, symbol in ((found, "circle"), (numbers["trunk"][arm], "x")):
        for index, size in enumerate(way["sizes"]):
            inside = [level for level in size["levels"] if level["batch"] is not None]
            batches = [level["batch"] for level in inside]
            shared: dict[str, Any] = {
                "mode": "markers",
                "marker": {"color": _COLOURS[index % len(_COLOURS)], "symbol": symbol, "size": 7},
                "name": f"{size['width']}x{size['depth']}"
                + (", branches" if symbol == "x" else ""),
                "legendgroup": f"{index}{symbol}",
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [level["interval"][1] - level["batch"] for level in inside],
                    "arrayminus": [level["batch"] - level["interval"][0] for level in inside],
                    "thickness": 1,
                    "width": 2,
                },
            }
            for column, key in enumerate(("loss", "tokens"), 1):
                x = [level[key] for level in inside]
                figure.add_scatter(
                    x=x, y=batches, showlegend=column == 1 and bool(x), row=1, col=column, **shared
                )
    _lines(figure, found)
    styled(figure)
    figure.update_xaxes(type="log")
    figure.update_xaxes(title="loss, nats/token", dtick="D1", autorange="reversed", col=1)
    figure.update_yaxes(type="log", tickvals=numbers["batches"])
    figure.update_yaxes(title="best batch, tokens", col=1)
    return figure.update_layout(height=_PANEL + 60)


def _lines(figure: go.Figure, found: dict[str, Any]) -> None:
    """The laws of one variable, over the range of their points."""
    inside = [
        level for size in found["sizes"] for level in size["levels"] if level["batch"] is not None
    ]
    laws = found["laws"]
    for column, (name, key) in enumerate((("loss", "loss"), ("tokens", "tokens")), 1):
        if name not in laws:
            continue
        values = [level[key] for level in inside]
        x = np.geomspace(min(values), max(values), 50)
        law = laws[name]
        y = law["c"] / x ** law["k"] if name == "loss" else law["c"] * x ** law["p"]
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": "#555", "width": 1, "dash": "dash"},
            showlegend=False,
            row=1,
            col=column,
        )
