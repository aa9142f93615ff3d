"""What `windtunnel scaling` finds."""

from pydantic import ConfigDict

from windtunnel.results.study import Experiment, Numbers, Row


class ScalingRow(Row):
    """A row, its own columns not yet typed."""

    model_config = ConfigDict(extra="allow")


class ScalingNumbers(Numbers):
    """The numbers, not yet typed."""

    model_config = ConfigDict(extra="allow")


SCALING = Experiment(
    name="scaling",
    help="how the loss falls with size and data",
    numbers=ScalingNumbers,
    row=ScalingRow,
)
