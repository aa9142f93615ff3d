"""What the runs of a lab score on a task, and the losses that they reached: what a plan takes the
score to expect from. `evaluate --law` keeps a file of LAB/scores/ for each task.
"""

import hashlib
import json
from pathlib import Path

from windtunnel.results.record import Record


class ScoredRun(Record):
    """A run at one of its checkpoints."""

    run: str
    """Its id."""
    tokens: int
    """Tokens of the checkpoint."""
    loss: float
    """Its loss on the held-out text of its corpus, nats/token."""
    score: float
    """What it scored, between 0 and 1."""
    stderr: float
    """The score's standard error over items."""


class TaskScores(Record):
    """A file of LAB/scores/: a task over several runs that read one corpus."""

    task: str
    """Its name."""
    metric: str
    """As `Measure` has it."""
    settings: dict[str, str]
    """All else that decides the scores, as `Evaluation` has it."""
    corpus: str
    """The name of the corpus."""
    chance: float
    """What guessing scores."""
    runs: tuple[ScoredRun, ...]
    """Every run."""

    def keep(self, lab: Path) -> Path:
        """Write the file, and return where it is: another task, another way to ask it or another
        corpus is another file. Raises InputError.
        """
        said = json.dumps([self.task, self.metric, self.settings, self.corpus], sort_keys=True)
        name = hashlib.sha256(said.encode()).hexdigest()[:12]
        file = _folder(lab) / f"{name}.json"
        self.write(file, make_folder=True)
        return file


def read_scores(lab: Path, corpus: str) -> list[TaskScores]:
    """What the lab knows of tasks over runs that read this corpus, by task. Raises InputError for a
    damaged file.
    """
    found = [TaskScores.read(file) for file in sorted(_folder(lab).glob("*.json"))]
    return sorted((one for one in found if one.corpus == corpus), key=lambda one: one.task)


def _folder(lab: Path) -> Path:
    return lab / "scores"
