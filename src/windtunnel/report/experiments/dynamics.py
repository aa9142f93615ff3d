"""Figures of the decay-stage study: every step's numbers against tokens."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from windtunnel.report.figures import BLUE, COLOURS, GREY, styled
from windtunnel.results.dynamics import DynamicsNumbers, DynamicsRow
from windtunnel.results.study import StudyResult

_SMOOTHED = 25  # steps of the running median
_STEP = "rgba(133,133,133,0.55)"
_MARK = {"color": GREY, "width": 1, "dash": "dash"}
_PANEL = 230  # pixels
_MOST_POINTS = 400  # of a curve; more can't be seen and make the page heavy

Panel = tuple[str, str, bool]  # title, column, on a log axis

_PATH: tuple[Panel, ...] = (
    ("learning rate (base)", "lr", True),
    ("largest weight change", "max_change", True),
    ("gradient norm", "grad_norm", True),
    ("largest gradient", "max_gradient", True),
)
_GRADIENTS: tuple[Panel, ...] = (
    ("inner product of successive gradients", "inner_product", False),
    ("their cosine", "cosine", False),
    ("D1: slope along the step", "d1", False),
)
_CURVATURE: tuple[Panel, ...] = (
    ("D2: second derivative along the step", "d2", False),
    ("D2 with one batch at both ends", "d2_same_batch", False),
    ("K: curvature of the path", "curvature", True),
)


def figures(
    result: StudyResult[DynamicsNumbers], table: Sequence[DynamicsRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figure or figures) each: what moves, how gradients agree, and how the loss
    bends along the path.
    """
    numbers = result.numbers
    about = (
        f"Grey: each step; blue: a running median of {_SMOOTHED} steps; dashed: where the decay "
        "begins."
    )
    return [
        (
            f"How far the weights move, and how large the gradient is. {about}",
            _panels(_PATH, table, numbers),
        ),
        (
            "How a step's gradient agrees with the next one's, and the next one's with the step: "
            "above zero, D1 says that the step went too far. The two gradients are of different "
            f"batches, and most of both is noise: hence the small cosine. {about}",
            _panels(_GRADIENTS, table, numbers),
        ),
        (
            "How the loss bends along the path. A step follows its own batch's noise, which the "
            "next batch does not share: D2 and K hold that noise over the length of the step, and "
            "so grow as steps shorten. With one batch at both ends it is not there. "
            f"{about}",
            _panels(_CURVATURE, table, numbers),
        ),
        (
            "The largest weight change of each role, and of the query and gate matrices, as "
            "running medians.",
            _changes(table, numbers),
        ),
    ]


def _panels(
    panels: Sequence[Panel], table: Sequence[DynamicsRow], numbers: DynamicsNumbers
) -> list[go.Figure]:
    tokens = _column(table, "tokens")
    thin = slice(None, None, max(1, len(table) // _MOST_POINTS))
    drawn = []
    for title, name, log in panels:
        figure, values = go.Figure(), _column(table, name)
        for line, what, curve in (
            ({"color": _STEP, "width": 0.7}, "each step", values),
            ({"color": BLUE, "width": 2}, "median", _running_median(values)),
        ):
            figure.add_scatter(
                x=tokens[thin].tolist(), y=curve[thin].tolist(), mode="lines", line=line, name=what
            )
        styled(figure, _PANEL, title)
        if log:
            figure.update_yaxes(type="log", exponentformat="power", nticks=5)
        else:
            figure.update_yaxes(range=_range(values[tokens > numbers.warmup]))
        figure.add_vline(x=numbers.decay_begins, line=_MARK)
        figure.update_layout(showlegend=False)
        drawn.append(figure)
    return drawn


def _changes(table: Sequence[DynamicsRow], numbers: DynamicsNumbers) -> go.Figure:
    figure = go.Figure()
    tokens = _column(table, "tokens")
    thin = slice(None, None, max(1, len(table) // _MOST_POINTS))
    for place, name in enumerate(table[0].max_changes):
        values = np.array([row.max_changes[name] for row in table])
        figure.add_scatter(
            x=tokens[thin].tolist(),
            y=_running_median(values)[thin].tolist(),
            mode="lines",
            name=name.removeprefix("max_change_"),
            line={
                "color": COLOURS[place % len(COLOURS)],
                "dash": "dot" if place >= len(COLOURS) else "solid",
            },
        )
    styled(figure)
    figure.add_vline(x=numbers.decay_begins, line=_MARK)
    return figure.update_yaxes(
        type="log", exponentformat="power", title="largest change of a weight"
    )


def _column(table: Sequence[DynamicsRow], name: str) -> np.ndarray:
    return np.array([float(getattr(row, name)) for row in table])


def _running_median(values: np.ndarray) -> np.ndarray:
    """Centred; shorter at the ends."""
    half = _SMOOTHED // 2
    windows = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return np.array([np.median(window) for window in windows])


def _range(values: np.ndarray) -> list[float]:
    """What holds 98% of the values, with a margin: single steps would squeeze the rest."""
    low, high = np.quantile(values, (0.01, 0.99))
    margin = 0.1 * (high - low)
    return [float(low - margin), float(high + margin)]
