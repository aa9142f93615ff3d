"""Figures of the batch study: measured losses, and the best batches with the laws through them."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from windtunnel.quantities import about
from windtunnel.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    interval_bars,
    ramp,
    styled,
)
from windtunnel.results.batch import ArmFound, BatchNumbers, BatchRow, BestBatch
from windtunnel.results.study import StudyResult
from windtunnel.tunnel.batch.design import ARMS

_PANEL = 320  # pixels


def figures(
    result: StudyResult[BatchNumbers], rows: Sequence[BatchRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figure or figures) each: contours of the loss; the measured losses, and the best
    batch against loss and tokens.
    """
    numbers = result.numbers
    drawn: list[tuple[str, go.Figure | list[go.Figure]]] = []
    for arm in numbers.arms:
        contours = _contours(arm, numbers, rows)
        if contours:
            caption = (
                "Where the loss is equal, over batch and tokens; a number is nats/token. Diamonds: "
                "the batch that needs the fewest tokens, with its 90% interval; dashed: the law "
                f"bs = c D^p through them. The learning rate is {_called(arm)}."
            )
            drawn.append((caption, contours))
    for arm in numbers.arms:
        caption = (
            f"Loss after the decay against the batch, with the learning rate {_called(arm)}: a "
            "line for each number of tokens."
        )
        drawn.append((caption, _losses(arm, numbers, rows)))
    for arm, found in numbers.arms.items():
        caption = (
            "The batch that reaches a loss with the fewest tokens, by size, with its 90% interval; "
            f"the learning rate is {_called(arm)}. Dashed: bs = c / L^k against the loss, and "
            "bs = c D^p against the tokens. Lengths whose best batch lies outside the sampled ones "
            "are left out."
        )
        drawn.append((caption, _best_batches(found, numbers.batches)))
    return drawn


def _called(arm: str) -> str:
    return ARMS[arm].help if arm in ARMS else arm


def _contours(arm: str, numbers: BatchNumbers, rows: Sequence[BatchRow]) -> list[go.Figure]:
    """Of each size that has losses at several batches and lengths."""
    found, lines = numbers.arms[arm], _lines_of(arm, rows)
    drawn = []
    for place, size in enumerate(numbers.sizes):
        losses: list[list[float | None]] = []
        for length in numbers.lengths:
            known = dict(lines.get((size.width, size.depth, length), []))
            losses.append([known.get(batch) for batch in numbers.batches])
        if len(losses) < 2 or not any(any(row) for row in losses):
            continue
        figure = go.Figure(
            go.Contour(
                z=losses,
                x=numbers.batches,
                y=numbers.lengths,
                contours={"coloring": "lines", "showlabels": True},
                ncontours=14,
                line={"width": 1.5},
                colorscale=[[0, ORANGE], [1, BLUE]],
                showscale=False,
                hovertemplate="batch %{x}, %{y:.3s} tokens: %{z:.4f}<extra></extra>",
                name="loss",
            )
        )
        levels = _inside(found.sizes[place].levels) if place < len(found.sizes) else []
        _add_vertices(figure, levels)
        if law := found.laws.get("tokens"):
            tokens = np.geomspace(min(numbers.lengths), max(numbers.lengths), 30)
            batch = law.constants["c"] * tokens ** law.constants["p"]
            figure.add_scatter(
                x=batch.tolist(),
                y=tokens.tolist(),
                mode="lines",
                name="law",
                line={"color": GREY, "width": 2, "dash": "dash"},
                hoverinfo="skip",
            )
        styled(figure, _PANEL, f"{size.width}x{size.depth}")
        batches = [float(np.log10(batch)) for batch in (numbers.batches[0], numbers.batches[-1])]
        figure.update_xaxes(
            type="log",
            title="batch, tokens",
            tickvals=numbers.batches,
            range=[min(batches) - 0.05, max(batches) + 0.05],
        )
        names = [about(length) for length in numbers.lengths]
        ticks = {"tickvals": numbers.lengths, "ticktext": names}
        figure.update_yaxes(type="log", title="tokens", **ticks)
        drawn.append(figure.update_layout(showlegend=False))
    return drawn


def _add_vertices(figure: go.Figure, levels: "Sequence[BestBatch]") -> None:
    best = [level.batch or 0.0 for level in levels]
    intervals = [level.interval or (0.0, 0.0) for level in levels]
    figure.add_scatter(
        x=best,
        y=[level.tokens for level in levels],
        mode="markers",
        name="best batch",
        marker={"color": INK, "size": 9, "symbol": "diamond"},
        error_x=interval_bars(best, intervals) | {"color": INK, "thickness": 1, "width": 3},
        hovertemplate="best batch %{x:.0f} at %{y:.3s} tokens<extra></extra>",
    )


def _losses(arm: str, numbers: BatchNumbers, rows: Sequence[BatchRow]) -> list[go.Figure]:
    """Of each size."""
    shades = ramp(len(numbers.lengths))
    lines = _lines_of(arm, rows)
    drawn = []
    for size in numbers.sizes:
        figure = go.Figure()
        for length, shade in zip(numbers.lengths, shades, strict=True):
            points = sorted(lines.get((size.width, size.depth, length), []))
            figure.add_scatter(
                x=[batch for batch, _ in points],
                y=[loss for _, loss in points],
                mode="lines+markers",
                line={"color": shade, "width": 1.5},
                name=about(length),
            )
        styled(figure, _PANEL, f"{size.width}x{size.depth}")
        figure.update_xaxes(type="log", title="batch, tokens", tickvals=numbers.batches)
        figure.update_yaxes(title="loss, nats/token", nticks=6)
        # the legend stands below the title
        drawn.append(figure.update_layout(margin={"t": 60}, showlegend=True))
    return drawn


def _lines_of(
    arm: str, rows: Sequence[BatchRow]
) -> dict[tuple[int, int, int], list[tuple[int, float]]]:
    """(batch, loss) of an arm's runs that came to their end, by width, depth and length."""
    lines: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
    for row in rows:
        if (row.way, row.arm, row.source) == ("full", arm, "all") and row.loss is not None:
            line = lines.setdefault((row.width, row.depth, row.tokens), [])
            line.append((row.batch, row.loss))
    return lines


def _best_batches(found: ArmFound, sampled: Sequence[int]) -> list[go.Figure]:
    """Against the loss, and against the tokens."""
    losses, lengths = go.Figure(), go.Figure()
    for index, size in enumerate(found.sizes):
        inside = _inside(size.levels)
        best = [level.batch or 0.0 for level in inside]
        intervals = [level.interval or (0.0, 0.0) for level in inside]
        loss_of, tokens_of = [at.loss for at in inside], [at.tokens for at in inside]
        for figure, x in ((losses, loss_of), (lengths, tokens_of)):
            figure.add_scatter(
                x=x,
                y=best,
                error_y=interval_bars(best, intervals) | {"thickness": 1, "width": 2},
                mode="markers",
                marker={"color": COLOURS[index % len(COLOURS)], "size": 7},
                name=f"{size.width}x{size.depth}",
                showlegend=bool(inside),
            )
    _draw_laws(losses, lengths, found)
    for figure in (losses, lengths):
        styled(figure, _PANEL)
        figure.update_yaxes(type="log", tickvals=sampled, title="best batch, tokens")
    losses.update_xaxes(title="loss, nats/token", autorange="reversed", nticks=6)
    known = sorted({level.tokens for size in found.sizes for level in size.levels})
    names = [about(length) for length in known]
    lengths.update_xaxes(type="log", title="tokens", tickvals=known, ticktext=names)
    return [losses, lengths]


def _inside(levels: Sequence[BestBatch]) -> list[BestBatch]:
    """Those whose best batch lies inside the sampled ones."""
    return [level for level in levels if level.batch is not None]


def _draw_laws(losses: go.Figure, lengths: go.Figure, found: ArmFound) -> None:
    """The laws of one variable, over the range of the best batches that they are fitted to."""
    inside: list[BestBatch] = []
    for size in found.sizes:
        inside += _inside(size.levels)
    if law := found.laws.get("loss"):
        _draw_law(losses, [level.loss for level in inside], law.constants, -1, "k")
    if law := found.laws.get("tokens"):
        _draw_law(lengths, [level.tokens for level in inside], law.constants, 1, "p")


def _draw_law(
    figure: go.Figure,
    values: Sequence[float],
    constants: Mapping[str, float],
    sign: int,
    exponent: str,
) -> None:
    """bs = c x^(sign times the exponent of that name)."""
    x = np.geomspace(min(values), max(values), 50)
    figure.add_scatter(
        x=x,
        y=constants["c"] * x ** (sign * constants[exponent]),
        mode="lines",
        name="law",
        line={"color": GREY, "width": 1, "dash": "dash"},
        showlegend=False,
    )
