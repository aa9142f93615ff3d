"""`forecasts.jsonl`: what plans predicted before their runs were trained, and what the runs gave;
and how a lab's forecasts came out, as `windtunnel record --json` prints it.
"""

from pathlib import Path
from typing import Any, Literal

from windtunnel.results.plan import Interval, Number
from windtunnel.results.record import Record

State = Literal["counts", "does not count", "done, not opened", "not done", "not trained"]


class LedgerLine(Record):
    """What every line of the ledger has."""

    time: str = ""
    """When it was added: UTC, to the second, such as `2026-11-28T20:48:12Z`."""
    chain: str = ""
    """sha256, in hex, of the `chain` of the line before it and of all else in this line."""


class Distance(Record):
    """How far a forecast lies beyond the runs in the fit."""

    params: Number
    """Parameters, as a multiple of those of the largest run in the fit."""
    tokens: Number
    """Tokens, as a multiple of those of the longest run in the fit."""
    flops: Number
    """FLOPs, as a multiple of those of the most expensive run in the fit."""


class Forecast(LedgerLine):
    """A line of the ledger: a plan's prediction, sealed."""

    kind: Literal["forecast"] = "forecast"
    """What the line is."""
    id: str
    """Twelve hex digits, by what is predicted of which run: the same prediction has the same id."""
    plan: str
    """Name of the plan."""
    run: str
    """Id of the run that is to be trained: a hash of its recipe and its corpus."""
    recipe: dict[str, Any]
    """What sets the run apart, by the keys of a recipe; every other key has its default."""
    begun: bool
    """Whether the lab had this run already when the forecast was sealed."""
    points: str
    """sha256, in hex, of the measured points that the laws were fitted to."""
    windtunnel: str
    """Version of windtunnel."""
    source: str
    """sha256, in hex, of windtunnel's source."""
    params: int
    """Parameters without embeddings."""
    tokens: int
    """Tokens to train on."""
    flops: int
    """FLOPs of training, exactly."""
    loss: Number
    """Predicted, nats/token."""
    interval50: Interval
    """Loss between which half of such runs end, nats/token."""
    interval90: Interval
    """Loss between which nine in ten such runs end, nats/token."""
    distance: Distance
    """How far it lies beyond the runs in the fit."""


class Outcome(LedgerLine):
    """A line of the ledger: a forecast, opened."""

    kind: Literal["outcome"] = "outcome"
    """What the line is."""
    forecast: str
    """Id of the forecast."""
    run: str
    """Id of the run."""
    loss: Number
    """The loss that it reached, nats/token."""
    error: Number
    """Predicted over reached, minus 1: above 0 where the forecast was too high."""
    inside50: bool
    """Whether the loss lies within the 50% interval."""
    inside90: bool
    """Whether the loss lies within the 90% interval."""
    late: bool
    """Whether the forecast was sealed after training began."""
    other_run: bool
    """Whether it is another run than the one that was sealed."""


class Tally(Record):
    """How forecasts came out."""

    count: int
    """Number of forecasts."""
    inside50: int
    """How many of the losses lay within the 50% interval."""
    inside90: int
    """How many of the losses lay within the 90% interval."""
    mean_error: float | None
    """Mean of predicted over reached, minus 1; null without forecasts."""
    mean_size: float | None
    """Mean of the same without its sign; null without forecasts."""


class Band(Tally):
    """The same, of forecasts about as far beyond the fit."""

    beyond: float
    """FLOPs, as a multiple of those of the most expensive run in the fit: more than this."""
    up_to: float | None
    """And no more than this; null: without an end."""


class ForecastState(Record):
    """A forecast, and what became of it."""

    forecast: Forecast
    """As it was sealed."""
    outcome: Outcome | None
    """As it was opened; null until then."""
    state: State
    """Opened and counted, opened and not counted, or how far its run is."""
    why: str | None
    """Why it does not count, or would not; null where nothing speaks against it."""


class Calibration(Record):
    """How the forecasts of a lab came out."""

    ledger: Path
    """The lab's ledger."""
    sealed: int
    """Forecasts made."""
    opened: int
    """Forecasts that were held against a run."""
    all: Tally
    """Of those that count: sealed before training began, held against the run that was sealed, and
    unchanged since. Of several for one run, the last one.
    """
    bands: tuple[Band, ...]
    """The same, by how far the forecasts reached."""
    forecasts: tuple[ForecastState, ...]
    """Every forecast, the oldest first."""
    changed: tuple[int, ...]
    """Lines of the ledger, counted from 1, that were changed, or before which a line was removed.
    """
    chain: str
    """`chain` of the last line; empty without one. Kept elsewhere, it shows whether lines were
    removed from the end.
    """
