"""Figures of the decay ablation: each arm's loss over that of the base arm, on each held-out
source.
"""

from typing import Any

import plotly.graph_objects as go

from windtunnel.report.figures import styled

_ROW = 34  # pixels


def figures(result: dict[str, Any], table: list[dict[str, str]]) -> list[tuple[str, go.Figure]]:
    """(caption, figure) each; none where no arm can be held against the base arm."""
    numbers = result["numbers"]
    arms = [arm for arm in numbers["arms"] if arm["difference"]]
    if not arms:
        return []
    measured = f"against '{numbers['base']}' ({numbers['seeds']} seeds, {numbers['size']})"
    return [
        (
            f"Loss on each held-out source after each arm's decay {measured}, nats/token: blue is lower, so better.",
            _map(arms, numbers["sources"]),
        ),
        (
            f"The same on all held-out text {measured}. Bars: 90% intervals, with the noise of a difference pooled "
            "over the arms.",
            _bars(arms),
        ),
    ]


def _map(arms: list[dict[str, Any]], sources: list[str]) -> go.Figure:
    values = [[arm["difference"][source]["mean"] for source in sources] for arm in arms]
    largest = max(abs(value) for row in values for value in row) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=sources,
            y=[arm["name"] for arm in arms],
            zmin=-largest,
            zmax=largest,
            colorscale="RdBu_r",
            texttemplate="%{z:+.3f}",
            hovertemplate="%{y} on %{x}: %{z:+.4f}<extra></extra>",
        )
    )
    styled(figure)
    figure.update_xaxes(title="held-out source", type="category")
    figure.update_yaxes(title="arm", type="category", autorange="reversed", automargin=True)
    return figure.update_layout(height=_ROW * len(arms) + 120)


def _bars(arms: list[dict[str, Any]]) -> go.Figure:
    found = [arm["difference"]["all"] for arm in arms]
    reach = [d["interval"][1] - d["mean"] if d["interval"] else 0.0 for d in found]
    figure = go.Figure(
        go.Scatter(
            x=[d["mean"] for d in found],
            y=[arm["name"] for arm in arms],
            mode="markers",
            error_x={"type": "data", "array": reach},
            marker={"size": 9, "color": "#33658a"},
        )
    )
    styled(figure)
    figure.add_vline(x=0, line={"color": "#555", "width": 1, "dash": "dash"})
    figure.update_xaxes(title="loss over the base arm's, nats/token", exponentformat="none")
    figure.update_yaxes(title="arm", type="category", autorange="reversed", automargin=True)
    return figure.update_layout(height=_ROW * len(arms) + 120)
