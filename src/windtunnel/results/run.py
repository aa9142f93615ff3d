"""What the files of a run's folder say: run.json, status.json, engine.json, checkpoint.json and
the lines of metrics.jsonl; and a run as `windtunnel runs --json` lists it.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict

from windtunnel.results.record import Record

Kind = Literal["stem", "branch", "run"]
Status = Literal["running", "done", "failed", "interrupted"]


def _none_for_nan(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


# runs of 0.1 could record a validation whose loss is not a number
_Measured = Annotated[float | None, BeforeValidator(_none_for_nan)]


class _Sparse(Record):
    """Fields that have their default are not written."""

    def to_json(self) -> str:
        return self.model_dump_json(exclude_defaults=True)


class Origin(Record):
    """Where the weights of an imported model came from."""

    name: str
    """The folder or file, without its path."""
    layout: str
    """The layout that it was in, by a name of `windtunnel export --to`."""
    weights: str
    """sha256 of the weights, in hex."""


class AboutRun(_Sparse):
    """run.json: what a run is, written once when its folder is made."""

    id: str
    """Twelve hex digits: `recipe.ids`."""
    kind: Kind
    """A stem has no decay; a branch decays from its parent's stem; a run is anything else."""
    parent: str | None
    """Id of the run that it leaves; None where it begins from nothing."""
    at_tokens: int | None
    """Tokens of the parent at which it leaves; None without a parent."""
    corpus: str
    """Digest of the corpus's content; empty for an imported model."""
    anew: bool = False
    """Whether it takes the parent's weights alone: no moments, and its tokens count from 0."""
    origin: Origin | None = None
    """Where an imported model came from; None where the run was trained here."""
    results_version: int = 3
    """`recipe.RESULTS_VERSION` of the code that made it; not written by versions up to 3."""


class Owner(Record):
    """`owner.json` of a run that a fleet on several machines trains: who owns it. The file is
    touched as long as its owner is alive.
    """

    lease: str
    """Of the worker that trains it."""
    host: str
    """The machine of the process that gave it to the worker."""
    pid: int
    """That process."""


class RunStatus(_Sparse):
    """status.json: where a run stands, written anew at each validation and checkpoint."""

    status: Status
    """As its last process left it; `Run.status` knows whether that process still lives."""
    tokens: int
    """Tokens trained."""
    loss: _Measured = None
    """Of its last validation over all sources, nats a token; None before the first one, and where
    it was not a number.
    """
    bits_per_byte: _Measured = None
    """The same, in bits a byte of the held-out text; None where the loss is."""
    reason: str | None = None
    """Why it failed; None where it did not."""


class RunSummary(Record):
    """A run as `windtunnel runs --json` lists it."""

    id: str
    """Twelve hex digits: `recipe.ids`."""
    name: str
    """From the recipe; several runs may have the same."""
    kind: Kind
    """A stem has no decay; a branch decays from its parent's stem; a run is anything else."""
    parent: str | None
    """Id of the run that it leaves; None where it begins from nothing."""
    at_tokens: int | None
    """Tokens of the parent at which it leaves; None without a parent."""
    tokens: int
    """Tokens trained."""
    total_tokens: int
    """Tokens at which it ends."""
    status: Status
    """Where it stands now: one whose process is gone is interrupted."""
    loss: float | None
    """Of its last validation over all sources, nats a token; None before the first one, and where
    it was not a number.
    """
    bits_per_byte: float | None
    """The same, in bits a byte of the held-out text; None where the loss is."""
    reason: str | None
    """Why it failed; None where it did not."""
    path: Path
    """The run's folder."""


class Engine(Record):
    """engine.json: how a run is computed, as its first start chose it."""

    device: str
    """cpu, cuda or mps."""
    precision: str
    """Of the matrix products: fp32, bf16 or fp8."""
    compiled: bool
    """Whether layers, loss and optimiser are compiled."""
    micro_batch: int
    """Tokens of each member that go through the model at once."""
    threads: int
    """Of the processor, for torch."""
    members: int = 1
    """Runs that it was begun with in one population, itself among them."""
    recompute: bool = False
    """Whether layers are computed again in the backward pass, for want of memory."""
    deterministic: bool = False
    """Whether a GPU gives the same bits each time."""
    worlds: tuple[int, ...] = (1,)
    """How many processes trained it together, in the order of its starts; alike ones that follow
    each other count once. Bits are the same at an equal number, and differ by rounding at
    another."""

    def __str__(self) -> str:
        compiled = "compiled" if self.compiled else "not compiled"
        parts = [self.device, self.precision, compiled, f"{self.threads} threads"]
        parts.append(f"{self.micro_batch} tokens at once")
        if self.members > 1:
            parts.append(f"one of {self.members} members")
        if self.recompute:
            parts.append("layers computed again in the backward pass")
        if self.deterministic:
            parts.append("deterministic")
        if self.worlds != (1,):
            parts.append(f"processes: {', then '.join(map(str, self.worlds))}")
        return ", ".join(parts)


class Score(Record):
    """How well a model predicts some held-out text."""

    model_config = ConfigDict(allow_inf_nan=True)  # `Recorder.validation` refuses what is no number

    loss: float
    """Mean over the tokens, nats a token."""
    bits_per_byte: float
    """Bits a byte of the text that those tokens stand for, so that vocabularies compare."""
    tokens: int
    """Tokens scored."""


class PreferenceScore(Record):
    """How well a model prefers the better answers of held-out questions. A reward is beta times an
    answer's log-ratio: its log-probability under the model less that under the reference.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    loss: float
    """Mean over the records, of the loss that is learnt by."""
    accuracy: float
    """Share of the records in which the chosen answer has the higher reward, a tie counted half; of
    judged answers, those on the right side of the divergence that KTO estimates."""
    chosen: float
    """Mean reward of chosen answers, or of those that were judged good."""
    rejected: float
    """Mean reward of rejected answers, or of those that were judged bad."""
    margin: float
    """`chosen` less `rejected`."""
    divergence: float
    """KL(model || reference) of the next token, nats a token: over the whole vocabulary, the mean
    over the tokens of held-out answers."""
    chosen_tokens: float
    """Mean length of chosen answers, in tokens."""
    rejected_tokens: float
    """Mean length of rejected answers, in tokens."""
    records: int
    """Pairs, or judged answers, that were scored."""


class Validation(Score):
    """The score over all sources, weighted by the mixture with which the run's training begins
    (without a mixture, by the training tokens of each source). A branch with another mixture is
    weighted as its stem is, so the two compare; runs that begin with different mixtures compare
    by source only.
    """

    sources: dict[str, Score]
    """By the source's name."""
    unevenness: float | None = None
    """How unevenly experts are used within a window, the mean over windows and layers: 1 where all
    are used alike. None of a model without experts.
    """
    preference: PreferenceScore | None = None
    """On pairs or judged answers, of a run that learns from them; `loss` and `bits_per_byte` are
    then those of the chosen answers alone."""


class MetricsLine(_Sparse):
    """A line of metrics.jsonl."""

    tokens: int
    """Tokens trained, a step's own among them."""


class StepLine(MetricsLine):
    """A line of metrics.jsonl: one step of training."""

    model_config = ConfigDict(allow_inf_nan=True)  # `Recorder.steps` refuses what is no number

    loss: float
    """Mean over what the batch asks to learn, before the step, nats a token."""
    lr: float
    """The base rate of the step, before a role's multiplier."""
    grad_norm: float
    """Of all parameters, before clipping."""
    tokens_per_s: int
    """Tokens a second of all members together, since the last lines were written."""
    peak_share: float
    """FLOPs a second of the model's products over the device's peak."""


class ValidationLine(MetricsLine):
    """A line of metrics.jsonl: one validation."""

    validation: Validation
    """What the model scored on held-out text."""


class CheckpointContent(Record):
    """checkpoint.json: what a checkpoint's folder holds."""

    tokens: int
    """Tokens trained."""
    steps: int
    """Updates of the optimiser."""
    sha256: dict[str, str]
    """Of each file, in hex."""
