"""Figures of a search: how it went, a bowl for each setting, what more trials would give."""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from windtunnel.report.figures import styled

_CHOSEN, _PAPER, _TRIAL, _BAND = "#d1495b", "#33658a", "#8f8f8f", "rgba(51,101,138,0.18)"
_HIGHEST = 0.5  # nats/token that the bowls show


def figures(result: dict[str, Any], table: list[dict[str, str]]) -> list[tuple[str, go.Figure]]:
    """From a study's `result.json` and `table.csv`."""
    numbers = result["numbers"]
    return [
        (
            "Every trial's loss in the order of asking, and the best so far. The first is the paper's point, then a "
            "Sobol sequence, then the sampler's.",
            _course(table),
        ),
        (
            "Bowls: nats/token above the chosen point as one setting moves and the others are at their best for it; the "
            "band holds 90% of the posterior. Lines: the chosen value and the paper's.",
            _bowls(numbers),
        ),
        (
            "The share of the surface's variance that each setting explains alone.",
            _importances(numbers),
        ),
        (
            "What so many further trials would gain at most, on average over the posterior.",
            _gain(numbers),
        ),
    ]


def _course(table: list[dict[str, str]]) -> go.Figure:
    trials = [row for row in table if row["kind"] == "trial" and row["source"] == "all"]
    done = [(int(row["trial"]), float(row["loss"])) for row in trials if row["loss"]]
    numbers, losses = [trial for trial, _ in done], [loss for _, loss in done]
    best = [min(losses[: i + 1]) for i in range(len(losses))]
    failed = [int(row["trial"]) for row in trials if not row["loss"]]
    figure = go.Figure()
    figure.add_scatter(
        x=numbers, y=losses, mode="markers", name="trial", marker={"color": _TRIAL, "size": 7}
    )
    figure.add_scatter(
        x=numbers, y=best, mode="lines", name="best so far", line={"color": _CHOSEN, "shape": "hv"}
    )
    figure.add_scatter(
        x=failed,
        y=[max(losses)] * len(failed),
        mode="markers",
        name="diverged",
        showlegend=bool(failed),
        marker={"color": _TRIAL, "size": 9, "symbol": "x"},
    )
    styled(figure)
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title="loss, nats/token")
    return figure


def _bowls(numbers: dict[str, Any]) -> go.Figure:
    names = list(numbers["bowls"])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.03
    )
    highest = max(min(_HIGHEST, max(bowl["above"])) for bowl in numbers["bowls"].values()) + 0.02
    lowest = max(-0.1, min(min(bowl["low"]) for bowl in numbers["bowls"].values())) - 0.01
    for index, name in enumerate(names):
        bowl, row, col = numbers["bowls"][name], index // columns + 1, index % columns + 1
        figure.add_scatter(
            x=bowl["value"] + bowl["value"][::-1],
            y=bowl["high"] + bowl["low"][::-1],
            fill="toself",
            mode="lines",
            fillcolor=_BAND,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            row=row,
            col=col,
        )
        figure.add_scatter(
            x=bowl["value"],
            y=bowl["above"],
            mode="lines",
            line={"color": _PAPER},
            showlegend=False,
            row=row,
            col=col,
        )
        for at, colour in ((numbers["chosen"][name], _CHOSEN), (numbers["defaults"][name], _TRIAL)):
            figure.add_scatter(
                x=[at, at],
                y=[lowest, highest],
                mode="lines",
                line={"color": colour, "dash": "dot"},
                showlegend=False,
                row=row,
                col=col,
            )
    styled(figure)
    figure.update_layout(height=320 * rows + 60, margin={"t": 40})
    figure.update_xaxes(title="", type="log", exponentformat="none")
    figure.update_yaxes(range=[lowest, highest])
    figure.update_yaxes(title="above the chosen, nats/token", col=1)
    return figure


def _importances(numbers: dict[str, Any]) -> go.Figure:
    shares = sorted(numbers["importances"].items(), key=lambda item: item[1])
    joint = max(0.0, 1 - sum(share for _, share in shares))
    shares = [("only together", joint), *shares]
    figure = go.Figure(
        go.Bar(
            x=[s for _, s in shares], y=[n for n, _ in shares], orientation="h", marker_color=_PAPER
        )
    )
    styled(figure)
    figure.update_xaxes(title="share of variance", range=[0, 1])
    figure.update_layout(height=60 + 40 * len(shares), margin={"l": 110})
    return figure


def _gain(numbers: dict[str, Any]) -> go.Figure:
    gain, noise = numbers["expected_gain"], numbers["noise"]["seed"]
    figure = go.Figure()
    figure.add_scatter(
        x=gain["trials"], y=gain["gain"], mode="lines+markers", name="gain", line={"color": _PAPER}
    )
    figure.add_hline(
        y=noise, line={"color": _TRIAL, "dash": "dot"}, annotation_text="noise of a seed"
    )
    styled(figure)
    figure.update_xaxes(title="further trials", type="log", tickvals=gain["trials"])
    figure.update_yaxes(title="nats/token", rangemode="tozero")
    figure.update_layout(height=300)
    return figure
