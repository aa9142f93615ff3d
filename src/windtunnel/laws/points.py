"""Measured losses: the table that laws are fitted to, ours or anybody's, and what makes one unfit."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

COUNTS = ("params", "params_with_head", "params_total")  # without embeddings (the paper's N), with the head, all
FEWEST_SIZES, FEWEST_LENGTHS, FEWEST_POINTS = 3, 3, 8
_SPREAD = 1.5  # of tokens per parameter, largest over smallest: less is one ray D = kN
_OFF_CURVE = 1.2  # the same of the distance from a curve D ~ N^p
_CEILING = 20.0  # nats/token: ten times what text can cost
_KINDS = ("", "branch", "run", "final")  # of the rows of a study's table that a law is fitted to


@dataclass(frozen=True)
class Points:
    """Measurements: arrays of one length. Points of one stem share data order and noise."""

    params: dict[str, Array]  # N by each count that is known
    tokens: Array  # D
    loss: Array  # nats/token
    stem: NDArray[np.int64]
    seed: NDArray[np.int64]
    flops: Array

    @classmethod
    def of(cls, params: ArrayLike | Mapping[str, ArrayLike], tokens: ArrayLike, loss: ArrayLike, *,
           stem: Sequence[Any] | None = None, seed: ArrayLike | None = None, flops: ArrayLike | None = None
           ) -> Self:  # fmt: skip
        """From columns. Without `stem` each point is its own; without `flops` they are 6ND."""
        given = params if isinstance(params, Mapping) else {"params": params}
        counts = {key: np.asarray(values, float) for key, values in given.items()}
        d, losses = np.asarray(tokens, float), np.asarray(loss, float)
        first = next(iter(counts.values()))
        labels = range(len(d)) if stem is None else stem
        names = {label: index for index, label in enumerate(dict.fromkeys(labels))}
        return cls(
            counts, d, losses,
            np.array([names[label] for label in labels], np.int64),
            np.zeros(len(d), np.int64) if seed is None else np.asarray(seed, np.int64),
            6 * first * d if flops is None else np.asarray(flops, float),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.loss)

    def select(self, kept: ArrayLike) -> Self:
        """The points of a mask or of indices."""
        at = np.asarray(kept)
        rest = {field.name: getattr(self, field.name)[at] for field in fields(self) if field.name != "params"}
        return type(self)(params={key: values[at] for key, values in self.params.items()}, **rest)

    @property
    def counts(self) -> tuple[str, ...]:
        return tuple(self.params)

    @property
    def size(self) -> Array:
        """By the first count: what orders the points by size."""
        return self.params[self.counts[0]]


def read_points(path: Path, source: str = "all") -> Points:
    """The points of a CSV file with columns params, tokens and loss, and where it has them params_with_head,
    params_total, flops, stem and seed. Of a study's table the rows of this source and of finished branches and runs
    count (its audit run does not), and runs that diverged are left out. Raises ValueError, naming file and line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such table") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable CSV table: {error}") from None
    return points_of(rows, source, str(path))


def points_of(rows: Sequence[Mapping[str, Any]], source: str = "all", where: str = "the table") -> Points:
    """The points of a table's rows, as `read_points` takes them. Raises ValueError."""
    columns = list(rows[0]) if rows else []
    missing = [name for name in ("params", "tokens", "loss") if name not in columns]
    if missing:
        raise ValueError(f"{where}: needs columns params, tokens and loss; {', '.join(missing)} missing"
                         f"{_found(columns)}")  # fmt: skip
    numbered = [(line, row) for line, row in enumerate(rows, 2) if row.get("source", source) in (source, "")
                and (row.get("kind") or "") in _KINDS and (row["loss"] or not row.get("kind"))]  # fmt: skip
    known = [name for name in (*COUNTS, "tokens", "loss", "flops") if name in columns]
    values = {name: np.array([_number(where, line, name, row[name]) for line, row in numbered]) for name in known}
    whole = {name: values[name] for name in COUNTS if name in known}
    points = Points.of(whole, values["tokens"], values["loss"], flops=values.get("flops"),
                       stem=[row["stem"] for _, row in numbered] if "stem" in columns else None,
                       seed=_labels([row["seed"] for _, row in numbered]) if "seed" in columns else None)  # fmt: skip
    try:
        check(points)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return points


def check(points: Points) -> None:
    """Raises ValueError when no law could be fitted: it says what is missing."""
    if (points.loss > _CEILING).any():
        raise ValueError(f"a loss of {points.loss.max():g}: expected nats/token, below {_CEILING:g}")
    sizes, lengths = len(np.unique(points.size)), len(np.unique(points.tokens))
    if len(points) < FEWEST_POINTS:
        raise ValueError(f"{len(points)} points: a law of five or six parameters needs at least {FEWEST_POINTS}")
    if sizes < FEWEST_SIZES:
        raise ValueError(f"{sizes} size{'s' * (sizes > 1)}: how the loss falls with size needs {FEWEST_SIZES} or more")
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
        raise ValueError("size and tokens grow together along one curve: what each is worth can't be told apart; "
                         "some sizes must be trained at several lengths")  # fmt: skip


def _spread_about_a_curve(points: Points) -> float:
    """Largest over smallest distance of the points from the curve D ~ N^p that comes nearest to them."""
    n, d = np.log(points.size), np.log(points.tokens)
    spans = [float(np.ptp(b - np.polyval(np.polyfit(a, b, 1), a))) for a, b in ((n, d), (d, n))]
    return float(np.exp(min(spans)))


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
