"""Figures of a search: a bowl for each setting, how it went, what more trials would give."""

from collections.abc import Sequence

import plotly.graph_objects as go

from windtunnel.report.figures import BLUE, GREY, ORANGE, WIDE_BAND, log_ticks, styled
from windtunnel.results.search import SearchNumbers, SearchRow, SettingBowl
from windtunnel.results.study import StudyResult

_HIGHEST, _LOWEST = 0.5, -0.1  # nats/token that the bowls show at most
_PANEL = 270  # pixels


def figures(
    result: StudyResult[SearchNumbers], rows: Sequence[SearchRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figure or figures) each."""
    numbers = result.numbers
    marked = "dotted: the chosen value (orange) and the paper's (grey)"
    if numbers.chosen.point == numbers.defaults.point:
        marked = "dotted: the paper's value, which was kept"
    return [
        (
            "A bowl for each setting: nats/token above the chosen point as that setting moves and "
            "the others follow at their best. The band holds 90% of the posterior; "
            f"{marked}. The share is what of the surface the setting explains alone.",
            _bowls(numbers),
        ),
        (
            "The loss of each trial in the order in which it was asked for, and the best so far. "
            "The first is the paper's point; then come a Sobol sequence and the sampler's choices.",
            _course(rows),
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
        x=numbers, y=losses, mode="markers", name="trial", marker={"color": GREY, "size": 7}
    )
    figure.add_scatter(
        x=numbers, y=best, mode="lines", name="best so far", line={"color": ORANGE, "shape": "hv"}
    )
    figure.add_scatter(
        x=failed,
        y=[max(losses, default=0.0)] * len(failed),
        mode="markers",
        name="diverged",
        showlegend=bool(failed),
        marker={"color": GREY, "size": 9, "symbol": "x"},
    )
    styled(figure)
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title="loss, nats/token")
    return figure


def _bowls(numbers: SearchNumbers) -> list[go.Figure]:
    """From the setting that matters most."""
    heights = [max(bowl.above) for bowl in numbers.bowls.values()]
    depths = [min(bowl.low) for bowl in numbers.bowls.values()]
    highest = min(_HIGHEST, max(heights)) + 0.02
    lowest = max(_LOWEST, min(depths)) - 0.01
    drawn = []
    shares = numbers.importances
    for name in sorted(numbers.bowls, key=lambda name: -shares.get(name, 0.0)):
        figure = go.Figure()
        bowl = numbers.bowls[name]
        _draw_bowl(figure, bowl)
        # of the same value, one line
        marks = {numbers.chosen.point[name]: ORANGE} | {numbers.defaults.point[name]: GREY}
        for at, colour in marks.items():
            figure.add_scatter(
                x=[at, at],
                y=[lowest, highest],
                mode="lines",
                line={"color": colour, "dash": "dot"},
                name="chosen" if colour is ORANGE else "the paper's",
                hovertemplate="%{x:.3g}",
            )
        styled(figure, _PANEL, f"{name}: {shares.get(name, 0.0):.0%}")
        figure.update_layout(showlegend=False)
        figure.update_xaxes(title="", type="log", **log_ticks(bowl.value))
        figure.update_yaxes(range=[lowest, highest], title="above the chosen, nats")
        drawn.append(figure)
    return drawn


def _draw_bowl(figure: go.Figure, bowl: SettingBowl) -> None:
    """The surface along one setting, and its band."""
    # a closed outline: along the upper edge and back along the lower one
    figure.add_scatter(
        x=[*bowl.value, *reversed(bowl.value)],
        y=[*bowl.high, *reversed(bowl.low)],
        fill="toself",
        mode="lines",
        fillcolor=WIDE_BAND,
        line={"width": 0},
        hoverinfo="skip",
        name="90% of the posterior",
    )
    figure.add_scatter(
        x=bowl.value,
        y=bowl.above,
        mode="lines",
        line={"color": BLUE, "width": 2},
        name="surface",
        hovertemplate="%{x:.3g}: %{y:+.4f}<extra></extra>",
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
        marker_color=BLUE,
    )
    styled(figure, 60 + 40 * len(bars))
    return figure.update_xaxes(title="share of variance", range=[0, 1])


def _gain(numbers: SearchNumbers) -> go.Figure:
    gain = numbers.expected_gain
    figure = go.Figure()
    figure.add_scatter(
        x=gain.trials, y=gain.gain, mode="lines+markers", name="gain", line={"color": BLUE}
    )
    figure.add_hline(
        y=numbers.noise.seed,
        line={"color": GREY, "dash": "dot"},
        annotation_text="noise of a seed",
    )
    styled(figure, 300)
    figure.update_xaxes(title="further trials", type="log", tickvals=gain.trials)
    figure.update_yaxes(title="nats/token", rangemode="tozero")
    return figure
