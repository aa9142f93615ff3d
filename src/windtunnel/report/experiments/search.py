"""Figures of a search: how it went, a bowl for each setting, what more trials would give."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from windtunnel.report.figures import styled
from windtunnel.results.search import SearchNumbers, SearchRow, SettingBowl
from windtunnel.results.study import StudyResult

_CHOSEN, _PAPER, _TRIAL, _BAND = "#d1495b", "#33658a", "#8f8f8f", "rgba(51,101,138,0.18)"
_HIGHEST, _LOWEST = 0.5, -0.1  # nats/token that the bowls show at most
_COLUMNS = 4


def figures(
    result: StudyResult[SearchNumbers], rows: Sequence[SearchRow]
) -> list[tuple[str, go.Figure]]:
    """(caption, figure) each."""
    numbers = result.numbers
    return [
        (
            "The loss of each trial in the order in which it was asked for, and the best so far. "
            "The first is the paper's point; then come a Sobol sequence and the sampler's choices.",
            _course(rows),
        ),
        (
            "Bowls: nats/token above the chosen point as one setting moves, with the others at "
            "their best for it; the band holds 90% of the posterior. Dotted lines: the chosen "
            "value (red) and the paper's (grey).",
            _bowls(numbers),
        ),
        (
            "The share of the surface's variance that each setting explains alone.",
            _importances(numbers),
        ),
        (
            "What this many further trials would gain at most, averaged over the posterior.",
            _gain(numbers),
        ),
    ]


def _course(rows: Sequence[SearchRow]) -> go.Figure:
    trials = [row for row in rows if row.kind == "trial" and row.source == "all"]
    failed = [row.trial for row in trials if row.loss is None]
    numbers: list[int] = []
    losses: list[float] = []
    best: list[float] = []
    for row in trials:
        if row.loss is not None:
            numbers.append(row.trial)
            losses.append(row.loss)
            best.append(min(losses))
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


def _bowls(numbers: SearchNumbers) -> go.Figure:
    columns = min(_COLUMNS, len(numbers.bowls))
    rows = -(-len(numbers.bowls) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=list(numbers.bowls),
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    heights = [max(bowl.above) for bowl in numbers.bowls.values()]
    depths = [min(bowl.low) for bowl in numbers.bowls.values()]
    highest = min(_HIGHEST, max(heights)) + 0.02
    lowest = max(_LOWEST, min(depths)) - 0.01
    for index, (name, bowl) in enumerate(numbers.bowls.items()):
        panel = {"row": index // columns + 1, "col": index % columns + 1}
        _draw_bowl(figure, bowl, panel)
        marks = ((numbers.chosen.point[name], _CHOSEN), (numbers.defaults.point[name], _TRIAL))
        for at, colour in marks:
            figure.add_scatter(
                x=[at, at],
                y=[lowest, highest],
                mode="lines",
                line={"color": colour, "dash": "dot"},
                showlegend=False,
                **panel,
            )
    styled(figure)
    figure.update_layout(height=320 * rows + 60, margin={"t": 40})
    figure.update_xaxes(title="", type="log", exponentformat="none")
    figure.update_yaxes(range=[lowest, highest])
    figure.update_yaxes(title="above the chosen, nats/token", col=1)
    return figure


def _draw_bowl(figure: go.Figure, bowl: SettingBowl, panel: dict[str, Any]) -> None:
    """The surface along one setting, and its band."""
    # a closed outline: along the upper edge and back along the lower one
    figure.add_scatter(
        x=[*bowl.value, *reversed(bowl.value)],
        y=[*bowl.high, *reversed(bowl.low)],
        fill="toself",
        mode="lines",
        fillcolor=_BAND,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **panel,
    )
    figure.add_scatter(
        x=bowl.value,
        y=bowl.above,
        mode="lines",
        line={"color": _PAPER},
        showlegend=False,
        **panel,
    )


def _importances(numbers: SearchNumbers) -> go.Figure:
    shares = sorted(numbers.importances.items(), key=lambda item: item[1])
    joint = max(0.0, 1 - sum(share for _, share in shares))
    bars = [("only together", joint), *shares]
    figure = go.Figure()
    figure.add_bar(
        x=[share for _, share in bars],
        y=[name for name, _ in bars],
        orientation="h",
        marker_color=_PAPER,
    )
    styled(figure)
    figure.update_xaxes(title="share of variance", range=[0, 1])
    figure.update_layout(height=60 + 40 * len(bars), margin={"l": 110})
    return figure


def _gain(numbers: SearchNumbers) -> go.Figure:
    gain = numbers.expected_gain
    figure = go.Figure()
    figure.add_scatter(
        x=gain.trials, y=gain.gain, mode="lines+markers", name="gain", line={"color": _PAPER}
    )
    figure.add_hline(
        y=numbers.noise.seed,
        line={"color": _TRIAL, "dash": "dot"},
        annotation_text="noise of a seed",
    )
    styled(figure)
    figure.update_xaxes(title="further trials", type="log", tickvals=gain.trials)
    figure.update_yaxes(title="nats/token", rangemode="tozero")
    figure.update_layout(height=300)
    return figure
