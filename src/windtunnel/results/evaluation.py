"""What `evaluate` finds: scores of a model on tasks and texts, item by item, and how two models
compare. A run's stand in its folder, RUN/evaluations/, a file for each task.
"""

from pathlib import Path
from typing import Literal

from windtunnel.results.record import Record
from windtunnel.results.scores import TaskScores

Verdict = Literal["better", "worse", "no difference"]


class Measure(Record):
    """One way to score a task."""

    metric: str
    """Such as acc, acc_norm, exact_match or bits_per_byte."""
    filter: str
    """How lm-eval takes the answer out of what was said; `none` where it is taken as it is."""
    value: float
    """The score: the sum of `values` over the sum of `weights`, where these are known."""
    stderr: float | None
    """Its standard error over items; None where there is but one item, or no known error."""
    higher_is_better: bool
    """False of bits_per_byte and of perplexities."""
    values: list[float] | None = None
    """By item, in the order of `Evaluation.items`; None of a metric that items do not have."""
    weights: list[float] | None = None
    """By item: the bytes of its text where the value is its bits; None where all weigh 1."""


class Evaluation(Record):
    """A file of RUN/evaluations/: a model on one task or text."""

    task: str
    """Its name."""
    model: str
    """The run's id, or the name of a folder or file."""
    tokens: int | None
    """Tokens that the run was trained on at the checkpoint; None of a folder or file."""
    engine: str
    """What the model was computed with."""
    settings: dict[str, str]
    """All else that decides the scores: shots, how many items, the data and the versions."""
    key: str
    """Names the task, the settings and the engine: with the same one nothing need be computed
    again.
    """
    items: list[str]
    """Which items were scored: the beginning of a sha256 of each."""
    measures: list[Measure]
    """The ways in which it was scored."""


class Difference(Record):
    """Two models on the same items of a task, or of all tasks together."""

    task: str
    """Its name."""
    metric: str
    """As `Measure` has it."""
    filter: str
    """As `Measure` has it."""
    items: int
    """How many both were scored on."""
    first: float
    """The first model's score on these."""
    second: float
    """The second model's."""
    difference: float
    """Second minus first."""
    interval: tuple[float, float]
    """Of the difference, with 95% probability: a bootstrap over items, which are drawn in pairs."""
    verdict: Verdict
    """What the second is against the first: better or worse where the interval excludes 0."""


class Overlap(Record):
    """How much of an evaluation's items stands in a source that the model was trained on."""

    task: str
    """The evaluation's name."""
    source: str
    """A source of a corpus, as corpus/source."""
    items: int
    """Items that are long enough to be looked for."""
    touched: int
    """Items of which at least one n-gram stands in the source."""
    share: float
    """N-grams of all items that stand in the source, as a share of them all."""
    words: int
    """n: the words of an n-gram."""


class PaperScore(Record):
    """A row of `--suite minicpm`."""

    name: str
    """What the paper calls it."""
    shots: int
    """Examples before the question."""
    scored: str
    """How it is scored here."""
    value: float | None
    """In percent; None where there is no data."""
    stderr: float | None
    """In percent."""
    paper: dict[str, float]
    """The paper's scores, in percent, by model (arXiv 2404.06395, tables 3 and 4)."""
    why: str
    """Why there is no value; empty where there is one."""


class FittedScore(Record):
    """A task's score over several models as a sigmoid of their bits per byte."""

    task: str
    """Its name."""
    metric: str
    """As `Measure` has it."""
    text: str
    """The text or the answers whose bits per byte are the loss."""
    models: int
    """How many it was fitted to."""
    chance: float
    """What guessing scores."""
    middle: float | None
    """Bits per byte at which the score is half-way between chance and 1; None where the law could
    be flat.
    """
    steepness: float
    """Per bit a byte."""
    steepness90: tuple[float, float]
    """Its 90% interval: where it holds 0, no law is seen."""
    scatter: float
    """How many times farther the models lie from it than their standard errors would have it."""
    reach: tuple[float, float]
    """The lowest and the highest bits per byte of the models."""
    at: float
    """The bits per byte that were asked about."""
    score: float
    """The score to expect there."""
    interval90: tuple[float, float]
    """Its 90% interval."""


class Evaluations(Record):
    """What `evaluate --json` prints."""

    evaluations: list[Evaluation]
    """Each model on each task."""
    differences: list[Difference]
    """Where two models or more are given: each against the first."""
    overlaps: list[Overlap]
    """Where `--contamination` is given."""
    suite: list[PaperScore]
    """Where `--suite` is given, of the first model."""
    laws: list[FittedScore]
    """Where `--law` is given: each task's score over the models."""
    scores: list[TaskScores]
    """Where `--law` is given and the models are runs that read one corpus: what was kept for plans.
    """


def read_evaluations(run: Path, tokens: int | None = None) -> list[Evaluation]:
    """What a run's folder holds, by task and checkpoint; `tokens`: of this checkpoint alone. Of a
    group that was scored as one, its parts are left out. Raises InputError for a damaged file.
    """
    found = [Evaluation.read(file) for file in sorted((run / "evaluations").glob("*.json"))]
    grouped = {one.key for one in found if not one.items}
    shown = [
        one
        for one in found
        if (tokens is None or one.tokens == tokens) and not (one.key in grouped and one.items)
    ]
    return sorted(shown, key=lambda one: (one.task, one.tokens or 0))


def score_in_words(measure: Measure) -> str:
    """`0.3120 ± 0.0463`."""
    error = "" if measure.stderr is None else f" ± {measure.stderr:.4f}"
    return f"{measure.value:.4f}{error}"


def metric_in_words(measure: Measure) -> str:
    """`exact_match, flexible-extract`."""
    taken = "" if measure.filter == "none" else f", {measure.filter}"
    return f"{measure.metric}{taken}"


def how_in_words(evaluation: Evaluation) -> str:
    """What differs from how a task is usually asked: `5 shots, the first 100 items`."""
    told = evaluation.settings
    parts = [f"{told['shots']} shots"] if "shots" in told else []
    parts += [f"the first {told['limit']} items"] if "limit" in told else []
    parts += ["by the chat template"] if "chat" in told else []
    return ", ".join(parts) or "as it is"
