"""What a simulation takes for real: laws, and the noise of runs about them. Out of the lab's own
scaling study where it has one that was large enough, else as measured at laptop scale.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.fit import LossData, fit_loss
from windtunnel.laws.loss import Array, LossLaw
from windtunnel.laws.points import LossPoints, read_points
from windtunnel.model.shape import Counts
from windtunnel.results.dry_run import AssumedLaw, StudyNoise, Transient
from windtunnel.results.scaling import SCALING, LawConstants, ScalingNumbers
from windtunnel.results.study import StudyResult

# They disagree most, and every other form lies between.
_FORMS: tuple[str, ...] = ("additive", "coupled")
# Departures that all sizes share which a law takes up as its own: exponent and scale in tokens.
_TAKEN_UP = 2
_MEASURED = "measured in the lab's scaling study"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A law taken for true, with the count of N that it means."""

    form: str
    count: str
    law: LossLaw
    origin: str

    def loss(self, counts: Counts, tokens: float) -> float:
        """Of a model with these parameters, nats/token."""
        return float(self.law.at(getattr(counts, self.count), tokens))

    def as_record(self) -> AssumedLaw:
        """As a dry run says it."""
        law = LawConstants(**self.law.as_dict())
        return AssumedLaw(form=self.form, count=self.count, law=law, origin=self.origin)


TRANSIENT = Transient(nats=laptop.TRANSIENT, tokens=laptop.TRANSIENT_TOKENS)


@dataclass(frozen=True)
class Assumptions:
    """What the simulation takes for real."""

    truths: tuple[Truth, ...]
    noise: StudyNoise
    transient: Transient = TRANSIENT


LAPTOP_TRUTHS = tuple(
    Truth(form=form, count="params_total", law=law, origin=laptop.ORIGIN)
    for form, law in laptop.LOSS_LAWS.items()
)
LAPTOP_NOISE = StudyNoise(
    stem=laptop.STEM_NOISE,
    own=laptop.OWN_NOISE,
    length=laptop.LENGTH_NOISE,
    origin=laptop.ORIGIN,
)


def assumptions_of(lab: Path, study: StudyResult[ScalingNumbers] | None) -> Assumptions:
    """From the lab's scaling study, where it has one that passed; else as measured at laptop
    scale. Raises InputError for a damaged table.
    """
    if study is None or study.verdict != "pass":
        return Assumptions(LAPTOP_TRUTHS, LAPTOP_NOISE)
    try:
        points = read_points(SCALING.folder(lab) / "table.csv")
        truths = tuple(_fitted(form, points) for form in _FORMS)
    except ValueError as error:
        raise InputError(str(error)) from None
    # residuals of the law that lies nearest to the points
    residuals = min(
        (_residuals(truth, points) for truth in truths),
        key=lambda values: float(np.sum(values**2)),
    )
    return Assumptions(truths, measured_noise(points, residuals) or LAPTOP_NOISE)


def _fitted(form: str, points: LossPoints) -> Truth:
    """The law of this form, by the count that fits best."""
    fits = {}
    for count, values in points.params.items():
        fits[count] = fit_loss(form, LossData.of(values, points.tokens, points.loss))
    best = min(fits, key=lambda count: fits[count].objective)
    return Truth(
        form=form, count=best, law=fits[best].law, origin="fitted to the lab's scaling study"
    )


def _residuals(truth: Truth, points: LossPoints) -> Array:
    return points.loss - truth.law.at(points.params[truth.count], points.tokens)


def measured_noise(points: LossPoints, residuals: Array) -> StudyNoise | None:
    """By analysis of variance; None where no size has two seeds at three lengths.

    `residuals`: of the points' losses from a law, nats/token, one a point.
    """
    tables = _tables(points, residuals)
    repeated = [table - table.mean(0) for table in tables if len(table) > 1]
    freedom = sum(len(table) - 1 for table in repeated)
    lengths = tables[0].shape[1] if tables else 0
    if not freedom or lengths < _TAKEN_UP + 1:
        return None
    # Between the seeds of one size: what is left beside the mean of a stem is the branch's own,
    # and the means of stems vary by the stem's part and by a share of the own one.
    means = [table.mean(1) for table in repeated]
    rest = 0.0
    for table, mean in zip(repeated, means, strict=True):
        rest += float(((table - mean[:, None]) ** 2).sum())
    own = rest / (freedom * (lengths - 1))
    between = sum(float((mean**2).sum()) for mean in means) / freedom
    stem = max(0.0, between - own / lengths)
    # Means over sizes at each length vary by what all stems share there, and by what is left of
    # the two other parts.
    by_length = np.mean([table.mean(0) for table in tables], axis=0)
    left = sum((own + stem) / len(table) for table in tables) / len(tables) ** 2
    shared = max(0.0, float((by_length**2).sum()) / (lengths - _TAKEN_UP) - left)
    return StudyNoise(stem=stem**0.5, own=own**0.5, length=shared**0.5, origin=_MEASURED)


def _tables(points: LossPoints, values: Array) -> list[Array]:
    """(stems, lengths) of each size; stems that lack a length that others have are left out."""
    size = points.params["params_total"]
    lengths = len(np.unique(points.tokens))
    tables = []
    for total in np.unique(size):
        stems = [
            _along(points, values, points.stem == stem)
            for stem in np.unique(points.stem[size == total])
        ]
        whole = [row for row in stems if len(row) == lengths]
        if whole:
            tables.append(np.array(whole))
    return tables


def _along(points: LossPoints, values: Array, here: NDArray[np.bool_]) -> Array:
    """The values of one stem, from its shortest length to its longest."""
    return values[here][np.argsort(points.tokens[here])]
