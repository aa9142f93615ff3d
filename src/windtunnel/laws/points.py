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

Array = NDArray[np.float64]

COUNTS = (
    "params",
    "params_with_head",
    "params_total",
)  # without embeddings (the paper's N), with the head, all
FEWEST_SIZES, FEWEST_LENGTHS, FEWEST_POINTS = 3, 3, 8
_SPREAD = 1.5  # of tokens per parameter, largest over smallest: less is one ray D = kN
_OFF_CURVE = 1.2  # the same of the distance from a curve D ~ N^p
_CEILING = 20.0  # nats/token: ten times what text can cost
# Of the rows of a study's table those that a law is fitted to; where a table has no such column,
# or says nothing: all.
_TAKEN = {"source": ("all", ""), "kind": ("branch", "run", "final", "")}


@dataclass(frozen=True)
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
        d, losses = np.asarray(tokens, float), np.asarray(loss, float)
        first = next(iter(counts.values()))
        labels = range(len(d)) if stem is None else stem
        names = {label: index for index, label in enumerate(dict.fromkeys(labels))}
        return cls(
            counts,
            d,
            losses,
            np.array([names[label] for label in labels], np.int64),
            np.zeros(len(d), np.int64) if seed is None else np.asarray(seed, np.int64),
            6 * first * d if flops is None else np.asarray(flops, float),
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
    return [
        i
        for i, row in enumerate(rows)
        if all((row.get(name) or "") in taken for name, taken in _TAKEN.items())
        and (row["loss"] or not row.get("kind"))
    ]


def points_of(rows: Sequence[Mapping[str, Any]], where: str = "the table") -> LossPoints:
    """The points of a table's rows, as `read_points` takes them. Raises ValueError."""
    columns = [name for name in rows[0] if name] if rows else []
    missing = [name for name in ("params", "tokens", "loss") if name not in columns]
    if missing:
        raise ValueError(
            f"{where}: needs columns params, tokens and loss; {', '.join(missing)} missing"
            f"{_found(columns)}"
        )
    numbered = [(i + 2, rows[i]) for i in measured(rows)]
    if not numbered:
        raise ValueError(f"{where}: no row of it is a point{_not_taken(rows)}")
    known = [name for name in (*COUNTS, "tokens", "loss", "flops") if name in columns]
    values = {
        name: np.array([_number(where, line, name, row[name]) for line, row in numbered])
        for name in known
    }
    whole = {name: values[name] for name in COUNTS if name in known}
    points = LossPoints.of(
        whole,
        values["tokens"],
        values["loss"],
        flops=values.get("flops"),
        stem=_stems([row.get("stem") for _, row in numbered]),
        seed=_labels([row["seed"] for _, row in numbered]) if "seed" in columns else None,
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
    sizes, lengths = len(np.unique(points.size)), len(np.unique(points.tokens))
    if len(points) < FEWEST_POINTS:
        raise ValueError(
            f"{len(points)} points: a law of five or six parameters needs at least {FEWEST_POINTS}"
        )
    if sizes < FEWEST_SIZES:
        raise ValueError(
            f"{sizes} size{'s' * (sizes > 1)}: how the loss falls with size needs {FEWEST_SIZES} or more"
        )
    if lengths < FEWEST_LENGTHS:
        raise ValueError(
            f"{lengths} length{'s' * (lengths > 1)}: how the loss falls with tokens needs {FEWEST_LENGTHS} or more"
        )
    ratio = points.tokens / points.size
    if ratio.max() / ratio.min() < _SPREAD:
        raise ValueError(
            f"all points lie on one ray, {ratio.mean():.3g} tokens a parameter: size and tokens can't be told apart; "
            f"some sizes must be trained longer, {_SPREAD:g}x or more in tokens a parameter"
        )
    if _spread_about_a_curve(points) < _OFF_CURVE:
        raise ValueError(
            "size and tokens grow together along one curve: what each is worth can't be told apart; "
            "some sizes must be trained at several lengths"
        )


def _spread_about_a_curve(points: LossPoints) -> float:
    """Largest over smallest distance of the points from the curve D ~ N^p that comes nearest to
    them.
    """
    n, d = np.log(points.size), np.log(points.tokens)
    spans = [float(np.ptp(b - np.polyval(np.polyfit(a, b, 1), a))) for a, b in ((n, d), (d, n))]
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
            return (
                f": column {name} says {words}; expected {' or '.join(word for word in taken if word)}, or no such "
                "column"
            )
    return ": expected one with a loss, where there are such columns of source all and of kind branch, run or final"


def _labels(texts: Sequence[Any]) -> list[int]:
    """A number for each different text."""
    names = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return [names[text] for text in texts]


def _number(where: str, line: int, name: str, text: Any) -> float:
    try:
        value = float(text or "nothing")
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{where}: line {line}: {name} is {text!r}; expected a positive number")
    return value


def _found(columns: Sequence[str]) -> str:
    return f"; found {', '.join(columns)}" if columns else "; the table is empty"
