"""Figures of runs, the same for the page and the app."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from windtunnel.recipe import Recipe
from windtunnel.results.run import StepLine
from windtunnel.train.run import Run
from windtunnel.train.schedule import rate_at

_COLOURS = {"stem": "#33658a", "branch": "#d1495b", "run": "#8f8f8f"}
_MOST_POINTS = 600  # of a curve; more can't be seen and make the page heavy
_SMOOTHING = 25  # steps of a running mean
_FIRST = _SMOOTHING // 3  # steps that are left out: fewer are no mean yet


def loss_figure(runs: Sequence[Run]) -> go.Figure:
    """Training loss (smoothed) as lines and validation loss as points, against tokens."""
    figure, curves = go.Figure(), []
    for run in runs:
        steps = run.steps()
        curves.append(_smoothed([step.loss for step in steps]))
        _add_training(figure, run, steps[_FIRST:], curves[-1][_FIRST:])
        _add_validation(figure, run)
    figure.update_yaxes(title="loss, nats/token", range=_loss_range(curves))
    return styled(figure)


def _add_training(
    figure: go.Figure, run: Run, steps: Sequence[StepLine], smooth: Sequence[float]
) -> None:
    every = max(1, len(steps) // _MOST_POINTS)
    figure.add_scatter(
        x=[step.tokens for step in steps[::every]],
        y=[round(loss, 4) for loss in smooth[::every]],
        name=_label(run),
        mode="lines",
        line={"color": _COLOURS[run.kind], "width": 1.2 if run.kind in ("stem", "branch") else 0.8},
        opacity=0.75,
        legendgroup=run.id,
        showlegend=False,
    )


def _add_validation(figure: go.Figure, run: Run) -> None:
    held = run.validations()
    figure.add_scatter(
        x=[line.tokens for line in held],
        y=[line.validation.loss for line in held],
        name=_label(run),
        mode="markers",
        marker={"color": _COLOURS[run.kind], "size": 8},
        legendgroup=run.id,
    )


def rate_figure(runs: Sequence[Run]) -> go.Figure:
    """The learning rate against tokens, from the recipes alone."""
    figure = go.Figure()
    for run in runs:
        recipe = run.recipe
        positions = _positions(recipe, run.start)
        figure.add_scatter(
            x=positions,
            y=[rate_at(recipe, position) * recipe.optimizer.lr for position in positions],
            mode="lines",
            name=_label(run),
            line={"color": _COLOURS[run.kind], "width": 1.5},
        )
    figure.update_yaxes(title="learning rate (base)", rangemode="tozero")
    return styled(figure)


def styled(figure: go.Figure) -> go.Figure:
    """The house's look of a figure."""
    figure.update_xaxes(title="tokens", exponentformat="SI", gridcolor="#e6e6e6", zeroline=False)
    figure.update_yaxes(gridcolor="#e6e6e6", zeroline=False)
    figure.update_layout(
        template="none",
        height=420,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="closest",
    )
    return figure


def interval_bars(
    values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """plotly's error bars of values, from the interval (low, high) of each."""
    up, down = [], []
    for value, (low, high) in zip(values, intervals, strict=True):
        up.append(high - value)
        down.append(value - low)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down}


def _label(run: Run) -> str:
    return f"{run.recipe.name} ({run.id[:6]})"


def _positions(recipe: Recipe, start: int) -> list[float]:
    """Tokens at which a rate is drawn: evenly, and where the schedule has corners."""
    total = recipe.total_tokens
    even = [start + (total - start) * part / 100 for part in range(101)]
    corners = [recipe.warmup_tokens, total - recipe.decay_tokens]
    return sorted({*even, *(float(corner) for corner in corners if corner >= start)})


def _smoothed(losses: Sequence[float]) -> list[float]:
    """A running mean over the last steps."""
    result, total = [], 0.0
    for index, loss in enumerate(losses):
        total += loss - (losses[index - _SMOOTHING] if index >= _SMOOTHING else 0.0)
        result.append(total / min(index + 1, _SMOOTHING))
    return result


def _loss_range(curves: Sequence[Sequence[float]]) -> list[float] | None:
    """From below the best to what the longest of the smoothed curves had reached at a tenth: the
    first steps would squeeze the rest. None where all are short.
    """
    longest = max(curves, key=len)
    if len(longest) < 10 * _SMOOTHING:
        return None
    lowest = min(min(curve[_SMOOTHING:], default=longest[-1]) for curve in curves)
    return [lowest - 0.1, longest[len(longest) // 10] + 0.1]
