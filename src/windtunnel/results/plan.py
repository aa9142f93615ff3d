"""`plan.json`: what a plan says of the run that it plans, where each number came from, and what
came of it.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator

from windtunnel.results.record import Record, SparseRecord

Level = Literal["stop", "caution", "note"]
Verdict = Literal["go", "caution", "no-go"]


def ten_digits(value: float) -> float:
    """`value` to ten digits: the last bits of a fit may differ from process to process."""
    return float(f"{value:.10g}")


Number = Annotated[float, AfterValidator(ten_digits)]
Interval = tuple[Number, Number]


class Provenance(Record):
    """Where a number of the plan came from, and the runs behind it."""

    study: str | None = None
    """The study of the lab that it was measured in; null where it was not measured here."""
    how: str
    """How it was found, in words."""
    runs: tuple[str, ...] = ()
    """Ids of the runs behind it."""

    def but(self, how: str) -> "Provenance":
        """The same study and runs, for a number that came from them in another way."""
        return self.model_copy(update={"how": how})


class Flag(Record):
    """Something that could be wrong with a plan."""

    level: Level
    """How grave it is. A stop makes the plan a no-go."""
    about: str
    """The subject, in one word."""
    text: str
    """What could be wrong, in a sentence."""


class Shape(Record):
    """The model's sizes, in the words of a recipe."""

    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    heads: int
    """Attention heads of the queries."""
    kv_heads: int
    """Attention heads of the keys and values."""
    head_size: int
    """Width of a head."""
    ffn: int
    """Width of the feed-forward."""
    vocab: int
    """Size of the vocabulary."""


class StudiedRate(SparseRecord):
    """The best learning rate of another study of the lab."""

    study: str
    """Name of the study."""
    lr: Number
    """The base learning rate."""
    interval: Interval | None
    """90% interval of the rate; null where the study gives none."""
    at: str
    """The model and the length at which the rate was measured."""
    outcome: str | None = None
    """Of a search: whether its settings beat the paper's or tied with them; null of other studies.
    """
    runs: tuple[str, ...]
    """Ids of the runs of the study."""


class SizeLoss(Record):
    """A size, the tokens that a budget buys it, and the loss that they give."""

    params: Number
    """Parameters without embeddings."""
    tokens: Number
    """Tokens to train on."""
    loss: Number
    """Expected, nats/token."""


class Reach(Record):
    """How far the planned run lies beyond the runs in the fit."""

    params: Number
    """Its parameters, as a multiple of those of the largest run in the fit."""
    tokens: Number
    """Its tokens, as a multiple of those of the longest run in the fit."""


class WeighedLaw(Record):
    """A law L = E + (A/N^alpha + B N^gamma/D^beta)^c, nats/token, and what it counts for in the
    plan.
    """

    form: str
    """The form of the law: which of its numbers are free."""
    count: str
    """The count of parameters that N stands for."""
    weight: Number
    """Its share of the prediction."""
    score: Number
    """Root mean square of the loss's relative error in forward-chained extrapolation."""
    E: Number
    """The irreducible loss, nats/token."""
    A: Number | None
    """Coefficient of the term of size; null where it is too large or too small for a float, as it
    may be with a small c.
    """
    alpha: Number
    """Exponent of size."""
    B: Number | None
    """Coefficient of the term of data; null likewise."""
    beta: Number
    """Exponent of data."""
    c: Number
    """Power of the sum of both terms; 1 in the additive law."""
    gamma: Number = 0.0
    """By which power of the size a model's data count for less; 0 where they do not."""
    log_A: Number | None = None
    """Natural logarithm of A; null in plans of releases that told A alone."""
    log_B: Number | None = None
    """Natural logarithm of B; null in plans of releases that told B alone."""


class BestRatio(Record):
    """Tokens a parameter at which the plan's FLOPs are best spent, by C = 6ND."""

    count: str
    """The count of parameters that N stands for."""
    value: Number | None
    """By the weightiest law; null where it has no best ratio."""
    interval90: Interval | None
    """90% interval over laws that fit as well; null where many have no best ratio."""


class LawProfile(Record):
    """A number of the weightiest law, with the 90% interval of its profile likelihood."""

    name: str
    """Which number: E, or one of the local exponents."""
    value: Number
    """Its value at the best fit."""
    low: Number | None
    """Lower end of the interval; null where it is open."""
    high: Number | None
    """Upper end of the interval; null where it is open."""


class PlanLaws(Record):
    """The laws behind a plan."""

    candidates: tuple[WeighedLaw, ...]
    """All forms, with each count of parameters."""
    ratio: BestRatio
    """The best ratio of tokens to parameters."""
    profiles: tuple[LawProfile, ...]
    """What the runs pin down of the weightiest law."""


class TrainingBytes(SparseRecord):
    """What training holds in memory, on each device."""

    micro_batch: int
    """Tokens through the model at once."""
    recompute: bool = False
    """Whether layers are computed again in the backward pass, for want of memory."""
    states: int
    """Bytes of the weights, their gradients and the optimiser's state."""
    copies: int = 0
    """Bytes of the weights and gradients in 16 bits."""
    activations: int
    """Bytes of what the layers keep for the backward pass."""
    head: int = 0
    """Bytes of the logits that exist at once."""
    total: int
    """Bytes of all parts together."""


class Training(SparseRecord):
    """What training costs. Without a device, only the memory is known."""

    device: str | None
    """Name of the device; null where none was named and the lab has no runs."""
    devices: int | None = None
    """Number of devices; null where no device was named and the lab has no runs."""
    share: Number | None = None
    """Share of the data sheet's peak that is reached; null for a CPU, whose speed was measured."""
    memory: int | None = None
    """Memory of one device, bytes; null where it is not known."""
    flops_per_second: Number | None = None
    """FLOP/s of all devices together."""
    hours: Number | None
    """Hours, on all devices together."""
    cost: Number | None
    """Cost, in the unit of the price of an hour; null where no price was given."""
    bytes: TrainingBytes
    """Memory that training needs."""


class Serving(Record):
    """What serving the model costs."""

    bytes: dict[str, int]
    """Bytes of the weights, by quantisation."""
    cache_bytes: int
    """Bytes of the keys and values of a full context, in f16."""
    flops_per_token: int
    """FLOPs to read or write a token, at half of the context."""


class Smaller(Record):
    """A smaller model, trained until its loss is within 0.5% of the planned one's."""

    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    params: int
    """Parameters without embeddings."""
    tokens: Number
    """Tokens that it needs."""
    loss: Number
    """Expected, nats/token."""
    serving: Number
    """FLOPs per token, as a multiple of those of the planned model."""
    training: Number
    """FLOPs of training, as a multiple of those of the planned run."""


class ExpectedScore(Record):
    """What the planned model may score on a task, by a law from loss to score."""

    task: str
    """Its name."""
    metric: str
    """How it is scored, such as acc or exact_match."""
    score: Number
    """The score to expect, between 0 and 1."""
    interval90: Interval
    """Its 90% interval, the loss's own among what makes it wide."""
    chance: Number
    """What guessing scores."""
    losses: Interval
    """The lowest and the highest loss of the runs behind the law, nats/token."""
    flat: bool
    """Whether the scores could as well be the same at every loss: then no law is seen."""
    runs: tuple[str, ...]
    """Ids of the runs behind it."""


class Audit(Record):
    """Predicted against got."""

    run: str
    """Id of the run that was trained as planned."""
    forecast: str | None = None
    """Id of the sealed forecast that the run is held against; null where none was sealed: then it
    is held against the plan as it was when it was audited.
    """
    loss: Number
    """The loss that it reached, nats/token."""
    predicted: Number
    """The loss that was predicted, nats/token."""
    error: Number
    """Predicted over reached, minus 1: above 0 where the plan predicted too high a loss."""
    inside50: bool
    """Whether the loss lies within the 50% interval."""
    inside90: bool
    """Whether the loss lies within the 90% interval."""
    remarks: tuple[str, ...] = ()
    """What speaks against the comparison: what is not as it was sealed."""


class PlanResult(SparseRecord):
    """A plan: what to train, what to expect of it, how sure that is, and what it costs."""

    plan: str
    """Name of the plan."""
    go: Verdict
    """The verdict, by the gravest of the flags."""
    params: int
    """Parameters without embeddings: the paper's N."""
    params_with_head: int
    """Parameters with the head, without the look-up of embeddings."""
    params_total: int
    """All parameters."""
    tokens: int
    """Tokens to train on."""
    flops: int
    """FLOPs of training, exactly."""
    flops_6nd: int
    """FLOPs of training, by 6ND."""
    shape: Shape
    """The model's sizes."""
    context: int
    """Tokens of a window."""
    steps: int
    """Steps of the optimiser."""
    batch_tokens: int
    """Tokens a step."""
    batch_best: Number
    """Tokens a step by the law of the batch; the recipe has the nearest that windows allow."""
    batch_interval: Interval | None
    """90% interval of `batch_best`; null where the law has none."""
    lr: Number
    """The base learning rate."""
    lr_beside: tuple[StudiedRate, ...]
    """Best learning rates of other studies."""
    warmup_tokens: int
    """Tokens of the warm-up."""
    decay_tokens: int
    """Tokens of the decay."""
    decay_shape: str
    """How the learning rate falls in the decay."""
    floor: Number
    """Learning rate at the end of the decay, as a share of the peak."""
    weight_decay: Number
    """Share of a weight that a step takes away, at the peak of the schedule."""
    branch_points: tuple[int, ...]
    """Tokens at which a checkpoint stays, for branches."""
    loss: Number
    """Expected loss, nats/token."""
    interval50: Interval
    """Loss between which half of such runs end, nats/token."""
    interval90: Interval
    """Loss between which nine in ten such runs end, nats/token."""
    scores: tuple[ExpectedScore, ...] = ()
    """What it may score on the tasks on which runs of the lab that read this corpus were scored."""
    at_this_cost: tuple[SizeLoss, ...]
    """Other sizes, trained with the same FLOPs."""
    range_params: tuple[int, int]
    """Parameters without embeddings, of sizes within 0.5% of the best loss at this cost."""
    tokens_per_param: Number
    """Tokens a parameter of the plan."""
    sampled_tokens_per_param: Interval
    """Lowest and highest tokens a parameter of the runs in the fit."""
    extrapolation: Reach
    """How far the plan lies beyond the runs in the fit."""
    unique_tokens: int | None
    """Tokens that there are to read; null where there are as many as wanted."""
    epochs: Number | None
    """How many times those are read; null where there are as many as wanted."""
    effective_tokens: Number
    """Fresh tokens that would be worth as much as the plan's tokens."""
    best_by_6nd: SizeLoss
    """What the same FLOPs would be best spent on by C = 6ND, for any size."""
    law: PlanLaws
    """The laws behind the plan."""
    training: Training
    """What training costs."""
    serving: Serving
    """What serving costs."""
    over_trained: tuple[Smaller, ...]
    """Smaller models that reach the loss by more tokens."""
    flags: tuple[Flag, ...]
    """What could be wrong, the gravest first."""
    provenance: dict[str, Provenance]
    """Where the numbers came from, by their names."""
    recipe: str
    """Path of the recipe, plan.toml."""
    forecast: str | None = None
    """Id of the forecast that was sealed in the lab's ledger; null where none was: without a
    corpus, or by a release that had no ledger.
    """
    audit: Audit | None = None
    """What came of it, once a run was trained and held against it; null until then."""


def expected_in_words(expected: ExpectedScore, loss: float) -> str:
    """`questions, acc: 0.41, nine times in ten between 0.35 and 0.48, by 6 runs`, and what speaks
    against it; `loss`: the planned one, nats/token.
    """
    low, high = expected.interval90
    best, worst = expected.losses
    said = (
        f"{expected.task}, {expected.metric}: {expected.score:.2f}, nine times in ten between "
        f"{low:.2f} and {high:.2f}, by {len(expected.runs)} runs"
    )
    if not best <= loss <= worst:
        said += f" with losses from {best:.2f} to {worst:.2f}, beyond which this lies"
    if expected.flat:
        said += "; they show no law, since it could be flat"
    return said
