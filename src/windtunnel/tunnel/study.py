"""A study on disk: the table of its measured points and its result, for the laws, the report and
other programs.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.shape import count, flops_per_token
from windtunnel.results.run import Score, Validation
from windtunnel.train.run import Run

COLUMNS = (
    "run",
    "params",
    "params_total",
    "tokens",
    "flops",
    "loss",
    "bits_per_byte",
    "source",
    "seed",
    "kind",
)


def rows_of(
    run: Run, validation: Validation, tokens: int, kind: str, **more: Any
) -> list[dict[str, Any]]:
    """One row a source, and one for `all`, of a validation that a run recorded at `tokens`;
    `more`: further columns.
    """
    shared = _shared(run, tokens, kind)
    scores: dict[str, Score] = {"all": validation, **validation.sources}
    return [
        shared | {"source": source, "loss": score.loss, "bits_per_byte": score.bits_per_byte} | more
        for source, score in scores.items()
    ]


def failed_row(run: Run, kind: str, **more: Any) -> dict[str, Any]:
    """The row of a run that diverged: where it stopped, without a loss."""
    return (
        _shared(run, run.status().tokens, kind)
        | {"source": "all", "loss": None, "bits_per_byte": None}
        | more
    )


def rows_at_end(run: Run, kind: str, **more: Any) -> list[dict[str, Any]]:
    """The rows of a run's last validation, or the one row of a run that failed."""
    validation = final(run)
    if validation is None:
        return [failed_row(run, kind, **more)]
    return rows_of(run, validation, run.recipe.total_tokens, kind, **more)


def final(run: Run) -> Validation | None:
    """The validation at a run's last token; None for one that failed."""
    failed = run.status().status == "failed"
    return None if failed else validation_at(run, run.recipe.total_tokens)


def training_seconds(run: Run) -> float:
    """Seconds of training steps, as the run's own metrics say; evaluations and compiling are not
    in it.
    """
    return sum(run.recipe.train.batch / step.tokens_per_s for step in run.steps())


def _shared(run: Run, tokens: int, kind: str) -> dict[str, Any]:
    counts = count(run.recipe.model)
    flops = flops_per_token(run.recipe.model, run.recipe.data.context) * tokens
    shared = {
        "run": run.id,
        "params": counts.params,
        "params_total": counts.params_total,
        "tokens": tokens,
    }
    return shared | {"flops": flops, "seed": run.recipe.seed, "kind": kind}


def validation_at(run: Run, tokens: int) -> Validation:
    """What the run scored on held-out text at a position. Raises InputError when it was not
    evaluated there.
    """
    for line in run.validations():
        if line.tokens == tokens:
            return line.validation
    raise InputError(f"{run.path}: was not evaluated at {tokens} tokens")


def write_study(
    lab: Path,
    name: str,
    rows: Iterable[dict[str, Any]],
    verdict: Literal["pass", "fail"] | None,
    summary: str,
    numbers: dict[str, Any],
    runs: Iterable[Run],
) -> Path:
    """Write `studies/NAME/table.csv` and `result.json`; the same rows give the same bytes. The
    table has COLUMNS and then whatever else the rows hold; what is None or missing stays
    empty.
    """
    folder = lab / "studies" / name
    table, rows = io.StringIO(), list(rows)
    columns = dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)])
    writer = csv.DictWriter(table, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    result = {
        "study": name,
        "verdict": verdict,
        "summary": summary,
        "numbers": numbers,
        "runs": [r.id for r in runs],
    }
    write_whole(folder / "table.csv", table.getvalue(), make_folder=True)
    write_whole(folder / "result.json", json.dumps(result, indent=1, allow_nan=False))
    return folder


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of a study's table, as text."""
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))
