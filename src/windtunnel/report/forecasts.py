"""The lab's forecasts, and how they came out: predicted against got, and the calibration."""

from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from windtunnel.laws.error import relative_error
from windtunnel.plan.calibration import calibration
from windtunnel.report.blocks import Chart, Fact, Facts, RunId, Section, Table, Text
from windtunnel.report.figures import BLUE, GREY, INK, ORANGE, interval_bars, plain, styled
from windtunnel.report.view import LabView
from windtunnel.results.forecast import Calibration, ForecastState

_ROW, _ROOM = 30, 110  # pixels


def sections(view: LabView) -> Iterator[Section]:
    """Of the ledger, where it has a line."""
    found = calibration(view.lab)
    if not found.sealed:
        return
    opened = [one for one in found.forecasts if one.outcome]
    blocks = [Text(_says(found)), Facts(_facts(found))]
    if opened:
        blocks.append(
            Chart(
                "The error of each forecast: what was predicted over what was reached, less 1, "
                "so that a forecast that was too high lies to the right. Bars: the errors that the "
                "sealed 50% (thick) and 90% intervals allow for; a diamond is the one that was "
                "made, orange where it lies outside the 90% interval.",
                [outcomes_figure(opened)],
            )
        )
    rows = []
    for one in found.forecasts:
        low, high = one.forecast.interval90
        got = f"{one.outcome.loss:.4f}" if one.outcome else "–"
        error = f"{one.outcome.error:+.2%}" if one.outcome else "–"
        rows.append(
            [
                one.forecast.plan,
                RunId(one.forecast.run),
                f"{one.forecast.distance.flops:.3g}x",
                f"{one.forecast.loss:.4f}",
                f"{low:.4f} to {high:.4f}",
                got,
                error,
                one.state,
            ]
        )
    heads = ("plan", "run", "FLOPs over the fit's", "forecast", "90%", "got", "error", "state")
    blocks.append(Table(heads, rows))
    yield Section(
        anchor="forecasts",
        title="Forecasts",
        blocks=blocks,
        verdict="ledger changed" if found.changed else None,
        mark="fail",
    )


def _says(found: Calibration) -> str:
    if not found.all.count:
        return (
            f"{found.sealed} sealed before training, none opened yet. Train a plan's recipe, then "
            "`windtunnel plan --audit RUN` holds it against its forecast."
        )
    known = f"{found.sealed} sealed before training, {found.opened} opened."
    if found.all.count == 1:
        inside = "inside" if found.all.inside90 else "outside"
        return (
            f"{known} The one that counts ended {inside} its 90% interval. With enough of them, "
            "nine in ten should."
        )
    return (
        f"{known} Of the {found.all.count} that count, {found.all.inside90} ended inside the 90% "
        f"interval and {found.all.inside50} inside the 50% interval. With enough of them, these "
        "should come near to nine in ten and half."
    )


def _facts(found: Calibration) -> list[Fact]:
    if not found.all.count or found.all.mean_size is None:
        return [Fact("sealed", str(found.sealed)), Fact("opened", str(found.opened))]
    return [
        Fact("inside the 90% interval", f"{found.all.inside90} of {found.all.count}"),
        Fact("inside the 50% interval", f"{found.all.inside50} of {found.all.count}"),
        Fact("mean size of the error", f"{found.all.mean_size:.2%}"),
    ]


def outcomes_figure(opened: Sequence[ForecastState], title: str = "") -> go.Figure:
    """The error of each forecast in percent, a line each."""
    figure = go.Figure()
    names = [f"{plain(one.forecast.plan)} {one.forecast.id[:4]}" for one in opened]
    centre = [0.0] * len(opened)
    for which, width, share in (("interval90", 3, "90%"), ("interval50", 8, "50%")):
        intervals = []
        for one in opened:
            said, (low, high) = one.forecast.loss, getattr(one.forecast, which)
            allowed = relative_error(said, high), relative_error(said, low)
            intervals.append((100 * allowed[0], 100 * allowed[1]))
        bars = interval_bars(centre, intervals) | {"width": 0, "thickness": width, "color": BLUE}
        figure.add_scatter(
            x=centre,
            y=names,
            mode="markers",
            marker={"size": 1, "color": BLUE},
            name=f"{share} interval",
            error_x=bars,
            opacity=0.5,
            hoverinfo="skip",
        )
    got, colours, notes = [], [], []
    for one in opened:
        assert one.outcome
        got.append(100 * one.outcome.error)
        counts = one.state == "counts"
        colours.append(GREY if not counts else INK if one.outcome.inside90 else ORANGE)
        notes.append(f"forecast {one.forecast.loss:.4f}, got {one.outcome.loss:.4f}")
    figure.add_scatter(
        x=got,
        y=names,
        mode="markers",
        name="got",
        marker={"color": colours, "size": 11, "symbol": "diamond"},
        customdata=[one.forecast.run for one in opened],
        text=notes,
        hovertemplate="%{y}<br>%{text}<br>%{x:+.2f}%<extra></extra>",
    )
    styled(figure, _ROW * len(opened) + _ROOM, title)
    figure.update_layout(showlegend=False)  # the sentence below says what is what
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title="error of the forecast, %", exponentformat="none")
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"})
    return figure
