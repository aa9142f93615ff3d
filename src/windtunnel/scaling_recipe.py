"""The scaling recipe: how a run of any size and length is trained. A lab's search, transfer and
batch studies fit it; the scaling study trains its stems, branches and audit run by it, so that the
law is the law of it; and a plan writes it out for the size and the length that it chose.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean

import numpy as np

from windtunnel.laws import laptop
from windtunnel.laws.batch import BatchFit, BatchLaw, ByTokens
from windtunnel.laws.rate import RateLaw, constant_rate
from windtunnel.recipe import Model, Optimizer
from windtunnel.results.batch import BATCH, FittedLaw
from windtunnel.results.experiments import study_of
from windtunnel.results.rate import RateFound
from windtunnel.results.scaling import ScalingNumbers
from windtunnel.results.search import SEARCH
from windtunnel.results.transfer import TRANSFER, TransferNumbers

PAPER_RATE = 0.01  # the base rate that the paper found best from 0.009B to 2.1B (section 3.3)
# Origins: what a person asked for, and the lab's studies.
GIVEN, LAB_BATCH, LAB_TRANSFER = "given", "the lab's batch study", "the lab's transfer study"
_SMALLEST_BATCH = 512  # tokens a step, whatever a law says
_DIGITS = 3  # of a rate in a recipe

# What a search found beside the rate, by section of a recipe and by name: what `Recipe.change`
# takes.
Settings = dict[str, dict[str, float]]


@dataclass(frozen=True)
class BatchRule:
    """The batch of a run by its tokens: that of a law, as a power of two, so that every batch
    divides the next one.
    """

    by_tokens: ByTokens
    origin: str

    def batch(self, tokens: float) -> int:
        """Tokens a step of a run of this length; as it was given where it was."""
        if self.by_tokens.p == 0:
            return round(self.by_tokens.c)
        return max(_SMALLEST_BATCH, 2 ** round(math.log2(self.by_tokens.predict(tokens))))

    def border(self, batch: int) -> float:
        """Tokens at which `batch` has become as wrong as twice that batch."""
        return self.by_tokens.tokens(batch * math.sqrt(2)) if self.by_tokens.p > 0 else math.inf


@dataclass(frozen=True)
class RateRule:
    """The base learning rate of a run by its parameters, tokens and batch."""

    law: RateLaw
    origin: str

    def lr(self, params: float, tokens: float, batch: float) -> float:
        """Of a model of so many parameters without embeddings, on so many tokens, with a batch of
        so many. It is not raised for a batch beyond those that were measured: the gain from a
        larger batch ends somewhere, and too high a rate costs more than too low a one.
        """
        lr = self.law.at(params, tokens, min(batch, self.law.largest_batch))
        return float(f"{lr:.{_DIGITS}g}")


@dataclass(frozen=True, kw_only=True)
class ScalingRecipe:
    """How a run of N parameters and D tokens is trained, and where each of it comes from."""

    rate: RateRule
    batch: BatchRule
    settings: Settings = field(default_factory=dict)


LAPTOP_BATCH = BatchRule(laptop.BATCH_LAW, laptop.ORIGIN)
LAPTOP_RATE = RateRule(laptop.RATE_LAW, laptop.ORIGIN)
_PAPER_RATE = RateRule(constant_rate(PAPER_RATE), "the paper's (section 3.3)")


def scaling_recipe(
    lab: Path, corpus: str, *, largest: float, lr: float | None = None, batch: int | None = None
) -> ScalingRecipe:
    """What is given; else what the lab's studies found on this corpus; else what was measured at
    laptop scale, or published where `largest`, the parameters of the largest model, lies beyond.
    Raises InputError for a damaged study.
    """
    transferred = None if lr else _transferred(lab, corpus)
    if transferred:
        rate, settings = transferred
    else:
        settings = searched_settings(lab, corpus)
        rate = LAPTOP_RATE if largest <= laptop.LARGEST else _PAPER_RATE
    if lr:
        rate = RateRule(constant_rate(lr), GIVEN)
    return ScalingRecipe(rate=rate, batch=batch_rule(lab, corpus, batch), settings=settings)


def searched_settings(lab: Path, corpus: str) -> Settings:
    """What the lab's search on this corpus chose, beside the rate, where it beat the paper's point:
    the rate goes with size, length and batch, and is the transfer study's to find. Raises
    InputError for a damaged study.
    """
    study = study_of(lab, SEARCH, corpus)
    found: Settings = {}
    if study is None or study.numbers.outcome != "beats":
        return found
    if study.numbers.optimizer != Optimizer.default("kind"):
        return found
    for name, value in study.numbers.chosen.point.items():
        if name in Model.model_fields:
            found.setdefault("model", {})[name] = value
        elif name in Optimizer.model_fields and name != "lr":
            found.setdefault("optimizer", {})[name] = value
    return found


def batch_rule(lab: Path, corpus: str, batch: int | None = None) -> BatchRule:
    """That of `scaling_recipe`. Raises InputError for a damaged study."""
    if batch:
        return BatchRule(ByTokens(batch, 0.0), GIVEN)
    study = study_of(lab, BATCH, corpus)
    law, origin = (study.numbers.laws.get("tokens") if study else None), LAB_BATCH
    if law is None:
        transferred = study_of(lab, TRANSFER, corpus)
        of_tunnel = Model.default("parametrization")
        law = transferred and transferred_batches(transferred.numbers, of_tunnel)
        origin = LAB_TRANSFER
    if law is None:
        return LAPTOP_BATCH
    return BatchRule(ByTokens(law.constants["c"], law.constants["p"]), origin)


def kept_recipe(numbers: ScalingNumbers, rates: Sequence[float]) -> ScalingRecipe:
    """By which the runs of a scaling study were trained. `rates`: theirs, for studies by versions
    that had one rate for all runs.
    """
    batch, along = numbers.batch, numbers.rate
    if along:
        rate = RateRule(rate_law(along.law), along.origin)
    else:
        rate = RateRule(constant_rate(geometric_mean(rates)), "one for all")
    return ScalingRecipe(
        rate=rate,
        batch=BatchRule(ByTokens(batch.c, batch.p), batch.origin),
        settings=numbers.settings,
    )


def transferred_law(numbers: TransferNumbers, parametrization: str) -> RateLaw | None:
    """The law of the rate that a transfer study found of a parametrization."""
    rates = numbers.parametrizations.get(parametrization)
    return rate_law(rates.law) if rates and rates.law else None


def transferred_batches(numbers: TransferNumbers, parametrization: str) -> FittedLaw | None:
    """The law of the batch that a transfer study found of a parametrization."""
    rates = numbers.parametrizations.get(parametrization)
    return rates and rates.batch_law


def rate_law(found: RateFound) -> RateLaw:
    """The law that a result tells."""
    constants = found.model_dump(exclude={"covariance", "largest_batch"})
    return RateLaw(
        **constants,
        covariance=np.array(found.covariance),
        largest_batch=found.largest_batch or math.inf,
    )


def rate_found(law: RateLaw) -> RateFound:
    """A law of the rate as a result tells it."""
    largest = law.largest_batch if math.isfinite(law.largest_batch) else None
    told = {"covariance": law.covariance.tolist(), "largest_batch": largest}
    return RateFound(**vars(law) | told)


def batch_found(fit: BatchFit[BatchLaw]) -> FittedLaw:
    """A law of the batch as a result tells it."""
    return FittedLaw(
        constants=asdict(fit.law),
        intervals={name: fit.interval(name) for name in fit.law.names()},
        covariance=tuple(map(tuple, fit.covariance.tolist())),
    )


def _transferred(lab: Path, corpus: str) -> tuple[RateRule, Settings] | None:
    """The law of the lab's transfer study, and the settings that it was measured with."""
    study = study_of(lab, TRANSFER, corpus)
    if study is None:
        return None
    # the tunnel's models have the recipe's parametrization
    law = transferred_law(study.numbers, Model.default("parametrization"))
    return law and (RateRule(law, LAB_TRANSFER), study.numbers.settings)
