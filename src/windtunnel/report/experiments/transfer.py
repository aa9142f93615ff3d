"""Figures of the transfer study: loss against the rate by size, and where the best rate goes with
size, length and batch.
"""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from windtunnel.quantities import about
from windtunnel.recipe import PARAMETRIZATIONS
from windtunnel.report.figures import interval_bars, styled
from windtunnel.results.study import StudyResult
from windtunnel.results.transfer import (
    ParametrizationRates,
    SizeRate,
    TransferNumbers,
    TransferRow,
)
from windtunnel.scaling_recipe import rate_law

# by parametrization, in the order of their table; those that a lab has beside them come after
_COLOURS = ("#33658a", "#6a994e", "#d1495b", "#f4a259", "#8d6a9f", "#2f2f2f")

# An axis of rates, with a label at every octave.
_OCTAVES = [0.01 * 2.0**octave for octave in range(-7, 8)]
_ASIDE = 1.02  # from cell to cell, where several are drawn at one length
_RATES = {"type": "log", "tickvals": _OCTAVES, "ticktext": [f"{lr:.3g}" for lr in _OCTAVES]}

Found = Mapping[str, ParametrizationRates]


def figures(
    result: StudyResult[TransferNumbers], rows: Sequence[TransferRow]
) -> list[tuple[str, go.Figure]]:
    """(caption, figure): the bowls by parametrization, and the best rate against width and, where
    several were measured, against the length.
    """
    numbers = result.numbers
    # what is compared between sizes: the longest runs with the first batch
    compared = {
        name: rates.model_copy(update={"sizes": _compared(rates, numbers)})
        for name, rates in numbers.parametrizations.items()
    }
    kept = [row for row in rows if _is_compared(row, numbers)]
    drawn = [
        (
            "Held-out loss after the decay against the base learning rate. Points: runs; lines: "
            "the mean over seeds. Where the rate transfers, the bowls of all sizes have their "
            "lowest points at the same rate.",
            _bowls(compared, kept),
        ),
        (
            "The best learning rate with its 90% interval, from a parabola through the points "
            "near it.",
            _best(compared),
        ),
    ]
    if len(numbers.lengths) > 1:
        drawn.append(
            (
                "The best learning rate against the length of the run, with its 90% interval, by "
                "size and batch. Lines: the law through all of them.",
                _along(numbers),
            )
        )
    return drawn


def _compared(rates: ParametrizationRates, numbers: TransferNumbers) -> tuple[SizeRate, ...]:
    """Those of the longest runs with the first batch; all of a study of one length and batch."""
    return tuple(
        size
        for size in rates.sizes
        if size.tokens in (None, numbers.tokens) and size.batch in (None, numbers.batch)
    )


def _is_compared(row: TransferRow, numbers: TransferNumbers) -> bool:
    """A run ends at a whole step: near the length that was asked for."""
    lengths = numbers.lengths or (numbers.tokens,)
    asked = min(lengths, key=lambda tokens: abs(tokens - row.tokens))
    return asked == numbers.tokens and row.batch == numbers.batch


def _along(numbers: TransferNumbers) -> go.Figure:
    """Of the first parametrization, on which the verdict is."""
    name, rates = next(iter(numbers.parametrizations.items()))
    cells: dict[tuple[int, int, int], list[SizeRate]] = {}
    for size in rates.sizes:
        if size.lr and size.interval and size.tokens and size.batch:
            cells.setdefault((size.width, size.depth, size.batch), []).append(size)
    law = rate_law(rates.law) if rates.law else None
    figure = go.Figure()
    steps = max(1, len(cells) - 1)
    shades = sample_colorscale("Viridis", [0.9 * i / steps for i in range(len(cells))])
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
    figure.update_yaxes(title=f"best learning rate (base), {name}", **_RATES)
    return figure


def _bowls(found: Found, rows: Sequence[TransferRow]) -> go.Figure:
    figure = make_subplots(
        1, len(found), subplot_titles=list(found), shared_yaxes=True, horizontal_spacing=0.04
    )
    measured = _by_size(rows)
    for column, (name, rates) in enumerate(found.items(), 1):
        steps = max(1, len(rates.sizes) - 1)
        shades = sample_colorscale("Viridis", [0.9 * i / steps for i in range(len(rates.sizes))])
        for size, colour in zip(rates.sizes, shades, strict=True):
            here = measured.get((name, size.width, size.depth), [])
            line = _mean_by_rate(here)
            figure.add_scatter(
                x=list(line),
                y=list(line.values()),
                mode="lines",
                line={"color": colour, "width": 2},
                name=f"{size.width} wide, {size.depth} deep",
                legendgroup=str((size.width, size.depth)),
                showlegend=column == 1,
                row=1,
                col=column,
            )
            figure.add_scatter(
                x=[lr for lr, _ in here],
                y=[loss for _, loss in here],
                mode="markers",
                marker={"color": colour, "size": 5},
                legendgroup=str((size.width, size.depth)),
                showlegend=False,
                row=1,
                col=column,
            )
    styled(figure)
    figure.update_xaxes(title="learning rate (base)", **_RATES)
    figure.update_yaxes(title="loss, nats/token", col=1)
    return figure.update_layout(margin={"t": 40})


def _by_size(
    rows: Sequence[TransferRow],
) -> dict[tuple[str, int, int], list[tuple[float, float]]]:
    """(rate, loss) of the runs that came to their end, by parametrization, width and depth."""
    found: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    for row in rows:
        if row.source == "all" and row.loss is not None:
            here = found.setdefault((row.parametrization, row.width, row.depth), [])
            here.append((row.lr, row.loss))
    return found


def _mean_by_rate(points: Sequence[tuple[float, float]]) -> dict[float, float]:
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
            line={"color": _COLOURS[known.index(name) % len(_COLOURS)]},
            error_y=interval_bars(best, intervals),
        )
    styled(figure)
    figure.update_xaxes(type="log", title="width", dtick=0.30103)
    figure.update_yaxes(title="best learning rate (base)", **_RATES)
    return figure
