"""How figures look: colours that most eyes tell apart, on a light page, on a dark one and on paper;
and the figures of runs.
"""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from windtunnel.quantities import about
from windtunnel.recipe import Recipe
from windtunnel.results.run import StepLine
from windtunnel.train.run import Run
from windtunnel.train.schedule import rate_at

# The page puts its own colour of text and of lines in place of these two (`page.js`), so that a
# figure is drawn for the theme that a reader has.
INK, FAINT = "rgb(1,2,3)", "rgb(4,5,6)"
# After Okabe and Ito, who chose colours that colour-blind eyes tell apart; a little darker or
# lighter, so that each stands out from white and from black.
BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY = COLOURS = (
    "#2b7bba",
    "#d55e00",
    "#0a8f6a",
    "#a35f9b",
    "#c78a00",
    "#3ca3d4",
)
GREY = "#858585"
BAND, WIDE_BAND = "rgba(43,123,186,0.30)", "rgba(43,123,186,0.14)"
# What is ordered, from the least to the most: dark to bright would vanish on one of the themes.
_RAMP = ["#3b66c4", "#2592a6", "#4e9e57", "#b8901c", "#d9682f"]
# Below its centre, at it (almost the page's own colour), and above it.
DIVERGING = [[0, BLUE], [0.5, "rgba(128,128,128,0.10)"], [1, ORANGE]]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")

_OF_KIND = {"stem": BLUE, "branch": ORANGE, "run": GREY}
_MOST_POINTS = 300  # of a curve; more can't be seen and make the page heavy
_SMOOTHING = 25  # steps of a running mean
_MOST_NAMED = 8  # curves in a legend: one of many names none
_FIRST = _SMOOTHING // 3  # steps that are left out: fewer are no mean yet
# Ticks within a decade, from the coarsest; the first with enough of them is taken.
_WITHIN_A_DECADE = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0),
)


def ramp(count: int) -> list[str]:
    """Colours for so many values in order."""
    steps = max(1, count - 1)
    return [str(sample_colorscale(_RAMP, place / steps)[0]) for place in range(count)]


def log_ticks(values: Sequence[float], enough: int = 4) -> dict[str, Any]:
    """The ticks of a logarithmic axis over these values: round numbers, as few as still make
    `enough`. The axis may be a little longer than the values.
    """
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in _WITHIN_A_DECADE:
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        if sum(low <= tick <= high for tick in ticks) >= enough:
            break
    return {"tickvals": ticks, "ticktext": [_short(tick) for tick in ticks], "tickangle": 0}


def _short(value: float) -> str:
    return about(value) if value >= 1000 else f"{value:.6g}"


def styled(figure: go.Figure, height: int = 400, title: str = "") -> go.Figure:
    """The house's look of a figure. `title`: of a panel among others."""
    figure.update_xaxes(title="tokens", exponentformat="SI", gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(gridcolor=FAINT, zeroline=False, automargin=True)
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 58, "r": 14, "t": 34 if title else 14, "b": 46},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        hovermode="closest",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "xanchor": "left"},
    )
    if title:
        figure.update_layout(title={"text": title, "font": {"size": 14}, "x": 0.02, "y": 0.97})
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


def loss_figure(runs: Sequence[Run]) -> go.Figure:
    """Training loss (smoothed) as lines and validation loss as points, against tokens."""
    figure, curves = go.Figure(), []
    for run in runs:
        steps = run.steps()
        curves.append(_smoothed([step.loss for step in steps]))
        _add_training(figure, run, steps[_FIRST:], curves[-1][_FIRST:])
        _add_validation(figure, run)
    styled(figure)
    figure.update_yaxes(title="loss, nats/token", range=_loss_range(curves))
    return figure.update_layout(showlegend=len(runs) <= _MOST_NAMED)


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
            name=label(run),
            line={"color": _OF_KIND[run.kind], "width": 1.5},
        )
    styled(figure)
    figure.update_layout(showlegend=len(runs) <= _MOST_NAMED)
    return figure.update_yaxes(title="learning rate (base)", rangemode="tozero")


def label(run: Run) -> str:
    """What a figure calls a run. A name is text: `<` begins no tag in a label of plotly."""
    return f"{plain(run.recipe.name)} ({run.id[:6]})"


def plain(text: str) -> str:
    """Text as it stands, for a label of a figure, where plotly knows some tags of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _add_training(
    figure: go.Figure, run: Run, steps: Sequence[StepLine], smooth: Sequence[float]
) -> None:
    every = max(1, len(steps) // _MOST_POINTS)
    figure.add_scatter(
        x=[step.tokens for step in steps[::every]],
        y=[round(loss, 4) for loss in smooth[::every]],
        name=label(run),
        mode="lines",
        line={"color": _OF_KIND[run.kind], "width": 1.6 if run.kind in ("stem", "branch") else 1},
        opacity=0.85,
        legendgroup=run.id,
        showlegend=False,
        meta=run.id,
    )


def _add_validation(figure: go.Figure, run: Run) -> None:
    held = run.validations()
    figure.add_scatter(
        x=[line.tokens for line in held],
        y=[line.validation.loss for line in held],
        name=label(run),
        mode="markers",
        marker={"color": _OF_KIND[run.kind], "size": 8},
        legendgroup=run.id,
        meta=run.id,
    )


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
