"""What `windtunnel ablate` finds."""

from pydantic import ConfigDict

from windtunnel.results.study import Experiment, Numbers, Row


class AblateRow(Row):
    """A row, its own columns not yet typed."""

    model_config = ConfigDict(extra="allow")


class AblateNumbers(Numbers):
    """The numbers, not yet typed."""

    model_config = ConfigDict(extra="allow")


ABLATE = Experiment(
    name="ablate",
    help="which data is worth putting into the decay",
    numbers=AblateNumbers,
    row=AblateRow,
)
