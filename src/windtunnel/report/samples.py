"""What the models of a tour write, and how its studies went."""

from collections.abc import Iterator

from windtunnel.report.blocks import Go, Quote, Section, Table, Text, Word
from windtunnel.report.studies import sentence
from windtunnel.report.view import LabView
from windtunnel.results.tour import TOUR


def sections(view: LabView) -> Iterator[Section]:
    """Of the tour, where one was taken."""
    result = view.studies.get(TOUR.name)
    if result is None:
        return
    numbers = result.numbers
    rows = []
    for step in numbers.steps:
        word = Word(step.verdict or "no verdict", step.verdict or "care")
        anchor = "plan-tour" if step.study == "plan" else step.study
        rows.append([Go(step.study, anchor), word, f"{step.minutes:.1f}"])
    yield Section(
        anchor="tour",
        title="The tour",
        blocks=[
            Text(f"On the corpus {numbers.corpus}. {sentence(result.summary)}"),
            Table(("study", "verdict", "minutes"), rows),
            Text("The best model writes:"),
            Quote(numbers.sample),
        ],
    )
