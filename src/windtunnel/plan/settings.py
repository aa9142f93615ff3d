"""The batch and the learning rate of a plan, by what the lab or the table knows of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.batch import ByTokens, Optima, best_available, fit_batch, interval_of
from windtunnel.plan.evidence import Evidence, StudiedBatch, StudiedRateLaw
from windtunnel.quantities import about
from windtunnel.results.batch import BATCH
from windtunnel.results.plan import Provenance, StudiedRate
from windtunnel.results.transfer import TRANSFER
from windtunnel.scaling_recipe import LAB_BATCH, LAB_TRANSFER, PAPER_RATE, BatchRule

_DRAWS = 400  # of best batches, for the interval of a law through them
_ABOUT = 1.05  # times a batch: a larger one is another batch
_FAR = 4  # times shorter or longer than what a law of the batch was fitted to, it is extrapolated
# Of published runs of 2e9 to 1e11 tokens: 0.58 D^0.571 tokens (Step Law, arXiv 2503.04715).
_STEP_LAW, _STEP_LAW_FROM, _STEP_LAW_TO = ByTokens(0.58, 0.571), 1e9, 4e11


@dataclass(frozen=True)
class PlannedRun:
    """The run that a batch is wanted for."""

    loss: float  # nats/token
    tokens: float
    params: float  # without embeddings


@dataclass(frozen=True, kw_only=True)
class BatchChoice:
    """The best batch by a law."""

    batch: float  # tokens a step
    interval: tuple[float, float] | None  # 90%, where the law has one
    inside: bool  # what it was asked for lies within what it was fitted to
    provenance: Provenance
    beside: float | None = None  # by the lab's batch or transfer study, where it has one


@dataclass(frozen=True)
class RateChoice:
    """The base rate, and what other studies of the lab know of it."""

    lr: float
    provenance: Provenance
    beside: tuple[StudiedRate, ...]
    held_at: float | None = None  # tokens a step: the largest batch measured, where this is larger


def batch_for(evidence: Evidence, run: PlannedRun) -> BatchChoice:
    """By the scaling recipe that the runs in the fit kept to: the expected loss holds for it. Of a
    table, by its best batches, or by published ones. Raises InputError for best batches that no law
    goes through.
    """
    if evidence.recipe is not None:
        return _kept_batch(evidence, evidence.recipe.batch, run)
    if evidence.batches is not None:
        return _table_batch(evidence.provenance, evidence.batches, run)
    if run.tokens >= _STEP_LAW_FROM:
        law = _STEP_LAW
        return BatchChoice(
            batch=law.predict(run.tokens),
            interval=None,
            inside=run.tokens < _STEP_LAW_TO,
            provenance=Provenance(
                how=f"{law.c} D^{law.p}, of published runs (Step Law, arXiv 2503.04715); the "
                "table has no column batch"
            ),
        )
    how = "c D^p, measured at laptop scale; the table has no column batch"
    return _fitted("tokens", laptop.BATCH_OPTIMA, run, Provenance(how=how))


def rate_for(evidence: Evidence, run: PlannedRun, batch: float) -> RateChoice:
    """By the scaling recipe that the runs in the fit kept to: the expected loss holds for no other
    rate. Of a table, by its rates, or the paper's where it does not say them. `batch`: tokens a
    step.
    """
    if evidence.recipe:
        kept = evidence.recipe.rate
        how = f"of the runs in the fit, by size, length and batch ({kept.origin})"
        largest = kept.law.largest_batch
        held_at = largest if batch > _ABOUT * largest else None
        if held_at:
            how += f", held at that of {about(largest)} tokens a step, the most it was measured at"
        provenance = evidence.provenance.but(how)
        lr = kept.lr(run.params, run.tokens, batch)
        beside = evidence.studied_rates
        if evidence.rate_law:
            beside = (_by_law(evidence.rate_law, run, min(batch, largest)), *beside)
        return RateChoice(lr, provenance, beside, held_at)
    if not evidence.rates:
        how = "the paper's (section 3.3); no run here says another"
        return RateChoice(PAPER_RATE, Provenance(how=how), ())
    lr, how = _fitted_rate(evidence.rates, run.params)
    return RateChoice(lr, evidence.provenance.but(how), evidence.studied_rates)


def _by_law(found: StudiedRateLaw, run: PlannedRun, batch: float) -> StudiedRate:
    """What the law of the lab's transfer study says of this run."""
    where = run.params, run.tokens, batch
    return StudiedRate(
        study=TRANSFER.name,
        lr=found.law.at(*where),
        interval=found.law.interval(*where),
        at="by its law, for this size, length and batch",
        runs=found.runs,
    )


def _kept_batch(evidence: Evidence, kept: BatchRule, run: PlannedRun) -> BatchChoice:
    provenance = evidence.provenance.but(f"c D^p that the runs in the fit kept to ({kept.origin})")
    batch, longest = kept.by_tokens.predict(run.tokens), float(evidence.points.tokens.max())
    found, interval = evidence.studied_batch, None
    if kept.origin == laptop.ORIGIN:
        interval = _fitted("tokens", laptop.BATCH_OPTIMA, run, provenance).interval
    elif found and found.covariance is not None and _of_study(found) == kept.origin:
        interval = interval_of(found.law, found.covariance, run.loss, run.tokens, run.params)
        provenance = found.provenance
    return BatchChoice(
        batch=batch,
        interval=interval,
        inside=run.tokens <= _FAR * longest,
        provenance=provenance,
        beside=found and float(found.law.at(run.loss, run.tokens, run.params)),
    )


def _of_study(found: StudiedBatch) -> str | None:
    """The origin of a recipe's batch that rests on this study."""
    return {BATCH.name: LAB_BATCH, TRANSFER.name: LAB_TRANSFER}.get(found.provenance.study or "")


def _table_batch(source: Provenance, optima: Optima, run: PlannedRun) -> BatchChoice:
    lengths = np.unique(optima.tokens)
    # a power of the tokens needs batches that differ, over lengths that do
    if len(np.unique(optima.batch)) < 3 or len(lengths) < 3:
        return BatchChoice(
            batch=float(np.exp(np.log(optima.batch).mean())),
            interval=None,
            inside=bool(lengths[0] / _FAR <= run.tokens <= _FAR * lengths[-1]),
            provenance=source.but("the mean batch of the table"),
        )
    try:
        kind, _ = best_available(optima)
    except ValueError as error:
        raise InputError(f"{source.how}: {error}") from None
    provenance = source.but(f"the {kind} law through the batches of the table")
    return _fitted(kind, optima, run, provenance)


def _fitted(kind: str, optima: Optima, run: PlannedRun, provenance: Provenance) -> BatchChoice:
    """By a law through best batches, with its interval from batches drawn anew within their
    errors.
    """
    rng = np.random.default_rng(0)
    redrawn = []
    for _ in range(_DRAWS):
        scatter = np.exp(optima.error * rng.standard_normal(len(optima)))
        redrawn.append(replace(optima, batch=optima.batch * scatter))
    law = fit_batch(kind, optima, redrawn)
    batch, low, high = law.predicted(run.loss, run.tokens, run.params)
    inside = optima.tokens.min() / _FAR <= run.tokens <= optima.tokens.max() * _FAR
    return BatchChoice(
        batch=batch, interval=(low, high), inside=bool(inside), provenance=provenance
    )


def _fitted_rate(rates: Sequence[tuple[float, float]], params: float) -> tuple[float, str]:
    """The rate of the runs in the fit, (parameters, rate) each, and how it was found: straight in
    logarithms through those of the best runs, by size, where they differ.
    """
    # rates that were meant to be one may differ in their last bits
    values = np.unique([round(lr, 12) for _, lr in rates])
    if len(values) == 1:
        return float(values[0]), "the rate of the runs in the fit: the expected loss holds for it"
    log_sizes, log_rates = np.log(np.array(rates)).T
    if len(np.unique(log_sizes)) < 3:
        return _three_digits(math.exp(log_rates.mean())), "the mean rate of the best runs"
    slope, base = np.polyfit(log_sizes, log_rates, 1)
    lr = math.exp(base + slope * math.log(params))
    return _three_digits(lr), "c N^q through the rates of the best runs"


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
