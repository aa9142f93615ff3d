"""What `windtunnel search` finds: the best settings, and how they compare with the paper's."""

from typing import ClassVar, Literal

from pydantic import Field

from windtunnel.results.record import Record, Spread
from windtunnel.results.study import Experiment, Numbers, Row


class _AtPoint(Spread):
    """A record of one point: in a file each of the point's settings stands under its own name."""

    spread: ClassVar = "point"


class SearchRow(_AtPoint, Row):
    """One run; `kind` says what for: `trial`, `candidate`, `chosen` or `paper`."""

    trial: int
    """The trial whose point the run has."""
    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    batch: int
    """Tokens a step."""
    point: dict[str, float]
    """The settings, as the recipe has them."""


class SettingRange(Record):
    """Where a setting was searched."""

    low: float
    """The lowest value."""
    high: float
    """The highest value."""
    paper: float
    """The paper's value, or the recipe's default where the paper did not search it."""
    searched: str
    """What the bounds are of: the setting itself, or `1-` it."""


class Tried(_AtPoint):
    """A trial's point and its loss."""

    point: dict[str, float]
    """The settings, as the recipe has them."""
    trial: int
    """The trial's number, from 0."""
    loss: float | None
    """nats/token; None where it diverged."""


class Chosen(_AtPoint):
    """The chosen point, and its losses with seeds that had no part in the choice."""

    point: dict[str, float]
    """The settings, as the recipe has them."""
    trial: int
    """Number of the trial that the point is of."""
    losses: tuple[float | None, ...]
    """nats/token, by seed; None where a run diverged."""


class PaperPoint(_AtPoint):
    """The paper's point, with the same seeds."""

    point: dict[str, float]
    """The settings, as the recipe has them."""
    losses: tuple[float | None, ...]
    """nats/token, by seed; None where a run diverged."""


class Candidate(_AtPoint):
    """One of the best trials, which ran again with fresh seeds."""

    point: dict[str, float]
    """The settings, as the recipe has them."""
    trial: int
    """Number of the trial that the point is of."""
    trial_loss: float | None
    """The loss of that trial, nats/token; None where it diverged."""
    losses: tuple[float | None, ...]
    """nats/token, by fresh seed; None where a run diverged."""
    posterior_mean: float
    """Its height on the surface through all runs, nats/token."""


class PairedDifference(Record):
    """Loss of the chosen point over the paper's, seed by seed."""

    mean: float | None
    """nats/token; below zero the chosen one is better. None where a run diverged."""
    interval: tuple[float, float] | None
    """Its 90% interval, by Student's t; None where a run diverged, and of a single seed."""
    seeds: int
    """Number of seeds that both ran with."""


class SearchNoise(Record):
    """Standard deviations that the surface works with, nats/token."""

    seed: float
    """Shared by all runs of a seed."""
    run: float
    """Of a point with a seed."""
    measured: bool
    """From candidates that ran again; else fitted with the surface."""


class SettingBowl(Record):
    """The surface along one setting, the others at their best for each of its values."""

    value: tuple[float, ...]
    """Values of the setting, from the lowest to the highest."""
    above: tuple[float, ...]
    """nats/token above the chosen point, at each value."""
    low: tuple[float, ...]
    """5% of the posterior."""
    high: tuple[float, ...]
    """95% of the posterior."""
    best: tuple[float, float]
    """90% interval of the best value."""


class ExpectedGain(Record):
    """What further trials would gain, on average over the posterior."""

    trials: tuple[int, ...]
    """Numbers of further trials."""
    gain: tuple[float, ...]
    """nats/token, for each number of trials."""


class SearchNumbers(Numbers):
    """The numbers of a search."""

    corpus: str | None = None
    """The corpus's name; None in results by versions that did not record it."""
    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    optimizer: str = "adamw"
    """With which every run was trained."""
    tokens: int
    """Of each run."""
    batch: int
    """Tokens a step."""
    sampler: str
    """How the next points were chosen."""
    trials: int
    """Number of trials."""
    seed: int
    """That of all trials and of the search; the fresh seeds follow it."""
    failed: int
    """Trials that diverged."""
    settings: dict[str, SettingRange]
    """Where each setting was searched, by name."""
    chosen: Chosen
    """The chosen point."""
    defaults: PaperPoint
    """The paper's point."""
    difference: PairedDifference
    """The chosen point against the paper's."""
    outcome: Literal["beats", "ties", "loses"] | None
    """The chosen point against the paper's; None where the runs were too short to tell."""
    edges: dict[str, Literal["low", "high"]] = Field(default_factory=dict)
    """The settings whose chosen value lies at an end of what was searched, and at which: a better
    one may lie beyond.
    """
    luckiest: Tried
    """The trial with the lowest loss."""
    candidates: tuple[Candidate, ...]
    """The best trials, which ran again with fresh seeds."""
    noise: SearchNoise
    """The noise of the losses."""
    bowls: dict[str, SettingBowl]
    """How the loss rises to either side of the chosen point, by setting."""
    importances: dict[str, float]
    """The share of the surface's variance that each setting explains alone."""
    expected_gain: ExpectedGain
    """What more trials would be worth."""
    core_minutes: float | None = None
    """Minutes of one core that training took; None in results by versions that did not record it.
    """


SEARCH = Experiment(
    name="search",
    help="the best learning rate, scale_depth, scale_emb and init_std, jointly",
    numbers=SearchNumbers,
    row=SearchRow,
)
