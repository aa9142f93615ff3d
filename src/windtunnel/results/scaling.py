"""What `windtunnel scaling` finds: the loss by size and length, what it cost, the laws fitted to
it, and what they said of the audit run.
"""

from pydantic import Field

from windtunnel.results.rate import RateFound
from windtunnel.results.record import Record
from windtunnel.results.study import Experiment, Numbers, Row


class ScalingRow(Row):
    """One decayed branch of a stem (`branch`), or the run that no fit sees (`audit`)."""

    params_with_head: int
    """Parameters without input embeddings, the head included."""
    width: int
    """Width of the residual stream."""
    depth: int
    """Number of layers."""
    batch: int
    """Tokens a step at the end."""
    lr: float
    """The base learning rate at the end."""
    stem: str = ""
    """The id of the stem that the branch left; empty for the audit run."""


class Segment(Record):
    """A stretch of a stem with one batch."""

    begin: int
    """Tokens at which it begins."""
    end: int
    """Tokens at which it ends."""
    batch: int
    """Tokens a step."""


class BatchAlong(Record):
    """How the batch went along a stem: by batch = c D^p, in tokens."""

    origin: str
    """Where c and p come from."""
    c: int | float
    """The batch in tokens at D = 1 token; the batch itself where p is 0."""
    p: float
    """The power of the tokens with which the batch grows; 0 for one batch throughout."""
    segments: tuple[Segment, ...]
    """The stretches of every stem, in order."""


class RateAlong(Record):
    """How the base rate went with size, length and batch."""

    origin: str
    """Where the law comes from."""
    law: RateFound
    """By which every segment of a stem has its rate, at the middle of the lengths of the branches
    that leave it, and the audit run its own.
    """


class StudyCost(Record):
    """What the stems and branches cost; `cosine`: what a run from scratch for each point would
    have.
    """

    flops: int
    """FLOPs of all stems and branches."""
    flops_cosine: int
    """FLOPs of a run from scratch for each point."""
    ratio: float
    """`flops` over `flops_cosine`."""
    tokens: int
    """Tokens of all stems and branches."""
    tokens_cosine: int
    """Tokens of a run from scratch for each point."""
    core_minutes: float
    """Minutes of one core that training took."""


class SizeLosses(Record):
    """One size: its parameters, what it cost a seed, and its losses with seed 0."""

    size: str
    """Width x depth, such as 64x4."""
    params: int
    """Parameters without embeddings."""
    params_with_head: int
    """Parameters without the look-up of embeddings, the head included."""
    params_total: int
    """All parameters."""
    flops: int
    """FLOPs of a stem and its branches."""
    flops_cosine: int
    """FLOPs of a run from scratch for each of its points."""
    longest: int | None = None
    """Its longest length in tokens; None in results by versions that had the same for all sizes."""
    first_loss: float | None
    """At the shortest length, nats/token; None where all branches diverged."""
    last_loss: float | None
    """At its longest length, nats/token; None where all branches diverged."""
    gain_per_doubling: float | None
    """How far the loss falls for twice the tokens, nats/token, between these two; None where
    fewer than two lengths came to their end.
    """
    seeds: int
    """Number of seeds."""


class Beyond(Record):
    """How many times the audit run is larger, and longer, than the largest and longest of the fit,
    by each count of parameters.
    """

    params: float
    """By parameters without embeddings."""
    params_with_head: float
    """By parameters with the head, without the look-up of embeddings."""
    params_total: float
    """By all parameters."""
    tokens: float
    """By tokens of training."""


class AuditRun(Record):
    """A larger and longer run, which no fit sees."""

    run: str
    """Its id."""
    params: int
    """Parameters without embeddings."""
    params_with_head: int
    """Parameters without the look-up of embeddings, the head included."""
    params_total: int
    """All parameters."""
    tokens: int
    """Tokens that it was trained on."""
    batch: int
    """Tokens a step."""
    flops: int
    """FLOPs of its training."""
    core_minutes: float
    """Minutes of one core that training took."""
    beyond: Beyond
    """How far it lies beyond the runs in the fit."""
    loss: float | None
    """nats/token; None where it diverged."""


class LawInterval(Record):
    """A number of a law, and what the points pin down of it."""

    value: float
    """Its value at the best fit."""
    interval90: tuple[float | None, float | None]
    """Of the profile likelihood; None at an end that is open."""
    identified: bool
    """Whether it may be quoted alone: else the points fit about as well with quite another one."""


class Growth(Record):
    """How a prediction's error grows with the distance from the points, by the errors that were
    made when points were held out. Squares add up.
    """

    noise: float
    """Standard deviation of the log loss of any new run."""
    params: float
    """Standard deviation of the log loss that an e-fold of parameters adds."""
    tokens: float
    """Standard deviation of the log loss that an e-fold of tokens adds."""


class Extrapolation(Record):
    """How far a form was off where it was not fitted."""

    axis: str
    """What the points were cut by: `params`, `tokens` or `flops`."""
    fitted_to: float
    """The largest value of the axis that the fit saw."""
    error: float
    """Mean absolute error of the points beyond, relative to their losses."""
    bias: float
    """Mean relative error there; above zero the form predicted too much."""


class LawForm(Record):
    """Which law is meant."""

    form: str
    """Of `laws.loss.FORMS`."""
    count: str
    """Which count of parameters N is."""


class LawConstants(Record):
    """L = E + (A/N^alpha + B N^gamma/D^beta)^c, nats/token."""

    E: float
    """The loss that neither size nor data brings it below."""
    A: float | None
    """What a finite number of parameters costs, at N = 1; None where that is too large or
    too small for a float, as it may be with a small c.
    """
    alpha: float
    """Exponent of size."""
    B: float | None
    """What a finite number of tokens costs, at D = 1; None likewise."""
    beta: float
    """Exponent of data."""
    c: float
    """1 where the two costs add up."""
    gamma: float = 0.0
    """By which power of the size a model's data count for less; 0 where they do not."""
    log_A: float | None = None
    """Natural logarithm of A; None in results of releases that told A alone."""
    log_B: float | None = None
    """Natural logarithm of B; None in results of releases that told B alone."""


# Fields are told from the last base to the first: the form, its constants, and then its own.
class FormFound(LawConstants, LawForm):
    """One form of the law, fitted by one count of N."""

    weight: float
    """In a prediction; over all forms they add up to 1."""
    extrapolation_error: float | None
    """Root mean square of the relative error where it was not fitted; None where nothing could be
    held out.
    """
    inflation: float
    """By how much its own intervals had to be widened to hold those errors."""
    misfit: float
    """Root mean square of the residuals, relative to the loss."""
    noise_sd: float
    """Standard deviation of one point, relative to the loss."""
    converged: bool
    """Whether two optimisers came to one optimum."""
    optimisers_differ: float
    """By how much their objectives differ."""
    intervals: dict[str, LawInterval]
    """By the name of the number."""
    record: tuple[Extrapolation, ...]
    """How it did on each cut of the table."""


class Copying(Record):
    """Whether a model has learnt to copy what stands before in its window."""

    saved: float
    """By which share a text of random tokens costs less when it is read for the second time: near 0
    of a model that does not copy.
    """
    copyable: float
    """Share of the held-out loss that lies on tokens that came after the same token before in their
    window.
    """


class AuditForecast(Record):
    """What the weighed forms said of the audit run."""

    predicted: float
    """nats/token."""
    interval50: tuple[float, float]
    """Between which half of such runs end, nats/token."""
    interval90: tuple[float, float]
    """Between which nine in ten such runs end, nats/token."""
    error: float | None
    """Predicted over got, less 1; None where the audit run diverged."""
    inside90: bool | None
    """Whether the 90% interval holds what was got; None where the audit run diverged."""


class PaperLaw(LawConstants):
    """The law as the paper fits it, for comparison: additive, by `curve_fit`, N without
    embeddings, C = 6 N D (section 4.5).
    """

    standard_errors: dict[str, float]
    """By the name of the number."""
    K2: float
    """N_opt / D_opt = K^2 (C/6)^eta (Eq. 3)."""
    eta: float
    """The power of C in Eq. 3: (beta - alpha) / (alpha + beta)."""
    flops: float
    """FLOPs at which `tokens_per_param` is meant: those of the audit run, or of the dearest
    point.
    """
    tokens_per_param: float
    """The best ratio there."""
    warning: str | None
    """Where that ratio lies outside of the points; None where it lies inside."""
    audit_error: float | None
    """Predicted over got, less 1, of the audit run; None without one, and where it diverged."""
    refused: None = None
    """Always None: it tells a law from a refusal."""


class PaperRefusal(Record):
    """Why the paper's way finds no law."""

    refused: str
    """The reason, in words."""


class StudyLaw(Record):
    """The law of the study: every form with its record."""

    forms: tuple[FormFound, ...] = ()
    """Every form with each count of N; none where the table is too small for a law."""
    audit: AuditForecast | None = None
    """What they said of the audit run; None where there was none, or no law."""
    paper: PaperLaw | PaperRefusal | None = None
    """The law as the paper fits it, or why it finds none; None where the table is too small for a
    law.
    """
    growth: Growth | None = None
    """Of the error of what the weighed forms say; None where there is no law, and in results of
    releases that kept one of each form.
    """
    refused: str | None = None
    """Why the table is too small for a law; None where it is not."""


class ScalingNumbers(Numbers):
    """The numbers of a scaling study."""

    corpus: str
    """The corpus's name."""
    lengths: tuple[int, ...]
    """Tokens at the ends of the branches."""
    decay: float
    """The decay's share of each length."""
    shape: str
    """Of the decay."""
    floor: float
    """Share of the peak rate at the decay's end."""
    batch: BatchAlong
    """How the batch went along the stems."""
    rate: RateAlong | None = None
    """How the base rate went; None in results by versions that had one rate for all runs."""
    settings: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Settings of all runs that the lab's search found, by section of a recipe; none where it did
    not beat the paper's point.
    """
    cost: StudyCost
    """What the study cost, without its audit run."""
    sizes: tuple[SizeLosses, ...]
    """What each size cost and gave."""
    span: float
    """All parameters of the largest size over those of the smallest."""
    fewest_steps: int
    """Steps of the shortest branch, from its stem's beginning."""
    epochs: float
    """How often the longest run reads the corpus."""
    held_out_excess: float | None = None
    """By how much held-out losses lie above the losses of training at the ends of the branches,
    relative to them, median; None where all diverged, and in results of earlier releases. Far
    from 0, the law is of another text than what is trained on.
    """
    held_out_repeats: dict[str, float] = Field(default_factory=dict)
    """By source, the share of the held-out text that stands word for word in the text to train on
    (`data/repeats.py`); empty in results of earlier releases.
    """
    copying: Copying | None = None
    """Whether the largest model copies, at the end of its longest branch; None where that diverged
    or kept no checkpoint, or no text is held out, and in results of earlier releases.
    """
    seed_sd: float | None
    """Standard deviation of the loss from seed to seed, nats/token; None without repeats."""
    seed_freedom: int
    """Degrees of freedom of that."""
    audit: AuditRun | None = None
    """The run that no fit sees; None where the study has none."""
    law: StudyLaw = StudyLaw()
    """The laws fitted to the branches."""


SCALING = Experiment(
    name="scaling",
    help="how the loss falls with size and data",
    numbers=ScalingNumbers,
    row=ScalingRow,
)
