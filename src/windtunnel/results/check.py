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
    """Whose rules were checked."""
    optimizer: str = "adamw"
    """Whose steps were checked."""
    widths: tuple[int, ...]
    """Widths of the models that are compared with one another."""
    depths: tuple[int, ...]
    """Depths of the models that are compared with one another."""
    width: int
    """At which depths are compared."""
    depth: int
    """At which widths are compared."""
    seeds: int
    """Number of seeds for each size."""
    steps: tuple[int, ...]
    """Steps after which the models were read."""
    lr: float
    """The base learning rate."""
    eps: float
    """Adam's eps."""
    head_size: int
    """Width of an attention head."""
    context: int
    """Tokens of a window."""
    embedding_as: str
    """`vector`, or `matrix`: its init and rate shrink with the width, too."""
    tied: bool
    """Whether the head is the embedding."""


class Causes(Record):
    """Probable causes of what failed along each axis, the most frequent first."""

    width: tuple[str, ...]
    """Of what failed along the width; empty where nothing did."""
    depth: tuple[str, ...]
    """Of what failed along the depth; empty where nothing did."""


class Slope(Record):
    """How a quantity goes with the size after t steps: the slope of its log2 on log2 of the
    size.
    """

    axis: Axis
    """Along which the size grows."""
    quantity: str
    """What was read, such as `logits`."""
    statistic: str
    """Which number of it, by the names that a row has."""
    t: int
    """Steps that were trained."""
    slope: float | None
    """The mean over seeds; None where the quantity has no logarithm."""
    low: float | None
    """Lower end of the 95% interval, by Student's t over seeds; None as the slope is."""
    high: float | None
    """Upper end of that interval; None as the slope is."""
    expected: tuple[float, float]
    """The slopes that the theory allows."""
    verdict: Literal["pass", "fail"]
    """Whether the slope is one that the theory allows."""
    causes: tuple[str, ...] = ()
    """Probable causes of a failure."""


class CheckNumbers(Numbers):
    """The numbers of a coordinate check."""

    design: CheckedDesign
    """What was compared."""
    corpus: str | None
    """The corpus's name; None where the tokens were generated."""
    causes: Causes
    """Probable causes of all failures together."""
    quantities: tuple[Slope, ...]
    """The slope of each quantity along each axis, after each number of steps."""


CHECK = Experiment(
    name="check",
    help="whether everything a model computes and learns keeps its size as the model grows",
    numbers=CheckNumbers,
    row=CheckRow,
)
