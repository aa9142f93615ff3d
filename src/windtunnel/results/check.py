"""What `windtunnel check` finds."""

from pydantic import ConfigDict

from windtunnel.results.study import Experiment, Numbers, Row


class CheckRow(Row):
    """A row, its own columns not yet typed."""

    model_config = ConfigDict(extra="allow")


class CheckNumbers(Numbers):
    """The numbers, not yet typed."""

    model_config = ConfigDict(extra="allow")


CHECK = Experiment(
    name="check",
    help="whether everything a model computes and learns keeps its size as the model grows",
    numbers=CheckNumbers,
    row=CheckRow,
)
