"""What `windtunnel dynamics` finds."""

from pydantic import ConfigDict

from windtunnel.results.study import Experiment, Numbers, Row


class DynamicsRow(Row):
    """A row, its own columns not yet typed."""

    model_config = ConfigDict(extra="allow")


class DynamicsNumbers(Numbers):
    """The numbers, not yet typed."""

    model_config = ConfigDict(extra="allow")


DYNAMICS = Experiment(
    name="dynamics",
    help="what the decay of the learning rate does, step by step",
    numbers=DynamicsNumbers,
    row=DynamicsRow,
)
