"""The batch and the learning rate of a plan, by what the lab or the table knows of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.batch import ByTokens, Optima, best_available, fit_batch, interval_of
from windtunnel.plan.evidence import Evidence, KeptBatch, StudiedBatch
from windtunnel.results.plan import Provenance, StudiedRate

PAPER_RATE = 0.01  # the base rate that the paper found best from 0.009B to 2.1B (section 3.3)
_DRAWS = 400  # of best batches, for the interval of a law through them
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


@dataclass(frozen=True)
class RateChoice:
    """The base rate, and what other studies of the lab know of it."""

    lr: float
    provenance: Provenance
    beside: tuple[StudiedRate, ...]


def batch_for(evidence: Evidence, run: PlannedRun) -> BatchChoice:
    """The best batch by the lab's batch study where it has one on this corpus, else by the law
    that the scaling study's runs kept to, or by the table's best batches; without any of them by
    published ones. Raises InputError for best batches that no law goes through.
    """
    studied = evidence.studied_batch
    if studied is not None:
        return _studied(studied, run)
    if evidence.batch_law is not None:
        return _kept_batch(evidence.provenance, evidence.batch_law, run)
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


def rate_for(evidence: Evidence, params: float) -> RateChoice:
    """The rate that the law was measured with: the expected loss holds for no other. The paper's
    where a table does not say it. `params`: of the planned model.
    """
    if not evidence.rates:
        how = "the paper's (section 3.3); no run here says another"
        return RateChoice(PAPER_RATE, Provenance(how=how), ())
    lr, how = _fitted_rate(evidence.rates, params)
    return RateChoice(lr, evidence.provenance.but(how), evidence.studied_rates)


def _studied(found: StudiedBatch, run: PlannedRun) -> BatchChoice:
    where = run.loss, run.tokens, run.params
    interval = None
    if found.covariance is not None:
        interval = interval_of(found.law, found.covariance, *where)
    shortest, longest = found.tokens
    return BatchChoice(
        batch=float(found.law.at(*where)),
        interval=interval,
        inside=bool(shortest / _FAR <= run.tokens <= longest * _FAR),
        provenance=found.provenance,
    )


def _kept_batch(source: Provenance, kept: KeptBatch, run: PlannedRun) -> BatchChoice:
    provenance = source.but(f"c D^p that the runs in the fit kept to ({kept.origin})")
    interval = None
    # only the law measured at laptop scale comes with the best batches that it goes through
    if kept.origin == laptop.ORIGIN:
        interval = _fitted("tokens", laptop.BATCH_OPTIMA, run, provenance).interval
    return BatchChoice(
        batch=kept.law.predict(run.tokens),
        interval=interval,
        inside=run.tokens <= _FAR * kept.longest,
        provenance=provenance,
    )


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
