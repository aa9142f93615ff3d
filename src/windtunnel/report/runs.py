"""The runs of a lab: as a picture of stems and branches, and as a table."""

from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from windtunnel.model.shape import count
from windtunnel.quantities import about
from windtunnel.report.blocks import Block, Cell, Chart, Fold, Name, Section, Table, Text, Word
from windtunnel.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    loss_figure,
    plain,
    rate_figure,
    styled,
)
from windtunnel.report.view import LabView
from windtunnel.results.run import RunSummary
from windtunnel.train.run import Run

MOST_CURVES = 24  # runs in one figure; more can't be told apart
_MOST_LANES = 60  # stems and branches in the picture of the tree
_LANE, _ROOM = 15, 90  # pixels
_MARKS = {"done": "pass", "failed": "fail", "running": "care", "interrupted": "care"}


def sections(view: LabView) -> Iterator[Section]:
    """Curves of runs that belong to no study, the tree, and every run in a table."""
    alone = [run for run in view.runs if run.id not in view.of_studies]
    # what learns from preferences has another loss than that of the next token
    alone = [run for run in alone if run.recipe.preference is None]
    drawn = [run for run in _newest(alone) if _has_curves(view, run)]
    if drawn:
        yield Section(anchor="curves", title="Curves", blocks=_curves(drawn, len(alone)))
    if not view.runs:
        return
    blocks: list[Block] = []
    lanes = [(depth, one) for depth, one in _lanes(view) if _in_a_tree(view, one)]
    if lanes:
        caption = (
            "Stems (blue) train at a constant rate and can be extended at any time; branches "
            "(orange) leave them and decay. The number is the loss in which each ended. A click "
            "leads to the run."
        )
        blocks.append(Chart(caption, [tree_figure(lanes[:_MOST_LANES])]))
    if len(lanes) > _MOST_LANES:
        blocks.append(Text(f"The first {_MOST_LANES} of {len(lanes)} of them are drawn."))
    table = _table(view, view.runs)
    blocks.append(table if len(view.runs) <= 12 else Fold(f"All {len(view.runs)} runs", [table]))
    yield Section(anchor="runs", title="Runs", blocks=blocks)


def _newest(runs: Sequence[Run]) -> list[Run]:
    """The last ones, with the stems that they leave."""
    return list(runs[-MOST_CURVES:])


def _curves(drawn: Sequence[Run], there: int) -> list[Block]:
    some = f" The newest {len(drawn)} of {there} runs." if there > len(drawn) else ""
    return [
        Chart(
            "Lines: training loss, a running mean of 25 steps. Points: held-out text. Blue: "
            f"stems; orange: branches; grey: other runs.{some}",
            [loss_figure(drawn)],
        ),
        Fold(
            "Learning rates",
            [Chart("The learning rate of each run, by its recipe.", [rate_figure(drawn)])],
        ),
    ]


def _has_curves(view: LabView, run: Run) -> bool:
    """Whether it recorded something that can be read; what can't joins the faults."""
    steps = view.attempt(run.steps)
    return view.attempt(run.validations) is not None and steps is not None


def _in_a_tree(view: LabView, one: RunSummary) -> bool:
    """Whether it leaves another run, or others leave it."""
    return one.parent in view.summaries or one.id in view.parents


def _lanes(view: LabView) -> list[tuple[int, RunSummary]]:
    children: dict[str | None, list[RunSummary]] = {}
    for one in sorted(view.summaries.values(), key=lambda one: one.at_tokens or 0):
        children.setdefault(one.parent, []).append(one)
    found: list[tuple[int, RunSummary]] = []

    def add(one: RunSummary, depth: int) -> None:
        found.append((depth, one))
        for branch in children.get(one.id, ()):
            add(branch, depth + 1)

    for one in view.summaries.values():
        if one.parent not in view.summaries:
            add(one, 0)
    return found


def tree_figure(lanes: Sequence[tuple[int, RunSummary]]) -> go.Figure:
    """A line for each run over its tokens; that of a branch begins at its parent's."""
    figure, place = go.Figure(), {one.id: lane for lane, (_, one) in enumerate(lanes)}
    for kind, colour in (("stem", BLUE), ("branch", ORANGE), ("run", GREY)):
        x: list[float | None] = []
        y: list[float | None] = []
        for lane, (_, one) in enumerate(lanes):
            if one.kind != kind:
                continue
            begin = one.at_tokens or 0
            if one.parent in place:
                x.append(begin)
                y.append(place[one.parent])
            x += [begin, begin + max(one.tokens - begin, 0), None]
            y += [lane, lane, None]
        if x:
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines",
                name={"stem": "stems", "branch": "branches", "run": "other runs"}[kind],
                line={"color": colour, "width": 2.5},
                hoverinfo="skip",
            )
    _add_checkpoints(figure, lanes)
    figure.add_scatter(
        x=[one.tokens for _, one in lanes],
        y=list(range(len(lanes))),
        mode="markers+text",
        marker={
            "size": 8,
            "color": [{"stem": BLUE, "branch": ORANGE}.get(one.kind, GREY) for _, one in lanes],
            "symbol": ["circle" if one.status == "done" else "circle-open" for _, one in lanes],
        },
        text=["" if one.loss is None else f" {one.loss:.3f}" for _, one in lanes],
        textposition="middle right",
        textfont={"size": 11},
        customdata=[one.id for _, one in lanes],
        hovertext=[
            f"{plain(one.name)} {one.id}<br>{one.kind}, {one.status}, {about(one.tokens)} tokens"
            for _, one in lanes
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )
    styled(figure, _LANE * len(lanes) + _ROOM)
    figure.update_yaxes(visible=False, range=[len(lanes) - 0.3, -0.7])
    figure.update_layout(margin={"r": 52, "l": 14})
    return figure


def _add_checkpoints(figure: go.Figure, lanes: Sequence[tuple[int, RunSummary]]) -> None:
    """Where a stem can be left: a small mark for each checkpoint that it keeps."""
    x, y, ids = [], [], []
    for lane, (_, one) in enumerate(lanes):
        if one.kind != "stem":
            continue
        for folder in sorted((one.path / "checkpoints").glob("[0-9]*")):
            if folder.name.isdigit():
                x.append(int(folder.name))
                y.append(lane)
                ids.append(one.id)
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        name="checkpoints",
        marker={"color": BLUE, "size": 9, "symbol": "line-ns-open"},
        customdata=ids,
        hovertemplate="checkpoint of %{customdata} at %{x:.4s} tokens<extra></extra>",
        showlegend=bool(x),
    )


def _table(view: LabView, runs: Sequence[Run]) -> Table:
    """The runs as a tree: each with its branches below it, in the order in which they leave."""
    params: dict[str, str] = {}
    for run in runs:
        params[run.id] = about(count(run.recipe.model).params_total)
    rows: list[list[Cell]] = []
    for depth, one in _lanes(view):
        status: Cell = Word(one.status, _MARKS[one.status])
        rows.append(
            [
                Name(one.name, one.id, depth),
                one.kind,
                params[one.id],
                about(one.tokens),
                score(one.loss),
                score(one.bits_per_byte),
                status,
            ]
        )
    return Table(("run", "kind", "parameters", "tokens", "loss", "bits/byte", "status"), rows)


def score(value: float | None) -> str:
    """A loss as the page shows it."""
    return "–" if value is None else f"{value:.4f}"
