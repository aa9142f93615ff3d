"""A study on disk: `studies/NAME/table.csv`, a row a measured point, and `result.json`, the numbers
made of them; while it is carried out, `runs.json`, the runs that it wants. Written here, and read
here by everyone who needs what an experiment found.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.results.record import Record, first_fault

Verdict = Literal["pass", "fail"] | None


class Row(Record):
    """One measured point of a table. An experiment's own rows add their columns to these."""

    run: str = ""
    """The id of the run; empty where the point is of no run in the lab."""
    params: int
    """Parameters without embeddings."""
    params_total: int
    """All parameters."""
    tokens: int
    """Tokens trained when the loss was measured."""
    flops: int | None = None
    """FLOPs of training on those tokens; None where the study does not count them."""
    loss: float | None = None
    """Held-out loss, nats/token; None where the run diverged."""
    bits_per_byte: float | None = None
    """The same in bits a byte of text; None also where the loss is not of held-out text."""
    source: str | None = None
    """The source of the held-out text, `all`, or `train` for a training batch; None where the point
    is of no loss.
    """
    seed: int
    """The run's seed."""
    kind: str
    """What the point is of, such as `run` or `branch`."""


class Numbers(Record):
    """The base of what an experiment found, as its `result.json` has it under `numbers`."""


N = TypeVar("N", bound=Numbers)
R = TypeVar("R", bound=Row)

# the first columns of every table
COLUMNS = tuple(Row.model_fields)
_WANTED = "runs.json"


class StudyResult(Record, Generic[N]):
    """A `result.json`."""

    study: str
    """The experiment's name."""
    verdict: Verdict = None
    """None where the experiment passes no verdict, or measured too little for one."""
    summary: str = ""
    """The answer in one sentence."""
    numbers: N
    """What was found, with intervals."""
    runs: tuple[str, ...] = ()
    """Ids of the runs that it rests on."""


class WantedRuns(Record):
    """A `runs.json`: there while a study is carried out or interrupted, and gone once its
    `result.json` names its runs. What it names is not unused.
    """

    runs: tuple[str, ...]
    """Ids of the runs that the study has asked for so far."""


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[N, R]):
    """How the studies of one experiment are kept: its name, what it asks, and the types of its
    numbers and of its rows.
    """

    name: str
    help: str
    numbers: type[N]
    row: type[R]
    command: str = ""
    """What makes it, where that is not its name."""

    def folder(self, lab: Path) -> Path:
        """Where a lab keeps the study."""
        return lab / "studies" / self.name


def want_runs(lab: Path, experiment: Experiment[Any, Any], runs: Iterable[str]) -> None:
    """Add the ids of runs to those that a study wants, until its result names them. Raises
    InputError.
    """
    file = experiment.folder(lab) / _WANTED
    before = _wanted(file)
    every = tuple(dict.fromkeys((*before, *runs)))
    if every != before:
        WantedRuns(runs=every).write(file, make_folder=True)


def _wanted(file: Path) -> tuple[str, ...]:
    try:
        return WantedRuns.read(file).runs
    except InputError:
        if file.exists():  # another process, whose study has ended, may have removed it
            raise
        return ()


def write_study(
    lab: Path,
    experiment: Experiment[N, R],
    *,
    rows: Iterable[R],
    verdict: Verdict,
    summary: str,
    numbers: N,
    runs: Iterable[str],
) -> Path:
    """Write a study's table and result, and return its folder; the same rows give the same bytes.

    The table has COLUMNS and then the experiment's own; what is None stays empty. `runs` are ids.
    """
    folder = experiment.folder(lab)
    result = StudyResult[experiment.numbers](
        study=experiment.name,
        verdict=verdict,
        summary=summary,
        numbers=numbers,
        runs=tuple(runs),
    )
    write_whole(folder / "table.csv", _as_csv(rows), make_folder=True)
    result.write(folder / "result.json")
    (folder / _WANTED).unlink(missing_ok=True)
    return folder


def find_study(lab: Path, experiment: Experiment[N, Any]) -> StudyResult[N] | None:
    """The lab's study; None where it has none. Raises InputError for a file that is damaged, or of
    a version that is too old to be read, and names the field.
    """
    file = experiment.folder(lab) / "result.json"
    return StudyResult[experiment.numbers].read(file) if file.exists() else None


def read_study(lab: Path, experiment: Experiment[N, Any]) -> StudyResult[N]:
    """The lab's study. Raises InputError as `find_study` does, and where there is none."""
    found = find_study(lab, experiment)
    if found is None:
        folder, command = experiment.folder(lab), experiment.command or experiment.name
        raise InputError(f"{folder}: there is no such study; `windtunnel {command}` makes it")
    return found


def read_table(lab: Path, experiment: Experiment[Any, R]) -> list[R]:
    """The rows of the lab's study. Raises InputError that names the line and the column."""
    file = experiment.folder(lab) / "table.csv"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: missing or damaged: {error}") from None
    return list(_rows_in(file, text, experiment.row))


def _as_csv(rows: Iterable[Row]) -> str:
    values = [row.model_dump() for row in rows]
    columns = dict.fromkeys(COLUMNS)
    for row in values:
        columns |= dict.fromkeys(row)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    return table.getvalue()


def _rows_in(file: Path, text: str, kind: type[R]) -> Iterator[R]:
    lines = csv.DictReader(io.StringIO(text, newline=""))
    for line in lines:
        given = {column: value for column, value in line.items() if value}
        try:
            yield kind.model_validate(given)
        except ValidationError as error:
            raise InputError(f"{file}: line {lines.line_num}: {first_fault(error)}") from None
