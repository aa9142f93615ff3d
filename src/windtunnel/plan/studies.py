"""What a lab's studies give a plan: the points that laws are fitted to, how their runs were
trained, and what the other studies on the same corpus found.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError, did_you_mean
from windtunnel.laws.batch import BATCH_LAWS, ByTokens
from windtunnel.plan.evidence import (
    CoreSpeed,
    Evidence,
    KeptBatch,
    KeptDecay,
    StudiedBatch,
    StudyVerdict,
    points_in,
    rates_in,
)
from windtunnel.recipe import Recipe, load
from windtunnel.results.batch import BATCH
from windtunnel.results.check import CHECK
from windtunnel.results.experiments import study_of
from windtunnel.results.plan import Provenance
from windtunnel.results.scaling import SCALING, ScalingNumbers
from windtunnel.results.search import SEARCH
from windtunnel.results.studied import Studies, TrainedAs, trained_in
from windtunnel.results.study import StudyResult, find_study, read_table
from windtunnel.results.transfer import TRANSFER


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
    of_corpus = Studies(lab, numbers.corpus, trained)
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
        verdicts=_verdicts(lab, numbers.corpus) | {SCALING.name: _verdict(trained, result)},
        studied_batch=_best_batches(of_corpus),
        batch_law=KeptBatch(
            law=ByTokens(numbers.batch.c, numbers.batch.p),
            origin=numbers.batch.origin,
            longest=max(numbers.lengths),
        ),
        rates=rates_in(file, taken),
        studied_rates=of_corpus.rates(),
        lab=lab,
    )


def _verdict(trained: TrainedAs, result: StudyResult[Any]) -> StudyVerdict:
    """What a study of models that were trained so came to."""
    return StudyVerdict(
        result=result, optimizer=trained.optimizer, parametrization=trained.parametrization
    )


def _verdicts(lab: Path, corpus: str) -> dict[str, StudyVerdict]:
    """What each study beside the scaling study came to, by name, and of which models."""
    found = {}
    for result in (
        find_study(lab, CHECK),
        study_of(lab, SEARCH, corpus),
        study_of(lab, TRANSFER, corpus),
        study_of(lab, BATCH, corpus),
    ):
        if result:
            found[result.study] = _verdict(trained_in(result.numbers), result)
    return found


def _template(lab: Path, runs: Sequence[str]) -> Recipe | None:
    """The recipe of the study's last run that is still there: the audit run, or the largest
    size's.
    """
    for run in reversed(runs):
        file = lab / "runs" / run / "recipe.toml"
        if file.exists():
            return load(file)
    return None


def _trained_as(template: Recipe | None) -> TrainedAs:
    """As the runs in the fit."""
    if template is None:
        return TrainedAs()
    return TrainedAs(template.optimizer.kind, template.model.parametrization)


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


def _best_batches(studies: Studies) -> StudiedBatch | None:
    """The chosen law of the lab's batch study, with its uncertainty."""
    result = studies.find(BATCH)
    chosen = result.numbers.chosen if result else None
    if result is None or chosen is None or chosen not in BATCH_LAWS or not result.numbers.arms:
        return None
    # `chosen` is the law of the first arm
    first_arm = next(iter(result.numbers.arms.values()))
    found = first_arm.laws.get(chosen)
    lengths = []
    for size in first_arm.sizes:
        lengths += [level.tokens for level in size.levels if level.batch]
    if found is None or not lengths:
        return None
    how = f"the batch study's {chosen} law"
    return StudiedBatch(
        law=BATCH_LAWS[chosen](**found.constants),
        covariance=None if found.covariance is None else np.array(found.covariance),
        tokens=(min(lengths), max(lengths)),
        provenance=Provenance(study=BATCH.name, how=how, runs=result.runs),
    )
