"""What `windtunnel scaling --dry-run` says: what to expect of a scaling study before anything is
trained, and whether the same money buys a better one.
"""

import math
from typing import Literal, Self

from windtunnel.results.record import Record
from windtunnel.results.scaling import Beyond, LawConstants, LawForm

Unit = Literal["FLOPs", "core-hours", "tokens"]


class Cost(Record):
    """What training costs; evaluations and start-up are not in it."""

    flops: int
    """FLOPs of training."""
    tokens: int
    """Tokens trained."""
    core_hours: float
    """Hours of one core."""

    def __add__(self, other: Self) -> "Cost":
        return Cost(
            flops=self.flops + other.flops,
            tokens=self.tokens + other.tokens,
            core_hours=self.core_hours + other.core_hours,
        )


NOTHING = Cost(flops=0, tokens=0, core_hours=0)


class Budget(Record):
    """What a whole study may cost, its audit run included."""

    amount: float
    """How much, in the budget's unit."""
    unit: Unit
    """What is counted."""

    def __str__(self) -> str:
        return f"{self.amount:.3g} {self.unit}"

    def share(self, cost: Cost) -> float:
        """How much of the budget a cost is; above 1 it is too much."""
        spent = {"FLOPs": cost.flops, "core-hours": cost.core_hours, "tokens": cost.tokens}
        return spent[self.unit] / self.amount


class TargetRun(Record):
    """The run that the study is to predict."""

    size: str
    """Width x depth, such as 64x4."""
    params: int
    """Parameters without embeddings."""
    params_with_head: int
    """Parameters without the look-up of embeddings, the head included."""
    params_total: int
    """All parameters."""
    tokens: int
    """Tokens that it is trained on."""
    beyond: Beyond
    """Over the largest and longest of the given design."""


class AssumedLaw(LawForm):
    """A law that the simulation takes for true."""

    law: LawConstants
    """Its constants."""
    origin: str
    """Where it comes from."""


class StudyNoise(Record):
    """Standard deviations of a loss about the law, nats/token."""

    stem: float
    """By which a seed moves all branches of a stem together."""
    own: float
    """By which it moves each branch by itself."""
    length: float
    """By which all stems depart from any law together at a length: they read the same text, and
    change batch together.
    """
    origin: str
    """Where these come from."""

    @property
    def seed_sd(self) -> float:
        """From seed to seed, of one point."""
        return math.hypot(self.stem, self.own)


class Transient(Record):
    """By how much short runs lie above the law, before they have come into it. Every second
    simulated study has it: the runs of a study can't tell whether there is one (docs/LOG.md), and a
    design whose prediction hangs on its absence is a bad one.
    """

    nats: float
    """Nats/token, of runs of `tokens` tokens."""
    tokens: int
    """The length where it is `nats`; it falls as the square of the length."""

    def at(self, tokens: float) -> float:
        """Nats/token, of a run of so many tokens."""
        return self.nats * (self.tokens / tokens) ** 2


class Speed(Record):
    """Seconds of one core that training takes."""

    flop: float
    """For each FLOP."""
    token: float
    """For each token and layer, beside the matrix products."""
    step: float
    """For each step and layer, beside the matrix products."""
    origin: str
    """Where these come from."""


class Expectation(Record):
    """What simulated studies predicted at the target, and how well."""

    studies: int
    """How many were simulated."""
    width50: float
    """Median width of the 50% interval, relative to the loss."""
    width90: float
    """Median width of the 90% interval, relative to the loss."""
    error: tuple[float, float, float]
    """5, 50 and 95% quantiles of the relative error of the prediction."""
    coverage50: float
    """Share of the 50% intervals that held the loss."""
    coverage90: float
    """Share of the 90% intervals that held the loss."""


class ParameterFound(Record):
    """How a study would determine a number of the law."""

    truth: float
    """Its value in the law that is taken for true."""
    low: float
    """5% of the fitted ones."""
    high: float
    """95% of the fitted ones."""

    @property
    def spread(self) -> float:
        """Half of the inner 90%, relative to the truth."""
        return (self.high - self.low) / 2 / abs(self.truth) if self.truth else math.inf


class DesignCost(Record):
    """What a design costs."""

    fit: Cost
    """The stems and branches that the law is fitted to."""
    audit: Cost
    """The audit run."""
    all: Cost
    """Both together."""


class DesignAdvice(Record):
    """What to expect of a design, and what speaks against it."""

    command: str
    """The command line that runs it."""
    sizes: tuple[str, ...]
    """Width x depth of each stem, such as 64x4."""
    params_total: tuple[int, ...]
    """Of the sizes, each once."""
    span: float
    """All parameters of the largest size over those of the smallest."""
    lengths: tuple[int, ...]
    """Tokens at the ends of the branches."""
    points: int
    """How many losses it measures."""
    fewest_steps: int
    """Steps of the shortest branch."""
    cost: DesignCost
    """What it costs."""
    expected: Expectation | None
    """None where no law can be fitted to it."""
    parameters: dict[str, dict[str, ParameterFound]]
    """By the form that is taken for true, and by the name of the number."""
    against: tuple[str, ...]
    """What speaks against it, a sentence each."""
    go: bool
    """Whether nothing does."""


class TriedDesign(Record):
    """A design that was simulated in search of a better one."""

    command: str
    """The command line that runs it."""
    spread: float
    """Standard deviation of its prediction at the target, relative to the loss, to first order."""
    expected: Expectation
    """What simulated studies of this design predicted."""


class Advice(Record):
    """All that a dry run says."""

    corpus: str
    """The corpus's name."""
    target: TargetRun
    """The run that is to be predicted."""
    budget: Budget | None
    """What the study may cost; None where no design was looked for."""
    truths: tuple[AssumedLaw, ...]
    """The laws that were each taken for true."""
    noise: StudyNoise
    """The noise of the simulated losses."""
    transient: Transient
    """What every second study's losses lie above the laws by."""
    speed: Speed
    """How fast this machine is taken to train."""
    given: DesignAdvice
    """What to expect of the design that was asked about."""
    tried: tuple[TriedDesign, ...]
    """The designs that were simulated, in search of a better one."""
    within: int
    """Designs that meet what a law needs, and the budget."""
    cheapest: float | None
    """The least that any which meets what a law needs would cost, in the budget's unit; None where
    none of them meets it, or no design was looked for.
    """
    proposed: DesignAdvice | None
    """The best of them; None where none is better than the given one."""
