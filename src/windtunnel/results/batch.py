"""What `windtunnel batch` finds: the batch that needs the fewest tokens for a loss, and the laws by
which it grows.
"""

from typing import ClassVar, Literal

from windtunnel.results.record import Record, Spread
from windtunnel.results.study import Experiment, Numbers, Row


class BatchRow(Row):
    """One decayed branch of a stem."""

    way: str = "full"
    """`full`: the stem had this batch from its beginning. Older tables also hold branches that took
    up another batch (`trunk`), which count for nothing.
    """
    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    arm: str
    """How the rate goes with the batch."""
    batch: int
    """Tokens a step."""
    lr: float
    """The base learning rate."""
    at: int
    """Tokens at which the branch left its stem."""


class BatchSize(Record):
    """A size of the study."""

    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    params: int
    """Parameters without embeddings."""


class BestBatch(Record):
    """The best batch at one length: the lowest point of the contour of its loss, where the fewest
    tokens reach it.
    """

    loss: float
    """Of the best batch, nats/token."""
    where: Literal["inside", "below", "above"]
    """Where the best batch lies, of those sampled."""
    batch: float | None
    """The best batch in tokens; None where it does not lie inside of those sampled."""
    interval: tuple[float, float] | None
    """Its 90% interval, in tokens; None as `batch` is."""
    tokens: float
    """The length: tokens of training."""


class LowestLoss(Record):
    """The lowest loss over all batches at one length."""

    tokens: int
    """The length: tokens of training."""
    loss: float
    """nats/token."""


class SizeBatches(BatchSize):
    """What one size says."""

    levels: tuple[BestBatch, ...]
    """By length, the shortest first; in results by earlier versions by loss, the highest first."""
    best: tuple[LowestLoss, ...] = ()
    """The lowest loss at each length."""


class FittedLaw(Spread):
    """A law's constants, such as c and p of bs = c D^p, each under its own name."""

    spread: ClassVar = "constants"

    constants: dict[str, float]
    """By name; what each means stands with its law in `laws.batch`."""
    intervals: dict[str, tuple[float, float]]
    """90%, by constant."""
    covariance: tuple[tuple[float, ...], ...] | None = None
    """Of the logarithm of c and the exponents, in their order: their errors come from the same runs
    and go together. None in a study by an earlier version.
    """


class ThreeTermFound(Record):
    """L = E + A/N^a + B/steps^b + C/bs^c through every loss, N parameters without embeddings and bs
    the batch, as `laws.batch_cost.ThreeTerm`.
    """

    E: float
    """The irreducible loss, nats/token."""
    A: float
    """Coefficient of the term of size, nats/token at N = 1; 0 where the study has one size."""
    a: float
    """Exponent of size; 0 where the study has one size."""
    B: float
    """Coefficient of the term of steps, nats/token after one step."""
    b: float
    """Exponent of the steps."""
    C: float
    """Coefficient of the term of the batch, nats/token at a batch of one token."""
    c: float
    """Exponent of the batch."""
    rmse: float
    """Root mean square of the residuals, nats/token."""
    exponent: float
    """The power of the tokens with which the best batch grows: b / (b + c)."""


class Regrets(Record):
    """Nats/token that each law costs where it was not fitted; None where the rest can't tell it."""

    size: dict[str, float | None]
    """On a size left out, by the law's name."""
    longest: dict[str, float | None]
    """On the longest length left out, by the law's name."""


class ArmFound(Record):
    """What one arm of the learning rate says."""

    noise: float
    """Standard deviation of one loss, nats/token."""
    skew: float | None = None
    """Of the loss over the batch about its lowest point: the third power's coefficient over the
    second's, with octaves of the batch. None in results by versions that did not fit it.
    """
    flatness: float | None = None
    """The fourth power's; None as `skew` is."""
    sizes: tuple[SizeBatches, ...]
    """What each size says."""
    laws: dict[str, FittedLaw]
    """The laws that could be fitted to the best batches of all sizes, by name."""
    three_term: ThreeTermFound | None
    """The law of loss with a term for the batch; None where the losses determine none."""
    regret: Regrets
    """What each law costs where it was not fitted."""
    chosen: str | None
    """The law with the least regret; None where no law could be held out."""


class BatchNumbers(Numbers):
    """The numbers of a batch study."""

    sizes: tuple[BatchSize, ...]
    """The sizes of the study."""
    batches: tuple[int, ...]
    """Tokens a step."""
    lengths: tuple[int, ...]
    """Tokens at which decayed losses were measured."""
    lr: float
    """The base learning rate."""
    laws: dict[str, FittedLaw]
    """Those of the first arm."""
    chosen: str | None
    """That of the first arm; None where no law could be held out."""
    arms: dict[str, ArmFound]
    """What each arm of the learning rate says, by its name."""
    corpus: str | None = None
    """The corpus's name; None in results by versions that did not record it."""
    core_minutes: float | None = None
    """Minutes of one core that training took; None in results by versions that did not record it.
    """


BATCH = Experiment(
    name="batch",
    help="the batch that reaches a loss with the fewest tokens, and how it grows",
    numbers=BatchNumbers,
    row=BatchRow,
)
