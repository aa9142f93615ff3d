"""What `windtunnel tour` finds: every study of the chain with its verdict, and what the best model
writes.
"""

from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row, Verdict


class TourStep(Record):
    """One study of the chain."""

    study: str
    """The experiment's name, or `plan`."""
    verdict: Verdict
    """Its verdict; None where it passes none."""
    summary: str
    """Its answer in one sentence."""
    minutes: float
    """How long it took."""


class TourSample(Record):
    """What one model writes after the tour's prompt."""

    run: str
    """The id of its run."""
    what: str
    """Which of the models it is: the smallest, the middle one, or the planned one."""
    params_total: int
    """All its parameters."""
    tokens: int
    """Tokens that it was trained on."""
    bits_per_byte: float | None
    """Of held-out text; None where it was not measured."""
    text: str
    """The prompt, and what it wrote."""


class TourNumbers(Numbers):
    """The numbers of a tour."""

    steps: tuple[TourStep, ...]
    """The studies, in the order of the chain."""
    sample: str
    """What the best model writes, its size and its length in front."""
    corpus: str
    """The corpus's name."""
    written_by: str
    """The id of that model's run."""
    basic_tokens: int
    """Length of a basic run, of which all studies are made."""
    samples: tuple[TourSample, ...] = ()
    """The same prompt, answered by the smallest, the middle and the best model; none in results by
    versions that asked the best one alone.
    """
    left_out: tuple[str, ...] = ()
    """Studies for which there was no time on this machine."""


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
    """What it was decided for."""
    tokens: int
    """Length of a basic run."""
    flops_per_s: int
    """What one core of the machine was measured to train of a small model, FLOP/s."""
    left_out: tuple[str, ...] = ()
    """Studies for which that leaves no time."""
    ahead: float | None = None
    """FLOPs of the planned run over those of the dearest run in the fit; None until the other
    studies have shown how much time they leave for it.
    """


TOUR = Experiment(
    name="tour",
    help="the whole chain, small",
    numbers=TourNumbers,
    row=Row,
)
