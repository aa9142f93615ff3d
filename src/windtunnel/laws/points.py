"""Measured losses: the table that laws are fitted to, ours or anybody's, and what makes one
unfit.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.loss import Array

# Without embeddings (the paper's N), with the head, all.
COUNTS = ("params", "params_with_head", "params_total")
# Two points of an axis are fitted by any exponent; a law has five or six parameters.
FEWEST_SIZES, FEWEST_LENGTHS, FEWEST_POINTS = 3, 3, 8
_SPREAD = 1.5  # of tokens per parameter, largest over smallest: less is one ray D = kN
_OFF_CURVE = 1.2  # the same of the distance from a curve D ~ N^p
_CEILING = 20.0  # nats/token: ten times what text can cost
# Of the rows of a study's table those that a law is fitted to; where a table has no such column,
# or says nothing: all.
_TAKEN = {"source": ("all", ""), "kind": ("branch", "run", "final", "")}


@dataclass(frozen=True, kw_only=True)
class LossPoints:
    """Measurements: arrays of one length. Points of one stem share data order and noise."""

    params: dict[str, Array]  # N by each count that is known
    tokens: Array  # D
    loss: Array  # nats/token
    stem: NDArray[np.int64]
    seed: NDArray[np.int64]
    flops: Array

    @classmethod
    def of(
        cls,
        params: ArrayLike | Mapping[str, ArrayLike],
        tokens: ArrayLike,
        loss: ArrayLike,
        *,
        stem: Sequence[Any] | None = None,
        seed: ArrayLike | None = None,
        flops: ArrayLike | None = None,
    ) -> Self:
        """From columns. Without `stem` each point is its own; without `flops` they are 6ND."""
        given = params if isinstance(params, Mapping) else {"params": params}
        counts = {key: np.asarray(values, float) for key, values in given.items()}
        first = next(iter(counts.values()))
        d = np.asarray(tokens, float)
        stems = _numbered(range(len(d)) if stem is None else stem)
        return cls(
            params=counts,
            tokens=d,
            loss=np.asarray(loss, float),
            stem=np.array(stems, np.int64),
            seed=np.zeros(len(d), np.int64) if seed is None else np.asarray(seed, np.int64),
            flops=6 * first * d if flops is None else np.asarray(flops, float),
        )

    def __len__(self) -> int:
        return len(self.loss)

    def select(self, kept: ArrayLike) -> Self:
        """The points of a mask or of indices."""
        at = np.asarray(kept)
        rest = {
            field.name: getattr(self, field.name)[at]
            for field in fields(self)
            if field.name != "params"
        }
        return type(self)(params={key: values[at] for key, values in self.params.items()}, **rest)

    @property
    def counts(self) -> tuple[str, ...]:
        """The counts of parameters that are known."""
        return tuple(self.params)

    @property
    def size(self) -> Array:
        """By the first count: what orders the points by size."""
        return self.params[self.counts[0]]


def read_points(path: Path) -> LossPoints:
    """The points of a CSV file with columns params, tokens and loss, and where it has them
    params_with_head, params_total, flops, stem and seed: of the rows that `measured` takes.
    Raises ValueError, naming file and line.
    """
    return points_of(read_rows(path), str(path))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises ValueError where it is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such table") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable CSV table: {error}") from None


def measured(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the rows that are points. Of a study's table those of source `all`, of finished
    branches and runs (its audit run is none); a run of it without a loss diverged, and is left
    out.
    """
    found = []
    for i, row in enumerate(rows):
        taken = all((row.get(name) or "") in words for name, words in _TAKEN.items())
        # A table of anybody's has no kind, and a loss that is missing there is an error.
        diverged = row.get("kind") and not row.get("loss")
        if taken and not diverged:
            found.append(i)
    return found


def points_of(rows: Sequence[Mapping[str, Any]], where: str = "the table") -> LossPoints:
    """The points of a table's rows, as `read_points` takes them. Raises ValueError that begins
    with `where`.
    """
    columns = [name for name in rows[0] if name] if rows else []
    missing = [name for name in ("params", "tokens", "loss") if name not in columns]
    if missing:
        found = f"found {', '.join(columns)}" if columns else "the table is empty"
        raise ValueError(
            f"{where}: needs columns params, tokens and loss; {', '.join(missing)} missing; {found}"
        )
    taken = measured(rows)
    if not taken:
        raise ValueError(f"{where}: no row of it is a point{_not_taken(rows)}")
    values = {}
    for name in (*COUNTS, "tokens", "loss", "flops"):
        if name in columns:
            values[name] = np.array([_number(where, i, name, rows[i][name]) for i in taken])
    seeds = _numbered([rows[i]["seed"] for i in taken]) if "seed" in columns else None
    points = LossPoints.of(
        {name: values[name] for name in COUNTS if name in values},
        values["tokens"],
        values["loss"],
        flops=values.get("flops"),
        stem=_stems([rows[i].get("stem") for i in taken]),
        seed=seeds,
    )
    try:
        check(points)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return points


def fittable(points: LossPoints) -> bool:
    """Whether a law can be fitted; `check` says why not."""
    try:
        check(points)
    except ValueError:
        return False
    return True


def check(points: LossPoints) -> None:
    """Raises ValueError when no law could be fitted: it says what is missing."""
    if (points.loss > _CEILING).any():
        raise ValueError(
            f"a loss of {points.loss.max():g}: expected nats/token, below {_CEILING:g}"
        )
    if len(points) < FEWEST_POINTS:
        raise ValueError(
            f"{len(points)} points: a law of five or six parameters needs at least {FEWEST_POINTS}"
        )
    sizes, lengths = len(np.unique(points.size)), len(np.unique(points.tokens))
    if sizes < FEWEST_SIZES:
        raise ValueError(
            f"{sizes} size{'s' * (sizes > 1)}: how the loss falls with size needs {FEWEST_SIZES} "
            "or more"
        )
    if lengths < FEWEST_LENGTHS:
        raise ValueError(
            f"{lengths} length{'s' * (lengths > 1)}: how the loss falls with tokens needs "
            f"{FEWEST_LENGTHS} or more"
        )
    ratio = points.tokens / points.size
    if ratio.max() / ratio.min() < _SPREAD:
        raise ValueError(
            f"all points lie on one ray, {ratio.mean():.3g} tokens a parameter: size and tokens "
            "can't be told apart; some sizes must be trained longer, "
            f"{_SPREAD:g}x or more in tokens a parameter"
        )
    if _spread_about_a_curve(points) < _OFF_CURVE:
        raise ValueError(
            "size and tokens grow together along one curve: what each is worth can't be told "
            "apart; some sizes must be trained at several lengths"
        )


def _spread_about_a_curve(points: LossPoints) -> float:
    """Largest over smallest distance of the points from the curve D ~ N^p that comes nearest to
    them.
    """
    n, d = np.log(points.size), np.log(points.tokens)
    spans = []
    for x, y in ((n, d), (d, n)):
        # Straight in logarithms is D ~ N^p; both ways round, since either may be the steep one.
        straight = np.polyval(np.polyfit(x, y, 1), x)
        spans.append(float(np.ptp(y - straight)))
    return float(np.exp(min(spans)))


def _stems(texts: Sequence[Any]) -> list[Any] | None:
    """The stem of each point; None where no column tells: one text for all names no stem, which
    has a single size. A point without a text is its own.
    """
    if len(set(texts)) == 1:
        return None
    return [text or ("", index) for index, text in enumerate(texts)]


def _not_taken(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which column leaves every row out, by which words."""
    for name, taken in _TAKEN.items():
        found = list(dict.fromkeys(row.get(name) or "" for row in rows))
        if not set(found) & set(taken):
            words = ", ".join(map(repr, found[:3])) + (" and so on" if len(found) > 3 else "")
            expected = " or ".join(word for word in taken if word)
            return f": column {name} says {words}; expected {expected}, or no such column"
    return (
        ": expected one with a loss, where there are such columns of source all and of kind "
        "branch, run or final"
    )


def _numbered(labels: Sequence[Any]) -> list[int]:
    """A number for each different label, in the order in which they come."""
    numbers = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def _number(where: str, row: int, name: str, text: Any) -> float:
    """A positive number, or ValueError with the file's line: a row's index and the header."""
    try:
        value = float(text or "nothing")
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{where}: line {row + 2}: {name} is {text!r}; expected a positive number")
    return value
