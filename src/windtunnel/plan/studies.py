"""What a lab's studies give a plan: the points that laws are fitted to, how their runs were
trained, and what the other studies on the same corpus found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError, did_you_mean
from windtunnel.laws.batch import BATCH_LAWS, ByTokens
from windtunnel.laws.loss import Array
from windtunnel.plan.evidence import (
    CoreSpeed,
    Evidence,
    KeptDecay,
    StudiedBatch,
    StudiedRateLaw,
    StudyVerdict,
    points_in,
)
from windtunnel.recipe import Model, Optimizer, Recipe, load
from windtunnel.results.batch import BATCH, FittedLaw
from windtunnel.results.check import CHECK, CheckNumbers
from windtunnel.results.experiments import Studied, study_of
from windtunnel.results.plan import Provenance, StudiedRate
from windtunnel.results.scaling import SCALING, ScalingNumbers
from windtunnel.results.search import SEARCH, SearchNumbers
from windtunnel.results.study import (
    Experiment,
    Numbers,
    StudyResult,
    find_study,
    read_table,
)
from windtunnel.results.transfer import TRANSFER, TransferNumbers
from windtunnel.scaling_recipe import kept_recipe, transferred_batches, transferred_law


@dataclass(frozen=True)
class _Trained:
    """How the models of a study were trained; as the tunnel's proxy, where it does not say."""

    optimizer: str = Optimizer.default("kind")
    parametrization: str = Model.default("parametrization")

    def verdict(self, result: StudyResult[Any]) -> StudyVerdict:
        """What a study of such models came to."""
        return StudyVerdict(
            result=result, optimizer=self.optimizer, parametrization=self.parametrization
        )


@dataclass(frozen=True)
class _Studies:
    """The studies of a lab beside the scaling study, of one corpus and for models that are trained
    in one way.
    """

    lab: Path
    corpus: str
    trained: _Trained

    def find(self, experiment: Experiment[Studied, Any]) -> StudyResult[Studied] | None:
        """The lab's study, if it was made on this corpus or does not say on which, and with this
        optimiser. What it found of each parametrization is for the caller to look up.
        """
        result = study_of(self.lab, experiment, self.corpus)
        if result and _trained_in(result.numbers).optimizer != self.trained.optimizer:
            return None
        return result

    def verdicts(self) -> dict[str, StudyVerdict]:
        """What each came to, by name, and of which models."""
        found = {}
        for result in (
            find_study(self.lab, CHECK),
            study_of(self.lab, SEARCH, self.corpus),
            study_of(self.lab, TRANSFER, self.corpus),
            study_of(self.lab, BATCH, self.corpus),
        ):
            if result:
                found[result.study] = _trained_in(result.numbers).verdict(result)
        return found


def _trained_in(numbers: Numbers) -> _Trained:
    """How the models were trained of which a study says something."""
    match numbers:
        case CheckNumbers():
            return _Trained(numbers.design.optimizer, numbers.design.parametrization)
        case SearchNumbers():
            return _Trained(numbers.optimizer)
        case TransferNumbers(parametrizations=found) if found:
            # the verdict is on the first one
            return _Trained(parametrization=next(iter(found)))
        case _:
            return _Trained()


def from_lab(lab: Path, study: str) -> Evidence:
    """From the lab's scaling study of this name, and what its other studies add. Raises InputError
    where the lab has no such study, saying what to do, and for a study that is damaged.
    """
    experiment = replace(SCALING, name=study)
    folder = experiment.folder(lab)
    result = find_study(lab, experiment)
    if result is None:
        there = [path.parent.name for path in (lab / "studies").glob("*/result.json")]
        raise InputError(
            f"{folder}: there is no such study{did_you_mean(study, there)}; run `windtunnel "
            "scaling` first, or give a table of runs with --from"
        )
    file, rows = folder / "table.csv", [row.model_dump() for row in read_table(lab, experiment)]
    points, taken = points_in(file, rows)
    numbers, runs = result.numbers, tuple(dict.fromkeys(row["run"] for row in taken))
    how = f"the {study} study: {len(points)} points of {len(runs)} runs"
    source = Provenance(study=study, how=how, runs=runs)
    template = _template(lab, result.runs)
    trained = _trained_as(template)
    of_corpus = _Studies(lab, numbers.corpus, trained)
    found_law = _rate_law(of_corpus)
    # a law says more than the rate of one size and length
    transferred = None if found_law else _transferred(of_corpus)
    beside = (transferred, _searched(of_corpus))
    return Evidence(
        points=points,
        provenance=source,
        seed_sd=numbers.seed_sd,
        decay=KeptDecay(
            share=numbers.decay,
            shape=numbers.shape,
            floor=numbers.floor,
            provenance=source.but(f"as the branches of the {study} study decayed"),
        ),
        sizes=tuple(sorted({(row["width"], row["depth"]) for row in taken})),
        corpus=numbers.corpus,
        template=template,
        core_speed=_core_speed(numbers, source),
        verdicts=of_corpus.verdicts() | {SCALING.name: trained.verdict(result)},
        studied_batch=_best_batches(of_corpus),
        recipe=kept_recipe(numbers, [row["lr"] for row in taken]),
        studied_rates=tuple(found for found in beside if found is not None),
        rate_law=found_law,
        held_out_excess=numbers.held_out_excess,
        held_out_repeats=numbers.held_out_repeats,
        copying=numbers.copying,
        lab=lab,
    )


def _template(lab: Path, runs: Sequence[str]) -> Recipe | None:
    """The recipe of the study's last run that is still there: the audit run, or the largest
    size's.
    """
    for run in reversed(runs):
        file = lab / "runs" / run / "recipe.toml"
        if file.exists():
            return load(file)
    return None


def _trained_as(template: Recipe | None) -> _Trained:
    """As the runs in the fit."""
    if template is None:
        return _Trained()
    return _Trained(template.optimizer.kind, template.model.parametrization)


def _core_speed(numbers: ScalingNumbers, source: Provenance) -> CoreSpeed | None:
    """Of the study's audit run, or of all that was trained for it."""
    audit = numbers.audit
    audited = source.model_copy(update={"runs": (audit.run if audit else "",)})
    for part, which, by in ((audit, "audit run", audited), (numbers.cost, "runs", source)):
        if part and part.core_minutes and part.flops:
            reached = part.flops / (60 * part.core_minutes)
            how = f"FLOP/s that the {source.study} study's {which} reached on one core"
            return CoreSpeed(reached, by.but(how))
    return None


def _best_batches(studies: _Studies) -> StudiedBatch | None:
    """The chosen law of the lab's batch study with its uncertainty, or else that of its transfer
    study.
    """
    return _studied_batches(studies) or _transferred_batches(studies)


def _studied_batches(studies: _Studies) -> StudiedBatch | None:
    result = studies.find(BATCH)
    chosen = result.numbers.chosen if result else None
    if result is None or chosen is None or chosen not in BATCH_LAWS or not result.numbers.arms:
        return None
    # `chosen` is the law of the first arm
    first_arm = next(iter(result.numbers.arms.values()))
    found = first_arm.laws.get(chosen)
    if found is None:
        return None
    how = f"the batch study's {chosen} law"
    return StudiedBatch(
        law=BATCH_LAWS[chosen](**found.constants),
        covariance=_covariance(found),
        provenance=Provenance(study=BATCH.name, how=how, runs=result.runs),
    )


def _transferred_batches(studies: _Studies) -> StudiedBatch | None:
    result = studies.find(TRANSFER)
    if result is None:
        return None
    found = transferred_batches(result.numbers, studies.trained.parametrization)
    if found is None:
        return None
    return StudiedBatch(
        law=ByTokens(**found.constants),
        covariance=_covariance(found),
        provenance=Provenance(
            study=TRANSFER.name,
            how="c D^p through the transfer study's best batches",
            runs=result.runs,
        ),
    )


def _covariance(found: FittedLaw) -> Array | None:
    return None if found.covariance is None else np.array(found.covariance)


def _rate_law(studies: _Studies) -> StudiedRateLaw | None:
    """The law of the rate of the transfer study, of this parametrization."""
    result = studies.find(TRANSFER)
    if result is None:
        return None
    law = transferred_law(result.numbers, studies.trained.parametrization)
    return law and StudiedRateLaw(law=law, runs=result.runs)


def _transferred(studies: _Studies) -> StudiedRate | None:
    """The best rate of the widest model of a transfer study that told no law, of this
    parametrization.
    """
    result = studies.find(TRANSFER)
    if result is None:
        return None
    rates = result.numbers.parametrizations.get(studies.trained.parametrization)
    known = [size for size in rates.sizes if size.lr] if rates else []
    if not known:
        return None
    widest = max(known, key=lambda size: size.width)
    return StudiedRate(
        study=TRANSFER.name,
        lr=widest.lr or 0.0,
        interval=widest.interval,
        at=f"{widest.width}x{widest.depth}, {result.numbers.tokens} tokens",
        runs=result.runs,
    )


def _searched(studies: _Studies) -> StudiedRate | None:
    """The search's chosen rate, where its runs were long enough to tell and it did not lose to the
    paper's defaults.
    """
    result = studies.find(SEARCH)
    if result is None:
        return None
    numbers = result.numbers
    lr, outcome = numbers.chosen.point.get("lr"), numbers.outcome
    if lr is None or outcome in (None, "loses"):
        return None
    where = f"{numbers.width}x{numbers.depth}, {numbers.tokens} tokens"
    return StudiedRate(
        study=SEARCH.name,
        lr=lr,
        interval=None,
        at=f"{where}; {outcome} the paper's",
        outcome=outcome,
        runs=result.runs,
    )
