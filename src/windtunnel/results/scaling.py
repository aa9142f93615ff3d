"""What `windtunnel scaling` finds."""

from pydantic import ConfigDict

from windtunnel.results.study import Experiment, Numbers, Row


class ScalingRow(Row):
    """A row, its own columns not yet typed."""

    model_config = ConfigDict(extra="allow")


class ScalingNumbers(Numbers):
    """The numbers, not yet typed."""

    model_config = ConfigDict(extra="allow")


SCALING = Experiment("scaling", ScalingNumbers, ScalingRow)
