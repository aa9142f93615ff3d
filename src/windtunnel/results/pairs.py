"""What `pairs` finds."""

from pathlib import Path

from windtunnel.results.record import Record


class PairsFound(Record):
    """What a run's own answers were worth, and the pairs that were made of them."""

    run: str
    """Id of the run that answered."""
    path: Path
    """The file of pairs."""
    questions: int
    """That were asked."""
    answers: int
    """To all of them."""
    mean_score: float
    """Of all answers, by the verifier."""
    solved: float
    """Share of the questions to which at least one answer scored 1 or more."""
    pairs: int
    """That were written: questions that were answered both better and worse."""
