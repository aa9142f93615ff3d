"""Figures of the study of longer contexts: what each base of RoPE costs over the best one, with the
bases that published rules give; what scalings cost; and what is lost at each distance.
"""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from windtunnel.quantities import about, format_context
from windtunnel.report.figures import BLUE, GREY, INK, log_ticks, plain, ramp, styled
from windtunnel.results.ablate_longer import LengthFound, LongerArm, LongerNumbers, LongerRow
from windtunnel.results.study import StudyResult

_PANEL, _ROW = 360, 30  # pixels
_FAR = "far"


def figures(
    result: StudyResult[LongerNumbers], table: Sequence[LongerRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figures) each; none where no seed has all arms."""
    numbers = result.numbers
    measured = [found for found in numbers.lengths if found.best is not None]
    if not measured:
        return []
    seeds = f"{numbers.seeds} {'seed' if numbers.seeds == 1 else 'seeds'}"
    return [
        (
            f"Loss beyond {numbers.was} tokens over that of the best base, nats/token, against "
            f"RoPE's base: a line for each budget of tokens in the longer context ({seeds}, "
            f"{numbers.size}, heads of {numbers.head_size}; bars: 90% intervals). Dashed: what "
            "published rules give.",
            [_bases(found) for found in measured],
        ),
        (
            f"The same after {about(numbers.budgets[-1])} tokens, by arm.",
            [_arms(found) for found in measured],
        ),
    ]


def _bases(found: LengthFound) -> go.Figure:
    arms = [arm for arm in found.arms if arm.base is not None]
    figure = go.Figure()
    budgets = [one.tokens for one in arms[0].after]
    trained = [tokens for tokens in budgets if tokens]
    for number, (tokens, colour) in enumerate(zip(trained, ramp(len(trained)), strict=True)):
        place = number + len(budgets) - len(trained)
        costs = [_cost(arm, place) for arm in arms]
        figure.add_scatter(
            x=[arm.base for arm in arms],
            y=[cost for cost, _ in costs],
            error_y={"type": "data", "array": [reach for _, reach in costs]},
            mode="lines+markers",
            name=f"after {about(tokens)}",
            line={"color": colour, "width": 2},
        )
    bases = [arm.base for arm in arms if arm.base]
    for rule in found.rules:
        if bases[0] <= rule.base <= bases[-1]:
            figure.add_vline(x=rule.base, line={"color": GREY, "width": 1, "dash": "dash"})
            # on a logarithmic axis a line stands at a number, and a text at its logarithm
            figure.add_annotation(
                x=math.log10(rule.base),
                y=1,
                yref="y domain",
                xanchor="left",
                yanchor="top",
                text=plain(rule.name),
                textangle=-90,
                showarrow=False,
                font={"color": INK, "size": 11},
            )
    styled(figure, _PANEL, f"to {format_context(found.context)}")
    figure.update_xaxes(type="log", title="RoPE's base", **log_ticks(bases))
    figure.update_yaxes(title="loss over the best base's", exponentformat="none")
    return figure


def _arms(found: LengthFound) -> go.Figure:
    costs = [_cost(arm, -1) for arm in found.arms]
    names = [plain(arm.name) for arm in found.arms]
    figure = go.Figure(
        go.Scatter(
            x=[cost for cost, _ in costs],
            y=names,
            error_x={"type": "data", "array": [reach for _, reach in costs]},
            mode="markers",
            marker={"size": 9, "color": BLUE},
        )
    )
    styled(figure, _ROW * len(names) + 120, f"to {format_context(found.context)}")
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dash"})
    figure.update_xaxes(title="loss over the best base's, nats/token", exponentformat="none")
    return figure.update_yaxes(title="base or scaling", type="category", autorange="reversed")


def _cost(arm: LongerArm, place: int) -> tuple[float, float]:
    """Over the best base, after a budget, and half its interval."""
    over = arm.after[place].over
    if over is None:
        return 0.0, 0.0
    difference = over[_FAR]
    reach = difference.interval[1] - difference.mean if difference.interval else 0.0
    return difference.mean, reach
