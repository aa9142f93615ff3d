"""What `windtunnel transfer` finds: the best learning rate by size, length and batch, and how far
it drifts.
"""

from pydantic import Field

from windtunnel.results.batch import BestBatch, FittedLaw
from windtunnel.results.rate import RateFound
from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row


class TransferRow(Row):
    """One run: a branch of a stem."""

    parametrization: str
    """By whose rules it was trained."""
    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    batch: int
    """Tokens a step."""
    lr: float
    """The base learning rate."""


class SizeRate(Record):
    """The best rate of one size at one length with one batch; None in its fields where no minimum
    was in reach.
    """

    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    params: int
    """Parameters without embeddings."""
    tokens: int | None = None
    """Of the runs; None in results by versions that measured one length."""
    batch: int | None = None
    """Tokens a step; None in results by versions that measured one batch."""
    best_loss: float | None
    """The lowest loss of any run, nats/token; None where all diverged."""
    lr: float | None
    """The best base learning rate."""
    interval: tuple[float, float] | None
    """Its 90% interval."""
    noise: float | None
    """Standard deviation of one loss about the parabola, nats/token."""
    regret: float | None
    """What the first one's best rate costs here, nats/token: that of the first width and depth, at
    the shortest length, with the first batch.
    """
    regret_of_law: float | None = None
    """What the rate by the law costs here, nats/token; None without a law."""


class DriftFound(Record):
    """The drift of the best rate."""

    slope: float
    """Octaves of learning rate an octave of size."""
    interval: tuple[float, float]
    """Its 90% interval."""


class Drifts(Record):
    """The drift over each axis; None where fewer than two sizes have a minimum."""

    width: DriftFound | None
    """As the width grows."""
    depth: DriftFound | None
    """As the depth grows."""


class ParametrizationRates(Record):
    """What was found of one parametrization."""

    sizes: tuple[SizeRate, ...]
    """The best rate of each size and batch, at every length, from the shortest."""
    drift: Drifts
    """How far the best rate moves, at the longest length and with the first batch."""
    law: RateFound | None = None
    """The best rate by size, length and batch; None where no minimum was in reach, and in results
    by versions that fitted none.
    """
    best_batches: tuple[BestBatch, ...] = ()
    """The best batch at each length, each batch at its best rate: of the first width and depth,
    from the shortest length; none where fewer than four batches were measured.
    """
    batch_law: FittedLaw | None = None
    """c and p of batch = c D^p, through the best batches; None without them."""
    passes: bool
    """Whether the drift's whole interval over the width lies inside of what is allowed."""


class TransferNumbers(Numbers):
    """The numbers of a transfer study."""

    tokens: int
    """Of the longest runs."""
    batch: int
    """The first batch, tokens a step."""
    lengths: tuple[int, ...] = ()
    """Of the runs, in tokens; empty in results by versions that measured one."""
    batches: tuple[int, ...] = ()
    """Tokens a step; empty in results by versions that measured one."""
    seeds: tuple[int, ...]
    """Seeds of the points about the best rate, one number a parametrization."""
    corpus: str | None = None
    """The corpus's name; None in results by versions that did not record it."""
    settings: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Settings of all runs that the lab's search had found, by section of a recipe; none where it
    did not beat the paper's point.
    """
    parametrizations: dict[str, ParametrizationRates]
    """What was found, by the parametrization's name."""
    core_minutes: float | None = None
    """Minutes of one core that training took; None in results by versions that did not record it.
    """


TRANSFER = Experiment(
    name="transfer",
    help="whether the best learning rate stays where it is while the model grows",
    numbers=TransferNumbers,
    row=TransferRow,
)
