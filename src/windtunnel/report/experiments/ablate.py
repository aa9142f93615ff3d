"""Figures of the ablation: each arm's loss over that of the base arm, on each held-out source."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from windtunnel.report.figures import BLUE, DIVERGING, GREY, plain, styled
from windtunnel.results.ablate import AblateNumbers, AblateRow, Difference
from windtunnel.results.study import StudyResult

_ROW = 34  # pixels

# by the name of the arm, and by held-out source
_Arms = Mapping[str, Mapping[str, Difference]]


def figures(
    result: StudyResult[AblateNumbers], table: Sequence[AblateRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figure) each; none where no arm can be held against the base arm."""
    numbers = result.numbers
    arms = {arm.name: arm.difference for arm in numbers.arms if arm.difference}
    if not arms:
        return []
    measured = f"minus that of '{numbers.base}' ({numbers.seeds} seeds, {numbers.size})"
    return [
        (
            f"Loss on each held-out source after each arm's decay, {measured}, nats/token. Blue is "
            "lower, and so better.",
            _map(arms, numbers.sources),
        ),
        (
            f"Loss on all held-out text, {measured}. Bars: 90% intervals, with the noise of a "
            "difference pooled over the arms.",
            _bars(arms),
        ),
    ]


def _map(arms: _Arms, sources: Sequence[str]) -> go.Figure:
    values = []
    for difference in arms.values():
        values.append([difference[source].mean for source in sources])
    largest = max(max(map(abs, row)) for row in values) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[plain(source) for source in sources],
            y=[plain(arm) for arm in arms],
            zmin=-largest,
            zmax=largest,
            colorscale=DIVERGING,
            showscale=False,
            texttemplate="%{z:+.3f}",
            hovertemplate="%{y} on %{x}: %{z:+.4f}<extra></extra>",
        )
    )
    styled(figure)
    figure.update_xaxes(title="held-out source", type="category")
    return _a_row_an_arm(figure, arms)


def _bars(arms: _Arms) -> go.Figure:
    found = [difference["all"] for difference in arms.values()]
    figure = go.Figure(
        go.Scatter(
            x=[difference.mean for difference in found],
            y=[plain(arm) for arm in arms],
            mode="markers",
            error_x={"type": "data", "array": [_reach(difference) for difference in found]},
            marker={"size": 9, "color": BLUE},
        )
    )
    styled(figure)
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dash"})
    figure.update_xaxes(title="loss over the base arm's, nats/token", exponentformat="none")
    return _a_row_an_arm(figure, arms)


def _reach(difference: Difference) -> float:
    return difference.interval[1] - difference.mean if difference.interval else 0.0


def _a_row_an_arm(figure: go.Figure, arms: _Arms) -> go.Figure:
    figure.update_yaxes(title="arm", type="category", autorange="reversed", automargin=True)
    return figure.update_layout(height=_ROW * len(arms) + 120)
