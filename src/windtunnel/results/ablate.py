"""What `windtunnel ablate` finds: what each way to decay does to the loss on each held-out
source.
"""

from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row


class AblateRow(Row):
    """One arm of one seed, on one held-out source."""

    arm: str
    """The arm's name."""
    stem: str
    """The id of the stem that it left."""
    shape: str
    """Of the decay."""
    decay: int
    """Tokens of the decay."""


class Difference(Record):
    """Loss of an arm over that of the base arm, nats/token; below zero the arm is better."""

    mean: float
    """Over seeds."""
    interval: tuple[float, float] | None
    """90%, with the noise pooled over the arms; None with a single seed."""
    alone: tuple[float, float] | None
    """90%, from this arm's own seeds by a paired t-test; None with a single seed."""


class ArmFound(Record):
    """What one arm gave. What is None was not measured: no seed has all its arms."""

    name: str
    """The arm's name."""
    shape: str
    """Of the decay."""
    decay: int
    """Tokens of the decay."""
    mixture: dict[str, float] | None
    """Weights of the sources in the decay; None where they are the stem's."""
    loss: dict[str, float] | None
    """Mean over seeds by held-out source, and over `all`, nats/token; None where no seed has all
    its arms.
    """
    difference: dict[str, Difference] | None
    """To the base arm, by the same; None for the base arm itself."""
    epochs: dict[str, float] | None = None
    """How often the run read each source: what is read twice is worth less. None where no seed has
    all its arms.
    """


class AblateNumbers(Numbers):
    """The numbers of a decay ablation."""

    corpus: str
    """The corpus's name."""
    size: str
    """Width x depth, such as 64x4."""
    tokens: int
    """Of every arm, its decay included."""
    seeds: int
    """Those that have all their arms."""
    base: str
    """The arm that the others are held against."""
    sources: tuple[str, ...]
    """Held-out text, `all` of it first."""
    natural: dict[str, float]
    """Each source's share of the training tokens."""
    noise: dict[str, float | None] | None
    """Standard deviation over seeds of a difference, pooled over the arms, by source; None with a
    single seed, nats/token.
    """
    arms: tuple[ArmFound, ...]
    """What each arm gave, in the order in which they were asked for."""
    failed: int
    """Runs that diverged."""
    core_minutes: float
    """Minutes of one core that training took."""


ABLATE = Experiment(
    name="ablate",
    help="which data is worth putting into the decay",
    numbers=AblateNumbers,
    row=AblateRow,
)
