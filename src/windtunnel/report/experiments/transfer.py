"""Figures of the transfer study: loss against the rate by size, and where the best rate goes with
size, length and batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from windtunnel.laws.batch import ByTokens
from windtunnel.quantities import about
from windtunnel.recipe import PARAMETRIZATIONS
from windtunnel.report.figures import (
    COLOURS,
    INK,
    SYMBOLS,
    interval_bars,
    log_ticks,
    ramp,
    styled,
)
from windtunnel.results.study import StudyResult
from windtunnel.results.transfer import (
    ParametrizationRates,
    SizeRate,
    TransferNumbers,
    TransferRow,
)
from windtunnel.scaling_recipe import rate_law

_PANEL = 320  # pixels
_ASIDE = 1.02  # from cell to cell, where several are drawn at one length

Found = Mapping[str, ParametrizationRates]


def figures(
    result: StudyResult[TransferNumbers], rows: Sequence[TransferRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figure or figures): the bowls by length and parametrization, and the best rate
    against width and, where several were measured, against the length.
    """
    numbers = result.numbers
    # what is compared between sizes: the longest runs with the first batch
    compared = {
        name: rates.model_copy(update={"sizes": _compared(rates, numbers)})
        for name, rates in numbers.parametrizations.items()
    }
    drawn: list[tuple[str, go.Figure | list[go.Figure]]] = [
        (
            "Held-out loss after the decay against the base learning rate. Points: runs; lines: "
            "the mean over seeds; diamonds: the best rate of each size, with its 90% interval. "
            "Where the rate transfers, they stand one above the other.",
            _bowls(numbers, rows),
        ),
    ]
    if len({size.width for rates in compared.values() for size in rates.sizes}) > 1:
        caption = (
            "The best learning rate with its 90% interval, from a parabola through the points near "
            "it."
        )
        drawn.append((caption, _best(compared)))
    if len(numbers.lengths) > 1:
        drawn.append(
            (
                "The best learning rate against the length of the run, with its 90% interval, by "
                "size and batch. Lines: the law through all of them.",
                _along(numbers),
            )
        )
    first = next(iter(numbers.parametrizations.values()))
    if any(level.batch for level in first.best_batches):
        drawn.append(
            (
                "The best batch, each batch at its best rate, against the length of the run, with "
                "its 90% interval. Line: the law through them. Lengths whose best batch lies "
                "outside of those measured have no point.",
                _batches(first),
            )
        )
    return drawn


def _batches(found: ParametrizationRates) -> go.Figure:
    inside = [level for level in found.best_batches if level.batch and level.interval]
    tokens = [level.tokens for level in inside]
    best = [level.batch or 0.0 for level in inside]
    intervals = [level.interval or (0.0, 0.0) for level in inside]
    figure = go.Figure()
    figure.add_scatter(
        x=tokens,
        y=best,
        name="best batch",
        mode="markers",
        marker={"color": INK, "size": 7},
        error_y=interval_bars(best, intervals),
        showlegend=False,
    )
    if found.batch_law:
        law = ByTokens(**found.batch_law.constants)
        along = [level.tokens for level in found.best_batches]
        figure.add_scatter(
            x=along,
            y=[law.predict(at) for at in along],
            name=law.formula.format(**found.batch_law.constants),
            mode="lines",
            line={"color": COLOURS[0]},
            showlegend=True,
        )
    styled(figure)
    lengths = [level.tokens for level in found.best_batches]
    ticks = {"tickvals": lengths, "ticktext": [about(at) for at in lengths]}
    figure.update_xaxes(type="log", title="tokens", **ticks)
    ends = [end for interval in intervals for end in interval]
    return figure.update_yaxes(title="best batch, tokens a step", type="log", **log_ticks(ends))


def _compared(rates: ParametrizationRates, numbers: TransferNumbers) -> tuple[SizeRate, ...]:
    """Those of the longest runs with the first batch; all of a study of one length and batch."""
    return tuple(
        size
        for size in rates.sizes
        if size.tokens in (None, numbers.tokens) and size.batch in (None, numbers.batch)
    )


def _along(numbers: TransferNumbers) -> go.Figure:
    """Of the first parametrization, on which the verdict is."""
    name, rates = next(iter(numbers.parametrizations.items()))
    cells: dict[tuple[int, int, int], list[SizeRate]] = {}
    for size in rates.sizes:
        if size.lr and size.interval and size.tokens and size.batch:
            cells.setdefault((size.width, size.depth, size.batch), []).append(size)
    law = rate_law(rates.law) if rates.law else None
    figure = go.Figure()
    shades = ramp(len(cells))
    for place, ((width, depth, batch), sizes) in enumerate(cells.items()):
        colour = shades[place]
        label = f"{width}x{depth}, batch {batch:,}"
        best = [size.lr or 0.0 for size in sizes]
        intervals = [size.interval or (0.0, 0.0) for size in sizes]
        tokens = [size.tokens or 0 for size in sizes]
        figure.add_scatter(
            # side by side, so that no interval hides another one
            x=[at * _ASIDE ** (place - (len(cells) - 1) / 2) for at in tokens],
            y=best,
            name=label,
            mode="markers",
            marker={"color": colour, "size": 7},
            error_y=interval_bars(best, intervals),
        )
        if law:
            figure.add_scatter(
                x=tokens,
                y=[law.at(sizes[0].params, at, batch) for at in tokens],
                name=label,
                mode="lines",
                line={"color": colour},
                showlegend=False,
            )
    styled(figure)
    lengths = list(numbers.lengths)
    ticks = {"tickvals": lengths, "ticktext": [about(tokens) for tokens in lengths]}
    figure.update_xaxes(type="log", title="tokens", **ticks)
    ends = [end for sizes in cells.values() for size in sizes for end in size.interval or ()]
    return figure.update_yaxes(title=f"best rate (base), {name}", **_rates(ends))


def _bowls(numbers: TransferNumbers, rows: Sequence[TransferRow]) -> list[go.Figure]:
    """A panel for each length of the first parametrization, and for each other one at the longest
    length. The diamond on a bowl is its optimum, with its interval.
    """
    first = next(iter(numbers.parametrizations))
    lengths = numbers.lengths or (numbers.tokens,)
    panels = [(first, tokens) for tokens in lengths]
    panels += [(name, numbers.tokens) for name in numbers.parametrizations if name != first]
    sizes = dict.fromkeys((row.width, row.depth) for row in rows)
    colours = dict(zip(sorted(sizes), ramp(len(sizes)), strict=True))
    drawn = []
    for name, tokens in panels:
        here = [row for row in rows if row.parametrization == name and _is_at(row, tokens, numbers)]
        found = {
            (size.width, size.depth): size
            for size in numbers.parametrizations[name].sizes
            if size.tokens in (None, tokens) and size.batch in (None, numbers.batch)
        }
        figure = go.Figure()
        for place, ((width, depth), points) in enumerate(sorted(_by_size(here).items())):
            colour, symbol = colours[width, depth], SYMBOLS[place % len(SYMBOLS)]
            _draw_bowl(figure, f"{width}x{depth}", points, colour, symbol)
            if size := found.get((width, depth)):
                _mark_optimum(figure, size, points, colour)
        styled(figure, _PANEL, f"{name}, {about(tokens)} tokens")
        ticks = log_ticks([row.lr for row in rows])
        figure.update_xaxes(title="learning rate (base)", type="log", **ticks)
        figure.update_layout(margin={"t": 60})  # for the legend below the title
        drawn.append(figure.update_yaxes(title="loss, nats/token", nticks=6))
    return drawn


def _is_at(row: TransferRow, tokens: int, numbers: TransferNumbers) -> bool:
    """A run ends at a whole step: near the length that was asked for. With the first batch."""
    lengths = numbers.lengths or (numbers.tokens,)
    asked = min(lengths, key=lambda length: abs(length - row.tokens))
    return asked == tokens and row.batch == numbers.batch


def _by_size(rows: Sequence[TransferRow]) -> dict[tuple[int, int], list[TransferRow]]:
    """The runs that came to their end."""
    found: dict[tuple[int, int], list[TransferRow]] = {}
    for row in rows:
        if row.source == "all" and row.loss is not None:
            found.setdefault((row.width, row.depth), []).append(row)
    return found


def _draw_bowl(
    figure: go.Figure, name: str, rows: Sequence[TransferRow], colour: str, symbol: str
) -> None:
    """The mean over seeds as a line, and each run as a point."""
    line = mean_by_rate([(row.lr, row.loss or 0.0) for row in rows])
    figure.add_scatter(
        x=list(line),
        y=list(line.values()),
        mode="lines",
        line={"color": colour, "width": 2},
        name=name,
        legendgroup=name,
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[row.lr for row in rows],
        y=[row.loss for row in rows],
        mode="markers",
        marker={"color": colour, "size": 6, "symbol": symbol},
        name=name,
        legendgroup=name,
        showlegend=False,
        customdata=[row.run for row in rows],
        hovertemplate=f"{name}<br>rate %{{x:.3g}}: %{{y:.4f}}<br>%{{customdata}}<extra></extra>",
    )


def _mark_optimum(
    figure: go.Figure, size: SizeRate, rows: Sequence[TransferRow], colour: str
) -> None:
    if not size.lr or not size.interval:
        return
    lowest = min(row.loss or 0.0 for row in rows)
    figure.add_scatter(
        x=[size.lr],
        y=[lowest],
        mode="markers",
        marker={"color": INK, "size": 10, "symbol": "diamond", "line": {"color": colour}},
        error_x=interval_bars([size.lr], [size.interval]) | {"color": colour, "thickness": 2},
        name=f"best rate of {size.width}x{size.depth}",
        legendgroup=f"{size.width}x{size.depth}",
        showlegend=False,
        hovertemplate="best rate %{x:.3g}<extra></extra>",
    )


def mean_by_rate(points: Sequence[tuple[float, float]]) -> dict[float, float]:
    """The mean loss at each rate, over seeds, from the lowest rate on."""
    losses: dict[float, list[float]] = {}
    for lr, loss in points:
        losses.setdefault(lr, []).append(loss)
    return {lr: sum(here) / len(here) for lr, here in sorted(losses.items())}


def _best(found: Found) -> go.Figure:
    figure = go.Figure()
    known = list(dict.fromkeys([*PARAMETRIZATIONS, *found]))
    for name, rates in found.items():
        widths: list[int] = []
        best: list[float] = []
        intervals: list[tuple[float, float]] = []
        for size in rates.sizes:
            # further depths are of the first width
            if size.depth == rates.sizes[0].depth and size.lr and size.interval:
                widths.append(size.width)
                best.append(size.lr)
                intervals.append(size.interval)
        drift = rates.drift.width
        figure.add_scatter(
            x=widths,
            y=best,
            name=f"{name}: {drift.slope:+.2f} octaves an octave" if drift else name,
            mode="lines+markers",
            line={"color": COLOURS[known.index(name) % len(COLOURS)]},
            error_y=interval_bars(best, intervals),
        )
    styled(figure)
    figure.update_xaxes(type="log", title="width", dtick=0.30103)
    ends = [
        end for rates in found.values() for size in rates.sizes for end in (size.interval or ())
    ]
    figure.update_layout(showlegend=True)  # one line says its drift as well
    return figure.update_yaxes(title="best learning rate (base)", **_rates(ends))


def _rates(ends: Sequence[float]) -> dict[str, Any]:
    """An axis of rates, over the ends of their intervals; there may be none."""
    return {"type": "log"} | (log_ticks(ends) if ends else {})
