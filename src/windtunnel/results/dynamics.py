"""What `windtunnel dynamics` finds: what the decay does to a run, step by step."""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from windtunnel.results.record import Record, Spread
from windtunnel.results.study import Experiment, Numbers, Row

Interval = tuple[float, float, float]
"""A value, and the low and the high end of its 95% interval."""


class StepNumbers(Spread):
    """What was measured of one step, from parameters x to x + v. g is the gradient of its batch
    before the step, and h the gradient of the next batch after it.
    """

    # a run that diverges still records its last steps
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")
    spread: ClassVar = "max_changes"

    max_change: float
    """The largest change of any weight."""
    step_norm: float
    """|v|."""
    grad_norm: float
    """|g|."""
    max_gradient: float
    """The largest number in g."""
    inner_product: float
    """g . h."""
    cosine: float
    """Of the angle between g and h."""
    d1: float
    """h . v / |v|: the slope along the step, at its end."""
    d2: float
    """(h - g) . v / |v|^2: the second derivative along the step, and the noise of two batches."""
    curvature: float
    """|d2| / (1 + d1^2)^(3/2)."""
    d2_same_batch: float
    """d2 with the gradient of the step's own batch at both ends: without that noise."""
    max_changes: dict[str, float] = Field(default_factory=dict)
    """The largest change by role, and of the query and gate matrices; in a file each under a name
    of its own, such as `max_change_embedding`.
    """


class StepRecord(StepNumbers):
    """A line of a run's `dynamics/steps.jsonl`."""

    tokens: int
    """At the step's end."""


class _StepRow(Row):
    lr: float
    """The base learning rate of the step."""


class DynamicsRow(StepNumbers, _StepRow):
    """One step; `loss` is that of its batch."""


class Claim(Record):
    """What the paper says of the decay, and what this run shows."""

    name: str
    """The claim's name."""
    says: str
    """The claim in words."""
    stable: Interval
    """The mean in the stable phase."""
    decay: Interval
    """The mean in the last third of the decay."""
    effect: Interval
    """How the decay differs from the stable phase, in what `effect_is` says."""
    effect_is: Literal["ratio", "difference", "power of the rate"]
    """What the effect is of the two means, or how the quantity follows the rate."""
    shown: bool
    """Whether the effect's interval lies wholly on the claimed side."""


class SameBatch(Record):
    """D2 with one batch at both ends of a step."""

    stable: Interval
    """The mean in the stable phase."""
    decay: Interval
    """The mean in the last third of the decay."""
    ratio: Interval
    """The mean of the decay over that of the stable phase."""


class DynamicsNumbers(Numbers):
    """The numbers of the decay-stage study."""

    claims: tuple[Claim, ...]
    """The paper's claims, each with what this run shows."""
    decay_begins: int
    """Tokens at which the decay begins."""
    warmup: int
    """Tokens of the warm-up."""
    block: int
    """Steps in a row that the intervals' bootstrap draws together."""
    same_batch_d2: SameBatch
    """The second derivative without the noise of two batches."""


DYNAMICS = Experiment(
    name="dynamics",
    help="what the decay of the learning rate does, step by step",
    numbers=DynamicsNumbers,
    row=DynamicsRow,
)
