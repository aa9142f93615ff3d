"""What `windtunnel tour` finds: every study of the chain with its verdict, and what the best model
writes.
"""

from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row, Verdict


class TourStep(Record):
    """One study of the chain."""

    study: str
    verdict: Verdict
    summary: str
    """Its answer in one sentence."""
    minutes: float
    """How long it took."""


class TourNumbers(Numbers):
    """The numbers of a tour."""

    steps: tuple[TourStep, ...]
    sample: str
    """What the best model writes, its size and its length in front."""
    corpus: str
    written_by: str
    """The id of that model's run."""
    basic_tokens: int
    """Length of a basic run, of which all studies are made."""


class Asked(Record):
    """What the length of the basic runs was decided for."""

    minutes: float
    """How long the tour may take."""
    corpus: str
    """The digest of the corpus."""


class TourSize(Record):
    """`studies/tour/size.json`: decided once a lab and corpus, so that the same command finds its
    runs again.
    """

    asked: Asked
    tokens: int
    """Length of a basic run."""
    flops_per_s: int
    """What the machine was measured to train."""


TOUR = Experiment(
    name="tour",
    help="the whole chain, small",
    numbers=TourNumbers,
    row=Row,
)
