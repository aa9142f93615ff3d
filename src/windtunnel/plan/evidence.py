"""What a plan rests on: a lab's studies, or anybody's table of published runs; and which runs
each of it came from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.batch import BatchLaw, Optima
from windtunnel.laws.loss import Array
from windtunnel.laws.points import COUNTS, LossPoints, measured, points_of
from windtunnel.laws.rate import RateLaw
from windtunnel.laws.table import number, read_table
from windtunnel.recipe import PAPER_DECAY, DecayShapeName, Recipe
from windtunnel.results.plan import Provenance, StudiedRate
from windtunnel.results.scaling import Copying
from windtunnel.scaling_recipe import ScalingRecipe

if TYPE_CHECKING:
    from windtunnel.results.study import Numbers, StudyResult

# Of the natural logarithm of a best batch that a table gives without its error.
_BATCH_ERROR = 0.2

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class KeptDecay:
    """How the runs of the law decayed, and so how the plan's run decays."""

    share: float  # of the tokens
    shape: DecayShapeName
    floor: float  # of the peak rate
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class StudiedBatch:
    """What a batch or a transfer study found: a law, and how surely. Its best batches come from the
    same runs, so their errors are told together.
    """

    law: BatchLaw
    covariance: Array | None  # of the law's (log c, exponents ...); None where it was not kept
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class StudiedRateLaw:
    """The law of the rate that a transfer study found."""

    law: RateLaw
    runs: tuple[str, ...]


@dataclass(frozen=True)
class CoreSpeed:
    """How fast a core of this machine trained."""

    flops_per_second: float
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class StudyVerdict:
    """What a study of the lab came to, and how the models were trained of which it says so."""

    result: "StudyResult[Numbers]"
    optimizer: str
    parametrization: str

    def bears_on(self, recipe: Recipe) -> bool:
        """Whether it says something of this recipe: one of other rules or another optimiser may
        fail where this one does not.
        """
        return (self.optimizer, self.parametrization) == (
            recipe.optimizer.kind,
            recipe.model.parametrization,
        )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a plan rests on. A table of published runs gives the first four, and batches and
    rates where it has such columns; a lab (`plan.studies`) gives all but the table's batches.
    """

    points: LossPoints
    provenance: Provenance  # of the points
    seed_sd: float | None  # of one run's loss between seeds, nats/token
    decay: KeptDecay
    sizes: tuple[tuple[int, int], ...] = ()  # (width, depth) of all models
    corpus: str | None = None  # its name
    template: Recipe | None = None  # of a run that the law was measured with
    core_speed: CoreSpeed | None = None
    verdicts: Mapping[str, StudyVerdict] = field(default_factory=dict)  # of studies, by name
    studied_batch: StudiedBatch | None = None
    recipe: ScalingRecipe | None = None  # by which the runs of the law were trained
    batches: Optima | None = None  # best ones of a table
    rates: Sequence[tuple[float, float]] = ()  # (parameters, rate) of the points in the fit
    studied_rates: tuple[StudiedRate, ...] = ()  # of other studies on the same corpus
    rate_law: StudiedRateLaw | None = None  # of the lab's transfer study, on the same corpus
    held_out_excess: float | None = None  # of held-out losses over those of training, relative
    # by source, the share of the held-out text that stands in the text to train on
    held_out_repeats: Mapping[str, float] = field(default_factory=dict)
    copying: Copying | None = None  # of the largest model in the fit
    lab: Path | None = None


def from_table(path: Path) -> Evidence:
    """From a table with params, tokens and loss, and where it has them lr and batch, by these or
    other usual names (`laws.table`): of several runs of one size and length the best one counts.
    Raises InputError naming file and line.
    """
    try:
        table = read_table(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    points, rows = points_in(path, table)
    best = _best_of_each(points)
    kept = [rows[i] for i in best]
    how = f"{path.name}: {len(best)} points"
    if len(best) < len(points):
        how += f", the best of {len(points)} runs"
    runs = tuple(dict.fromkeys(row["run"] for row in kept if row.get("run")))
    with_batch = [i for i in best if rows[i].get("batch")]
    batches = np.array([_positive(path, rows[i], "batch") for i in with_batch])
    return Evidence(
        points=points.select(best),
        provenance=Provenance(how=how, runs=runs),
        seed_sd=None,
        decay=KeptDecay(
            share=PAPER_DECAY.share,
            shape=PAPER_DECAY.shape,
            floor=PAPER_DECAY.floor,
            provenance=Provenance(how="the paper's: 10%, exponential to a tenth (section 4)"),
        ),
        batches=_optima(points, with_batch, batches),
        rates=rates_in(path, kept),
    )


def points_in(file: Path, rows: Sequence[Row]) -> tuple[LossPoints, list[Row]]:
    """The points of a table, and the row of each. Raises InputError naming file and line."""
    try:
        return points_of(rows, str(file)), [rows[i] for i in measured(rows)]
    except ValueError as error:
        raise InputError(str(error)) from None


def rates_in(path: Path, rows: Sequence[Row]) -> list[tuple[float, float]]:
    """(parameters, rate) of the rows whose rate is known. Raises InputError for a rate that is no
    positive number.
    """
    found = []
    for row in rows:
        if row.get("lr"):
            count = next(count for count in COUNTS if row.get(count))
            found.append((_positive(path, row, count), _positive(path, row, "lr")))
    return found


def _best_of_each(points: LossPoints) -> list[int]:
    """Indices: of each size and length the run with the lowest loss; but points that only repeat
    a seed all count.
    """
    # A grid of rates and batches, such as StepLaw's, has many runs of one size and length: the law
    # is that of the best ones. Repeats with other seeds measure noise, and all belong to the fit.
    cells: dict[tuple[float, float], list[int]] = {}
    for i, cell in enumerate(zip(points.size.tolist(), points.tokens.tolist(), strict=True)):
        cells.setdefault(cell, []).append(i)
    if len(np.unique(points.seed)) > 1 or len(points) < 2 * len(cells):
        return list(range(len(points)))
    return sorted(min(cell, key=lambda i: float(points.loss[i])) for cell in cells.values())


def _positive(path: Path, row: Row, name: str) -> float:
    try:
        return number(str(row[name]), name)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _optima(points: LossPoints, indices: list[int], batches: np.ndarray) -> Optima | None:
    """The best batches, tokens, of the points at these indices; None without any."""
    if not indices:
        return None
    return Optima(
        batch=batches,
        loss=points.loss[indices],
        tokens=points.tokens[indices],
        params=points.size[indices],
        error=np.full(len(indices), _BATCH_ERROR),
    )
