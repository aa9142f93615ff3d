"""What the models of a tour write, and how its studies went."""

from collections.abc import Iterator

from windtunnel.quantities import about
from windtunnel.report.blocks import Block, Go, Quote, Section, Table, Text, Word
from windtunnel.report.studies import sentence
from windtunnel.report.view import LabView
from windtunnel.results.tour import TOUR, TourNumbers


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
            *_written(numbers),
        ],
    )


def _written(numbers: TourNumbers) -> Iterator[Block]:
    """The same prompt answered by models of three sizes; in older results by the best one alone."""
    if not numbers.samples:
        yield Text("The best model writes:")
        yield Quote(numbers.sample)
        return
    yield Text("The same prompt, answered by three of its models:")
    for sample in numbers.samples:
        bits = f", {sample.bits_per_byte:.3f} bits/byte" if sample.bits_per_byte else ""
        size, length = about(sample.params_total), about(sample.tokens)
        yield Text(f"{sample.what.capitalize()}: {size} parameters, {length} tokens{bits}.")
        yield Quote(sample.text)
