"""The section of a study: what was asked, what it means, what to do next; one figure that carries
the message, and the others folded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from windtunnel.choices import Table as Choices
from windtunnel.report.blocks import Block, Fold, Runs, Section, Text, chart
from windtunnel.report.experiments import FIGURES
from windtunnel.report.view import LabView
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.study import StudyResult, read_table


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a study is read by somebody who did not make it."""

    name: str
    """Of the experiment."""
    help: str
    """The question that it answers."""
    passed: str
    """What to do next where it passed, or had no verdict to give."""
    failed: str = ""
    """What to do next where it failed."""

    def next(self, result: StudyResult[Any]) -> str:
        """What to do, by the verdict."""
        return self.failed if result.verdict == "fail" and self.failed else self.passed


READINGS: Choices[Reading] = Choices(
    "reading of a study",
    (
        Reading(
            name="check",
            help="Does everything that the model computes and learns keep its size as the model "
            "grows?",
            passed="The rules hold, so what is measured on small models may be carried to larger "
            "ones. Next: `windtunnel search`.",
            failed="Mend the rule that is named before you spend on larger models: settings that "
            "were found small do not carry over. Then run `windtunnel check` again.",
        ),
        Reading(
            name="search",
            help="Which learning rate and which initialisation are best, jointly?",
            passed="Later studies take these settings by themselves. Next: `windtunnel transfer`.",
            failed="The paper's point is kept. More trials may find a better one: `windtunnel "
            "search --trials` with a larger number goes on from here.",
        ),
        Reading(
            name="transfer",
            help="Does the best learning rate stay where it is as the model and its data grow?",
            passed="The rate's law goes into the scaling study and the plan. Next: `windtunnel "
            "batch`.",
            failed="The best rate moves with the size. The law of the rate says how, and a plan "
            "follows it; do not carry one rate to all sizes by hand.",
        ),
        Reading(
            name="batch",
            help="Which batch reaches a loss with the fewest tokens, and how does it grow?",
            passed="The scaling study and the plan take the batch from this law. Next: "
            "`windtunnel scaling`.",
            failed="The law does not hold on what it had not seen: measure more batches or longer "
            "runs before you rely on it.",
        ),
        Reading(
            name="scaling",
            help="How does the loss fall with parameters and tokens?",
            passed="There is a law to plan with. Next: `windtunnel plan --flops` with your budget.",
            failed="The law missed the run that it had not seen. Larger or longer runs in the "
            "study bring it nearer to what you want to predict.",
        ),
        Reading(
            name="dynamics",
            help="What does the decay of the learning rate do, step by step?",
            passed="Nothing needs to be done: it shows why a branch ends so much lower than its "
            "stem.",
        ),
        Reading(
            name="ablate",
            help="Which data is worth putting into the decay?",
            passed="Take the mixture of the best arm for the decay: `windtunnel branch RUN --at "
            "TOKENS --mixture SOURCE=WEIGHT,...`.",
        ),
    ),
)


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
    blocks.append(Text(reading.next(result)))
    if charts[1:]:
        blocks.append(Fold("More figures", charts[1:]))
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
