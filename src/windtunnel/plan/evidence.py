"""What a plan rests on: a lab's studies, or anybody's table of published runs; and which runs
each of it came from.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError, did_you_mean
from windtunnel.laws import laptop
from windtunnel.laws.batch import BATCH_LAWS, ByTokens, Optima, best_available, fit_batch
from windtunnel.laws.points import LossPoints, measured, points_of, read_rows
from windtunnel.recipe import DecayShapeName, Recipe, load

PAPER_RATE = 0.01  # the base rate that the paper found best from 0.009B to 2.1B (section 3.3)
_ERROR = 0.2  # of the logarithm of a best batch that is known without its error
_DRAWS = 400
# Of published runs of 2e9 to 1e11 tokens: Step Law (arXiv 2503.04715), 0.58 D^0.571 tokens.
_STEP_LAW = {"c": 0.58, "p": 0.571, "from": 1e9}


@dataclass(frozen=True)
class Source:
    """Where a number came from, in words, and the runs behind it."""

    how: str
    study: str | None = None
    runs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"study": self.study, "how": self.how, "runs": list(self.runs)}


@dataclass(frozen=True)
class BatchChoice:
    """The best batch by a law: tokens, with a 90% interval where the law has one, and whether
    what it was asked for lies within what it was fitted to.
    """

    batch: float
    interval: tuple[float, float] | None
    inside: bool
    source: Source


@dataclass(frozen=True)
class KeptBatch:
    """The law of the batch that the runs of a scaling study kept to."""

    law: ByTokens
    origin: str
    longest: int  # tokens


@dataclass(frozen=True)
class Rate:
    """The base rate, and what else the lab knows about it."""

    lr: float
    source: Source
    beside: tuple[
        dict[str, Any], ...
    ] = ()  # other studies' best rates: {study, lr, interval, at, regret, runs}


@dataclass(frozen=True)
class Decay:
    share: float
    shape: DecayShapeName
    floor: float
    source: Source


@dataclass(frozen=True)
class Evidence:
    """All of it. `template`: the recipe of a run that the law was measured with; `sizes`: (width,
    depth) of all.
    """

    points: LossPoints
    source: Source
    seed_sd: float | None
    decay: Decay
    sizes: tuple[tuple[int, int], ...] = ()
    corpus: str | None = None
    template: Recipe | None = None
    speed: tuple[float, Source] | None = None  # FLOP/s that a core of this machine reached
    verdicts: Mapping[str, tuple[str | None, str]] = field(
        default_factory=dict
    )  # of the lab's studies, with summaries
    batch_law: KeptBatch | None = None
    batches: Optima | None = None  # best ones of a table
    rates: Sequence[tuple[float, float]] = ()  # (parameters, rate) of the points in the fit
    lab: Path | None = None


def from_lab(lab: Path, study: str) -> Evidence:
    """Raises InputError where the lab has no such study, saying what to do."""
    result = read_result(lab, study)
    folder = lab / "studies" / study
    if result is None:
        there = [path.parent.name for path in (lab / "studies").glob("*/result.json")]
        raise InputError(
            f"{folder}: there is no such study{did_you_mean(study, there)}; run `windtunnel scaling` first, "
            "or give a table of runs with --from"
        )
    points, rows = _measured(folder / "table.csv")
    numbers = result["numbers"]
    try:
        runs = tuple(dict.fromkeys(row["run"] for row in rows))
        decay = Decay(
            float(numbers["decay"]),
            numbers["shape"],
            float(numbers["floor"]),
            Source(f"as the branches of the {study} study decayed", study, runs),
        )
        corpus, law = numbers["corpus"], numbers["batch"]
        widths = {(int(row["width"]), int(row["depth"])) for row in rows}
        batch = KeptBatch(
            ByTokens(float(law["c"]), float(law["p"])), law["origin"], max(numbers["lengths"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: not a scaling study that a plan can use: {error!r}") from None
    rates = _rates(folder / "table.csv", rows)
    return Evidence(
        points,
        Source(f"the {study} study: {len(points)} points of {len(runs)} runs", study, runs),
        numbers.get("seed_sd"),
        decay,
        tuple(sorted(widths)),
        corpus,
        _template(lab, result["runs"]),
        _speed(numbers, study, runs),
        _verdicts(lab),
        batch,
        None,
        rates,
        lab,
    )


def from_table(path: Path) -> Evidence:
    """From a CSV with params, tokens and loss, and where it has them lr and batch: of several
    runs of one size and length the best one counts.
    """
    points, rows = _measured(path)
    best = _best_of_each(points)
    rows = [rows[i] for i in best]
    with_batch = [
        (i, _positive(path, row, "batch"))
        for i, row in zip(best, rows, strict=True)
        if row.get("batch")
    ]
    how = f"{path.name}: {len(best)} points" + (
        f", the best of {len(points)} runs" if len(best) < len(points) else ""
    )
    decay = Decay(
        0.1, "exponential", 0.1, Source("the paper's: 10%, exponential to a tenth (section 4)")
    )
    runs = tuple(dict.fromkeys(row["run"] for row in rows if row.get("run")))
    return Evidence(
        points.select(best),
        Source(how, None, runs),
        None,
        decay,
        batches=_optima(points, with_batch),
        rates=_rates(path, rows),
    )


def batch_at(evidence: Evidence, loss: float, tokens: float, params: float) -> BatchChoice:
    """By the lab's batch study where it has one on this corpus, else by the law that the scaling
    study's runs kept to, or by the table's best batches; without any of them by published
    ones.
    """
    studied = _studied_batch(evidence)
    if studied is not None:
        kind, optima, source = studied
        return _fitted(kind, optima, source, loss, tokens, params)
    if evidence.batch_law is not None:
        kept = evidence.batch_law
        source = Source(
            f"c D^p that the runs in the fit kept to ({kept.origin})",
            evidence.source.study,
            evidence.source.runs,
        )
        of_laptop = (
            _fitted("tokens", laptop.BATCH_OPTIMA, source, loss, tokens, params)
            if kept.origin == laptop.ORIGIN
            else None
        )
        return BatchChoice(
            kept.law.predict(tokens),
            of_laptop and of_laptop.interval,
            tokens <= 4 * kept.longest,
            source,
        )
    if evidence.batches is not None:
        return _table_batch(evidence, evidence.batches, loss, tokens, params)
    if tokens >= _STEP_LAW["from"]:
        law = ByTokens(_STEP_LAW["c"], _STEP_LAW["p"])
        how = f"{law.c} D^{law.p}, of published runs (Step Law, arXiv 2503.04715); the table has no column batch"
        return BatchChoice(law.predict(tokens), None, tokens < 4e11, Source(how))
    how = "c D^p, measured at laptop scale; the table has no column batch"
    return _fitted("tokens", laptop.BATCH_OPTIMA, Source(how), loss, tokens, params)


def rate(evidence: Evidence, params: float) -> Rate:
    """The rate that the law was measured with: the expected loss holds for no other. Without one
    that of the transfer or search study, else the paper's.
    """
    beside = tuple(found for found in (_transferred(evidence), _searched(evidence)) if found)
    if evidence.rates:
        values, counts = np.unique([round(lr, 12) for _, lr in evidence.rates], return_counts=True)
        lr = float(values[np.argmax(counts)])
        how = "the rate of the runs in the fit: the expected loss holds for it"
        if len(values) > 1:
            lr, how = _rate_at(evidence, params)
        return Rate(lr, Source(how, evidence.source.study, evidence.source.runs), beside)
    if beside:
        first = beside[0]
        return Rate(
            first["lr"],
            Source(
                f"the best rate of the {first['study']} study", first["study"], tuple(first["runs"])
            ),
            beside,
        )
    return Rate(PAPER_RATE, Source("the paper's (section 3.3); no run here says another"), beside)


def read_result(lab: Path, study: str) -> dict[str, Any] | None:
    """A study's result.json; None where there is none. Raises InputError for a damaged one."""
    file = lab / "studies" / study / "result.json"
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text())
        return (
            {"study": study, "verdict": None, "summary": "", "runs": []}
            | result
            | {"numbers": result["numbers"]}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the result of a study: {error!r}") from None


def _measured(path: Path) -> tuple[LossPoints, list[dict[str, str]]]:
    """A table's points, and the row of each."""
    try:
        rows = read_rows(path)
        return points_of(rows, str(path)), [rows[i] for i in measured(rows)]
    except ValueError as error:
        raise InputError(str(error)) from None


def _rates(path: Path, rows: Sequence[dict[str, str]]) -> list[tuple[float, float]]:
    """(parameters, rate) of the rows whose rate is known."""
    return [(float(row["params"]), _positive(path, row, "lr")) for row in rows if row.get("lr")]


def _best_of_each(points: LossPoints) -> list[int]:
    """Indices: of each size and length the run with the lowest loss; but points that only repeat
    a seed all count.
    """
    cells: dict[tuple[float, float], list[int]] = {}
    for i, cell in enumerate(zip(points.size.tolist(), points.tokens.tolist(), strict=True)):
        cells.setdefault(cell, []).append(i)
    if len(np.unique(points.seed)) > 1 or len(points) < 2 * len(cells):
        return list(range(len(points)))
    return sorted(min(cell, key=lambda i: float(points.loss[i])) for cell in cells.values())


def _positive(path: Path, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{path}: {name} is {row[name]!r}; expected a positive number")
    return value


def _template(lab: Path, runs: Sequence[str]) -> Recipe | None:
    """The recipe of the study's last run that is still there: the audit run, or the largest
    size's.
    """
    for run in reversed(runs):
        file = lab / "runs" / run / "recipe.toml"
        if file.exists():
            return load(file)
    return None


def _speed(
    numbers: dict[str, Any], study: str, runs: tuple[str, ...]
) -> tuple[float, Source] | None:
    """Of the study's audit run, or of all that was trained for it."""
    audit, cost = numbers.get("audit") or {}, numbers.get("cost") or {}
    for part, which, by in ((audit, "audit run", (audit.get("run", ""),)), (cost, "runs", runs)):
        if part.get("core_minutes") and part.get("flops"):
            reached = float(part["flops"]) / (60 * float(part["core_minutes"]))
            return reached, Source(
                f"FLOP/s that the {study} study's {which} reached on one core", study, by
            )
    return None


def _verdicts(lab: Path) -> dict[str, tuple[str | None, str]]:
    names = sorted(path.parent.name for path in (lab / "studies").glob("*/result.json"))
    found = {name: read_result(lab, name) for name in names}
    return {
        name: (result["verdict"], result["summary"]) for name, result in found.items() if result
    }


def _studied_batch(evidence: Evidence) -> tuple[str, Optima, Source] | None:
    """The lab's batch study on this corpus: its chosen law and the best batches that it was
    fitted to.
    """
    result = read_result(evidence.lab, "batch") if evidence.lab else None
    if result is None or result["numbers"].get("corpus", evidence.corpus) != evidence.corpus:
        return None
    numbers = result["numbers"]
    chosen, arms = numbers.get("chosen"), numbers.get("arms") or {}
    if chosen not in BATCH_LAWS or not arms:
        return None
    found = [
        (
            level["batch"],
            level["loss"],
            level["tokens"],
            size["params"],
            math.log(level["interval"][1] / level["interval"][0]),
        )
        for size in next(iter(arms.values()))["sizes"]
        for level in size["levels"]
        if level["batch"]
    ]
    batch, loss, tokens, params, width = np.array(found, float).T
    optima = Optima(
        batch=batch, loss=loss, tokens=tokens, params=params, error=np.maximum(width / 3.3, 1e-3)
    )  # 90% is 3.3 standard errors wide
    return chosen, optima, Source(f"the batch study's {chosen} law", "batch", tuple(result["runs"]))


def _optima(points: LossPoints, batches: Sequence[tuple[int, float]]) -> Optima | None:
    """Of the points (by index) whose batch is known; None without any."""
    if not batches:
        return None
    at = np.array([i for i, _ in batches])
    batch = np.array([value for _, value in batches])
    return Optima(
        batch=batch,
        loss=points.loss[at],
        tokens=points.tokens[at],
        params=points.size[at],
        error=np.full(len(at), _ERROR),
    )


def _table_batch(
    evidence: Evidence, optima: Optima, loss: float, tokens: float, params: float
) -> BatchChoice:
    lengths = np.unique(optima.tokens)
    if len(np.unique(optima.batch)) < 3 or len(lengths) < 3:
        middle = float(np.exp(np.log(optima.batch).mean()))
        return BatchChoice(
            middle,
            None,
            bool(lengths[0] / 4 <= tokens <= 4 * lengths[-1]),
            Source("the mean batch of the table", None, evidence.source.runs),
        )
    try:
        kind, _ = best_available(optima)
    except ValueError as error:
        raise InputError(f"{evidence.source.how}: {error}") from None
    source = Source(f"the {kind} law through the batches of the table", None, evidence.source.runs)
    return _fitted(kind, optima, source, loss, tokens, params)


def _fitted(
    kind: str, optima: Optima, source: Source, loss: float, tokens: float, params: float
) -> BatchChoice:
    rng = np.random.default_rng(0)
    redrawn = [
        replace(
            optima, batch=optima.batch * np.exp(optima.error * rng.standard_normal(len(optima)))
        )
        for _ in range(_DRAWS)
    ]
    batch, low, high = fit_batch(kind, optima, redrawn).predicted(loss, tokens, params)
    inside = optima.tokens.min() / 4 <= tokens <= optima.tokens.max() * 4
    return BatchChoice(batch, (low, high), bool(inside), source)


def _rate_at(evidence: Evidence, params: float) -> tuple[float, str]:
    """Straight in logarithms through the rates of the best runs, by size."""
    sizes, rates = np.log(np.array(evidence.rates)).T
    if len(np.unique(sizes)) < 3:
        return float(f"{math.exp(rates.mean()):.3g}"), "the mean rate of the best runs"
    slope, base = np.polyfit(sizes, rates, 1)
    return float(
        f"{math.exp(base + slope * math.log(params)):.3g}"
    ), "c N^q through the rates of the best runs"


def _transferred(evidence: Evidence) -> dict[str, Any] | None:
    """The best rate of the widest model of the transfer study, of the template's parametrization,
    and what the law's own rate cost there.
    """
    result = read_result(evidence.lab, "transfer") if evidence.lab else None
    table = evidence.template.model.parametrization if evidence.template else "minicpm"
    if result is None or result["numbers"].get("corpus", evidence.corpus) != evidence.corpus:
        return None
    sizes = result["numbers"].get("parametrizations", {}).get(table, {}).get("sizes", [])
    widest = max(
        (size for size in sizes if size.get("lr")), key=lambda size: size["width"], default=None
    )
    if widest is None:
        return None
    at = f"{widest['width']}x{widest['depth']}, {result['numbers']['tokens']} tokens"
    return {
        "study": "transfer",
        "lr": widest["lr"],
        "interval": widest["interval"],
        "at": at,
        "runs": result["runs"],
    }


def _searched(evidence: Evidence) -> dict[str, Any] | None:
    """The search's chosen rate, where it did not lose to the paper's defaults."""
    result = read_result(evidence.lab, "search") if evidence.lab else None
    if result is None or result["numbers"].get("corpus", evidence.corpus) != evidence.corpus:
        return None
    numbers = result["numbers"]
    if numbers.get("outcome") not in ("beats", "ties") or "lr" not in numbers.get("chosen", {}):
        return None
    at = f"{numbers['width']}x{numbers['depth']}, {numbers['tokens']} tokens; {numbers['outcome']} the paper's"
    return {
        "study": "search",
        "lr": numbers["chosen"]["lr"],
        "interval": None,
        "at": at,
        "outcome": numbers["outcome"],
        "runs": result["runs"],
    }
