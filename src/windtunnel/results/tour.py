"""What `windtunnel tour` finds."""

from pydantic import ConfigDict

from windtunnel.results.study import Experiment, Numbers, Row


class TourRow(Row):
    """A row, its own columns not yet typed."""

    model_config = ConfigDict(extra="allow")


class TourNumbers(Numbers):
    """The numbers, not yet typed."""

    model_config = ConfigDict(extra="allow")


TOUR = Experiment(
    name="tour",
    help="the whole chain, small",
    numbers=TourNumbers,
    row=TourRow,
)
