"""What `windtunnel ablate --longer` finds: what RoPE's base, its scaling and the token budget do to
the loss of a model that is taken to a longer context.
"""

from windtunnel.results.ablate import Difference
from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row


class LongerRow(Row):
    """One arm of one seed at one context, after one budget, on one part of held-out documents:
    `source` is `near`, `far`, or a band of positions such as `256-1024`. `tokens` are those of the
    longer context.
    """

    arm: str
    """The arm's name."""
    context: int
    """Tokens of a window."""
    stem: str
    """The id of the stem that it went on from."""
    base: float | None = None
    """RoPE's base; None where its scaling is no base."""


class ArmAfter(Record):
    """An arm after one budget."""

    tokens: int
    """Trained in the longer context; 0 for the stem with the arm's RoPE, not trained at all."""
    loss: dict[str, float]
    """Mean over seeds, nats/token, by part of held-out documents: `near` the positions below the
    old context, `far` those from it on, and bands of positions such as `256-1024`.
    """
    over: dict[str, Difference] | None
    """Over the best base's at the same budget, by the same; None for the best base itself."""


class LongerArm(Record):
    """A way to set RoPE for the longer context."""

    name: str
    """The base, or the scaling's name."""
    scaling: str
    """Of the table of RoPE scalings."""
    factor: float
    """What the scaling is given: of a base, how many times the old one it is."""
    base: float | None
    """RoPE's base; None where its scaling is no base."""
    after: tuple[ArmAfter, ...]
    """By budget, the smallest first; empty where no seed has all arms."""


class RulePrice(Record):
    """A published rule for the base, and what it costs."""

    name: str
    """Of the table of rules."""
    base: float
    """What it gives."""
    price: float | None
    """Loss at far positions over the best base's after the largest budget, nats/token, between the
    bases that were measured on a straight line in the logarithm; None beyond them.
    """


class LengthFound(Record):
    """One longer context."""

    context: int
    """Tokens of a window."""
    documents: int
    """Held-out documents of at least so many tokens, on which all were measured."""
    arms: tuple[LongerArm, ...]
    """Bases from the smallest to the largest, then scalings."""
    best: float | None
    """The base with the lowest loss at far positions after the largest budget; None where no seed
    has all arms.
    """
    power: float | None
    """`best` is the old base times the factor of the length to this power."""
    alike: tuple[float, ...]
    """The bases, the best one with them, whose 90% interval over the best holds zero."""
    rules: tuple[RulePrice, ...]
    """What published rules give, and cost."""


class LongerNumbers(Numbers):
    """The numbers of the study of longer contexts."""

    corpus: str
    """The corpus's name."""
    size: str
    """Width x depth, such as 64x4."""
    head_size: int
    """Numbers of a head, on which rules for the base depend."""
    tokens: int
    """Of the stem."""
    was: int
    """Tokens of a window of the stem."""
    base: float
    """RoPE's base in the stem."""
    budgets: tuple[int, ...]
    """Tokens in the longer context, the decay included; 0 is the stem as it was."""
    seeds: int
    """Those that have all their arms."""
    lengths: tuple[LengthFound, ...]
    """From the shortest to the longest."""
    failed: int
    """Runs that diverged."""
    core_minutes: float
    """Minutes of one core that training took."""


ABLATE_LONGER = Experiment(
    name="ablate-longer",
    help="which base of RoPE for which context",
    numbers=LongerNumbers,
    row=LongerRow,
    command="ablate --longer",
)
