"""A study on disk: the table of its measured points and its result, for the laws, the report and other programs."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.shape import count, flops_per_token
from windtunnel.train.run import Run

COLUMNS = ("run", "params", "params_total", "tokens", "flops", "loss", "bits_per_byte", "source", "seed", "kind")


def rows_of(run: Run, validation: dict[str, Any], tokens: int, kind: str) -> list[dict[str, Any]]:
    """One row a source, and one for `all`, of a validation that a run recorded at `tokens`."""
    counts = count(run.recipe.model)
    flops = flops_per_token(run.recipe.model, run.recipe.data.context) * tokens
    shared = {"run": run.id, "params": counts.params, "params_total": counts.params_total, "tokens": tokens}
    shared |= {"flops": flops, "seed": run.recipe.seed, "kind": kind}
    scores = {"all": validation} | validation["sources"]
    return [
        shared | {"source": source, "loss": score["loss"], "bits_per_byte": score["bits_per_byte"]}
        for source, score in scores.items()
    ]


def validation_at(run: Run, tokens: int) -> dict[str, Any]:
    """What the run scored on held-out text at a position. Raises InputError when it was not evaluated there."""
    for line in run.metrics():
        if line["tokens"] == tokens and "validation" in line:
            return line["validation"]
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
    """Write `studies/NAME/table.csv` and `result.json`; the same rows give the same bytes."""
    folder = lab / "studies" / name
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: row[key] for key in COLUMNS} for row in rows)
    result = {"study": name, "verdict": verdict, "summary": summary, "numbers": numbers, "runs": [r.id for r in runs]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "table.csv", table.getvalue())
        write_whole(folder / "result.json", json.dumps(result, indent=1))
    except OSError as error:
        raise InputError(f"{folder}: could not be written: {error.strerror}") from None
    return folder
