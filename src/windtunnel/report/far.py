"""The sections of models that were asked about long texts: how often they found what stands far
away, by length and depth, and what distant text saves.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import plotly.graph_objects as go

from windtunnel.quantities import about
from windtunnel.report.blocks import Block, Chart, Section, Table, Text
from windtunnel.report.figures import BLUE, plain, styled
from windtunnel.report.view import LabView
from windtunnel.results.evaluation import Evaluation, Measure
from windtunnel.train.run import Run

_WHAT = (
    "Share of questions about long texts that are answered, by the length of the text in tokens "
    "and by how deep in it the answer stands: 0 is the beginning."
)
_SAVED = (
    "Held-out documents at a position: bits a byte with all that comes before it, with the nearest "
    "tokens alone, and what the distant ones save, with twice the standard error."
)


def sections(view: LabView) -> Iterator[Section]:
    """One for each run that was asked, with its last checkpoint that was."""
    for run in view.runs:
        found = view.attempt(lambda which=run: _evaluations(which)) or []
        if not found:
            continue
        newest = max(one.tokens or 0 for one in found)
        last = [one for one in found if (one.tokens or 0) == newest]
        asked = [one for one in last if any("@" in measure.filter for measure in one.measures)]
        blocks: list[Block] = [Text(_WHAT)]
        if asked:
            blocks.append(Chart(f"At {about(newest)} tokens.", [heat_map(one) for one in asked]))
        for one in last:
            if one not in asked and one.measures:
                blocks += [Text(_SAVED), Table(("position", "all", "near", "saved"), _rows(one))]
        yield Section(
            anchor=f"far-{run.id}",
            title=f"What is far away: {run.recipe.name} ({run.id[:6]})",
            blocks=blocks,
        )


def heat_map(found: Evaluation) -> go.Figure:
    """Of one kind of question: lengths along, depths down."""
    shares: dict[tuple[int, float], float] = {}
    for measure in found.measures:
        length, at, depth = measure.filter.partition("@")
        if at:
            shares[int(length), float(depth)] = measure.value
    lengths = sorted({length for length, _ in shares})
    depths = sorted({depth for _, depth in shares})
    cells = [[shares[length, depth] for length in lengths] for depth in depths]
    figure = go.Figure(
        go.Heatmap(
            x=[str(length) for length in lengths],
            y=[f"{depth:g}" for depth in depths],
            z=cells,
            zmin=0,
            zmax=1,
            colorscale=[[0, "rgba(128,128,128,0.10)"], [1, BLUE]],
            text=[[f"{cell:.0%}" for cell in line] for line in cells],
            texttemplate="%{text}",
        )
    )
    figure.update_xaxes(title="tokens", type="category")
    figure.update_yaxes(title="depth", type="category", autorange="reversed")
    figure.update_layout(title=plain(found.task.removeprefix("far/")))
    return styled(figure)


def _evaluations(run: Run) -> list[Evaluation]:
    """Those of long texts. Raises InputError for a file that is damaged."""
    files: Sequence[Path] = sorted((run.path / "evaluations").glob("*-far-*.json"))
    return [one for one in map(Evaluation.read, files) if one.task.startswith("far/")]


def _rows(found: Evaluation) -> list[list[str]]:
    by_position: dict[str, list[Measure]] = {}
    for measure in found.measures:
        by_position.setdefault(measure.filter.partition(",")[0], []).append(measure)
    rows = []
    for position, measures in by_position.items():
        cells = [f"{measure.value:.4f}" for measure in measures]
        if measures[-1].stderr is not None:
            cells[-1] += f" ± {2 * measures[-1].stderr:.4f}"
        rows.append([position, *cells])
    return rows
