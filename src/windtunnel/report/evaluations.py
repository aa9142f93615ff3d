"""The section on what `evaluate` found of a lab's runs."""

from collections.abc import Iterator

from windtunnel.quantities import about
from windtunnel.report.blocks import Cell, RunId, Section, Table, Text
from windtunnel.report.view import LabView
from windtunnel.results.evaluation import (
    how_in_words,
    metric_in_words,
    read_evaluations,
    score_in_words,
)

_WHAT = (
    "± is a standard error over the items. What is better is said by pairs of the same items: "
    "windtunnel evaluate A B."
)
_HEADS = ("name", "run", "at tokens", "task", "asked", "metric", "score", "items")


def sections(view: LabView) -> Iterator[Section]:
    """One, where a run was evaluated."""
    rows: list[list[Cell]] = []
    for run in view.runs:
        for one in view.attempt(lambda path=run.path: read_evaluations(path)) or []:
            for measure in one.measures:
                rows.append(
                    [
                        run.recipe.name,
                        RunId(run.id),
                        "–" if one.tokens is None else about(one.tokens),
                        one.task,
                        how_in_words(one),
                        metric_in_words(measure),
                        score_in_words(measure),
                        f"{len(one.items):,}" if one.items else "–",
                    ]
                )
    if rows:
        blocks = [Text(_WHAT), Table(_HEADS, rows)]
        yield Section(anchor="evaluations", title="Evaluations", blocks=blocks)
