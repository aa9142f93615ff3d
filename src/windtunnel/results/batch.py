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
    depth: int
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
    depth: int
    params: int
    """Parameters without embeddings."""


class BestBatch(Record):
    """The lowest point of one contour of equal loss."""

    loss: float
    """nats/token."""
    where: Literal["inside", "below", "above"]
    """Where the best batch lies, of those sampled."""
    batch: float | None
    """The best batch in tokens; None where it does not lie inside of those sampled."""
    interval: tuple[float, float] | None
    """Its 90% interval."""
    tokens: float
    """Tokens with which the best batch reaches the loss."""


class LowestLoss(Record):
    """The lowest loss over all batches at one length."""

    tokens: int
    loss: float
    """nats/token."""


class SizeBatches(BatchSize):
    """What one size says."""

    levels: tuple[BestBatch, ...]
    """From the highest loss to the lowest."""
    best: tuple[LowestLoss, ...] = ()


class FittedLaw(Spread):
    """A law's constants, such as c and p of bs = c D^p, each under its own name."""

    spread: ClassVar = "constants"

    constants: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """90%, by constant."""


class ThreeTermFound(Record):
    """L = E + A/N^a + B/steps^b + C/bs^c through every loss, N parameters without embeddings and bs
    the batch, as `laws.batch_cost.ThreeTerm`.
    """

    E: float
    A: float
    a: float
    B: float
    b: float
    C: float
    c: float
    rmse: float
    """nats/token."""
    exponent: float
    """The power of the tokens with which the best batch grows."""


class Regrets(Record):
    """Nats/token that each law costs where it was not fitted; None where the rest can't tell it."""

    size: dict[str, float | None]
    """On a size left out."""
    longest: dict[str, float | None]
    """On the longest length left out."""


class ArmFound(Record):
    """What one arm of the learning rate says."""

    noise: float
    """Standard deviation of one loss, nats/token."""
    sizes: tuple[SizeBatches, ...]
    laws: dict[str, FittedLaw]
    three_term: ThreeTermFound | None
    regret: Regrets
    chosen: str | None
    """The law with the least regret; None where no law could be held out."""


class BatchNumbers(Numbers):
    """The numbers of a batch study."""

    sizes: tuple[BatchSize, ...]
    batches: tuple[int, ...]
    """Tokens a step."""
    lengths: tuple[int, ...]
    """Tokens at which decayed losses were measured."""
    lr: float
    """The base learning rate."""
    form: Literal["parabola", "hyperbola"]
    """The form of a contour that lies nearer to the measurements."""
    misfit: dict[str, float]
    """Root mean square, in log tokens, by form."""
    laws: dict[str, FittedLaw]
    """Those of the first arm."""
    chosen: str | None
    """That of the first arm."""
    arms: dict[str, ArmFound]
    corpus: str | None = None
    core_minutes: float | None = None
    """Minutes of one core that training took."""


BATCH = Experiment(
    name="batch",
    help="the batch that reaches a loss with the fewest tokens, and how it grows",
    numbers=BatchNumbers,
    row=BatchRow,
)
