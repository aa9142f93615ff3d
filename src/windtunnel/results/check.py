"""What `windtunnel check` finds: how each quantity goes with the size of the model, and which rules
of the table are broken.
"""

from typing import Literal

from pydantic import Field

from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row

Axis = Literal["width", "depth"]


class CheckRow(Row):
    """One reading of one model."""

    axis: Axis
    """Along which the model is compared with others."""
    size: int
    """Its width or depth."""
    t: int
    """Steps that were trained."""
    quantity: str
    """What was read, such as `logits`."""
    statistic: str
    """`value` and `change`: root mean squares; `update`: of the last step, over that of the
    parameters; `eps`: Adam's eps over the gradient; `rule`: a factor of the table.
    """
    value: float = Field(allow_inf_nan=True)
    """Infinite, or not a number, where the model diverged."""


class CheckedDesign(Record):
    """The models that were compared, and how they were trained."""

    parametrization: str
    optimizer: str = "adamw"
    """Whose steps were checked."""
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    width: int
    """At which depths are compared."""
    depth: int
    """At which widths are compared."""
    seeds: int
    steps: tuple[int, ...]
    """Steps after which the models were read."""
    lr: float
    """The base learning rate."""
    eps: float
    """Adam's eps."""
    head_size: int
    context: int
    """Tokens of a window."""
    embedding_as: str
    """`vector`, or `matrix`: its init and rate shrink with the width, too."""
    tied: bool
    """Whether the head is the embedding."""


class Causes(Record):
    """Probable causes of what failed along each axis, the most frequent first."""

    width: tuple[str, ...]
    depth: tuple[str, ...]


class Slope(Record):
    """How a quantity goes with the size after t steps: the slope of its log2 on log2 of the
    size.
    """

    axis: Axis
    quantity: str
    statistic: str
    t: int
    """Steps that were trained."""
    slope: float | None
    """The mean over seeds; None where the quantity has no logarithm."""
    low: float | None
    """The 95% interval, by Student's t over seeds."""
    high: float | None
    expected: tuple[float, float]
    """The slopes that the theory allows."""
    verdict: Literal["pass", "fail"]
    causes: tuple[str, ...] = ()
    """Probable causes of a failure."""


class CheckNumbers(Numbers):
    """The numbers of a coordinate check."""

    design: CheckedDesign
    corpus: str | None
    """None where the tokens were generated."""
    causes: Causes
    quantities: tuple[Slope, ...]


CHECK = Experiment(
    name="check",
    help="whether everything a model computes and learns keeps its size as the model grows",
    numbers=CheckNumbers,
    row=CheckRow,
)
