"""The paper's eleven sets as tasks of lm-eval, and its scores beside ours.

The paper names no shots; these are those of its tool, UltraEval. It runs ARC and HellaSwag by the
likelihood of an option and by generation, and reports the higher; here they go by likelihood, which
for a model that has learnt to answer is the lower of the two (arXiv 2404.06395, section 6.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.evaluate.evaluation import Subject, Wanted, of_task
from windtunnel.evaluate.model import Show
from windtunnel.evaluate.tasks import Asked, Task
from windtunnel.results.evaluation import Evaluation, Measure, PaperScore

_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".parquet")
# Tables 3 and 4 of the paper, in the order of `ROWS`.
_MODELS: dict[str, tuple[float, ...]] = {
    "MiniCPM-1.2B": (49.14, 46.81, 49.63, 44.51, 32.75, 31.77, 10.60, 34.70, 80.93, 66.81, 54.72),
    "MiniCPM-2.4B": (51.13, 51.07, 53.46, 50.00, 47.31, 53.83, 10.24, 36.87, 85.44, 68.00, 68.25),
    "Mistral-7B": (46.12, 42.96, 62.69, 27.44, 45.20, 33.13, 5.00, 41.06, 83.92, 70.73, 80.43),
    "Llama2-7B": (32.42, 31.11, 44.32, 12.20, 27.17, 13.57, 1.80, 33.23, 75.25, 42.75, 75.62),
    "Phi-2": (23.37, 24.18, 52.66, 47.56, 55.04, 57.16, 3.50, 43.39, 86.11, 71.25, 73.07),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One of the paper's sets."""

    name: str
    """What the paper calls it."""
    task: str
    """Of lm-eval, and the name of a file in `--data`."""
    shots: int
    metrics: tuple[str, ...]
    """`metric` or `metric,filter`: the first that the task has."""


ROWS = (
    Row(name="C-Eval", task="ceval-valid", shots=5, metrics=("acc",)),
    Row(name="CMMLU", task="cmmlu", shots=5, metrics=("acc",)),
    Row(name="MMLU", task="mmlu", shots=5, metrics=("acc",)),
    Row(name="HumanEval", task="humaneval", shots=0, metrics=("pass@1",)),
    Row(name="MBPP", task="mbpp", shots=3, metrics=("pass@1",)),
    Row(name="GSM8K", task="gsm8k", shots=8, metrics=("exact_match,flexible-extract",)),
    Row(name="MATH", task="minerva_math", shots=4, metrics=("math_verify", "exact_match")),
    Row(name="BBH", task="bbh", shots=3, metrics=("exact_match,get-answer", "exact_match")),
    Row(name="ARC-e", task="arc_easy", shots=0, metrics=("acc_norm",)),
    Row(name="ARC-c", task="arc_challenge", shots=0, metrics=("acc_norm",)),
    Row(name="HellaSwag", task="hellaswag", shots=0, metrics=("acc_norm",)),
)
SUITES: Mapping[str, tuple[Row, ...]] = {"minicpm": ROWS}


def suite_of(name: str) -> tuple[Row, ...]:
    """Raises InputError for a name that is no suite's."""
    if name not in SUITES:
        raise InputError(f"--suite {name}: expected {', '.join(SUITES)}")
    return SUITES[name]


def scored(
    subject: Subject, name: str, data: Path | None, wanted: Wanted, show: Show
) -> Iterator[PaperScore]:
    """A row for each set, with the paper's scores beside the model's; a set whose data are not here
    says so. Raises InputError where there is no such suite or folder.
    """
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data}: expected a folder with files such as hellaswag.jsonl")
    for place, row in enumerate(suite_of(name)):
        paper = {model: scores[place] for model, scores in _MODELS.items()}
        file = _file(data, row)
        task = Task.of(f"{row.task}={file}" if file else row.task)
        shots = row.shots if wanted.asked.shots is None else wanted.asked.shots
        asked = Asked(
            shots=shots,
            limit=wanted.asked.limit,
            download=wanted.asked.download,
            trust=wanted.asked.trust,
        )
        measure, why = None, ""
        try:
            found = of_task(
                subject, Wanted(asked=asked, chat=wanted.chat, anew=wanted.anew), task, show
            )
            measure = _measure(found, row)
        except InputError as error:
            why = str(error)
        yield PaperScore(
            name=row.name,
            shots=shots,
            scored=f"{measure.metric}, {measure.filter}" if measure else row.metrics[0],
            value=measure and 100 * measure.value,
            stderr=None if measure is None or measure.stderr is None else 100 * measure.stderr,
            paper=paper,
            why=why,
        )


def _file(data: Path | None, row: Row) -> Path | None:
    if data is None:
        return None
    names = (f"{row.task}{ending}" for ending in _ENDINGS)
    return next((data / name for name in names if (data / name).is_file()), None)


def _measure(found: list[Evaluation], row: Row) -> Measure:
    """Of the group as a whole, which comes first. Raises InputError."""
    measures = found[0].measures
    for asked in row.metrics:
        metric, _, filter = asked.partition(",")
        for one in measures:
            if one.metric == metric and (not filter or one.filter == filter):
                return one
    known = ", ".join(f"{one.metric},{one.filter}" for one in measures)
    raise InputError(f"{row.task}: no {row.metrics[0]} among {known}")
