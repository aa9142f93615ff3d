"""The section of a study: what was asked, what it means, what to do next; one figure that carries
the message, and the others folded.
"""

from collections.abc import Callable, Iterator
from typing import Any

from windtunnel.report.blocks import Block, Fold, Runs, Section, Text, chart
from windtunnel.report.experiments import DETAILS, FIGURES
from windtunnel.report.readings import READINGS
from windtunnel.report.standing import lab_option
from windtunnel.report.view import LabView
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.study import StudyResult, read_table


def of(name: str) -> Callable[[LabView], Iterator[Section]]:
    """The section of the lab's study of this experiment."""

    def sections(view: LabView) -> Iterator[Section]:
        result = view.studies.get(name)
        if result is not None:
            yield _section(view, name, result)

    return sections


def _section(view: LabView, name: str, result: StudyResult[Any]) -> Section:
    reading = READINGS[name]
    drawn = FIGURES[name](result, read_table(view.lab, EXPERIMENTS[name]))
    charts = [chart(one) for one in drawn]
    blocks: list[Block] = [
        Text(reading.help),
        Text(f"Found: {sentence(result.summary)}"),
        *charts[:1],
    ]
    blocks.append(Text(reading.next(result, lab_option(view.lab))))
    if charts[1:]:
        blocks.append(Fold("More figures", charts[1:]))
    if name in DETAILS:
        blocks.append(Fold("The numbers", DETAILS[name](result)))
    if result.runs:
        blocks.append(Runs(result.runs))
    return Section(
        anchor=name,
        title=name.capitalize(),
        blocks=blocks,
        verdict=result.verdict or "no verdict",
        mark=result.verdict or "care",
    )


def sentence(text: str) -> str:
    """With a full stop behind."""
    text = text.strip()
    return text + ("" if text.endswith((".", "!", "?")) else ".")
