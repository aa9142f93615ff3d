"""Measured losses: the table that laws are fitted to, ours or anybody's, and what makes one
unfit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.laws.loss import Array
from windtunnel.laws.noise import Groups
from windtunnel.laws.table import number, other_unit, read_table

# Without embeddings (the paper's N), with the head, all.
COUNTS = ("params", "params_with_head", "params_total")
# Two points of an axis are fitted by any exponent; a law has five or six parameters.
FEWEST_SIZES, FEWEST_LENGTHS, FEWEST_POINTS = 3, 3, 8
_SPREAD = 1.5  # of tokens per parameter, largest over smallest: less is one ray D = kN
_OFF_CURVE = 1.2  # the same of the distance from a curve D ~ N^p
_CEILING = 20.0  # nats/token: ten times what text can cost
# Of the rows of a study's table those that a law is fitted to; where a table has no such column,
# or says nothing: all.
_KINDS = ("branch", "run", "final", "")
_OF_ALL = ("all", "")
# No model is smaller, and no training shorter.
_FEWEST_PARAMS, _FEWEST_TOKENS = 1e3, 1e4


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

    @property
    def groups(self) -> Groups:
        """Which points share a stem, and which a length and the text that they read up to it."""
        return Groups.of(self.stem, self.tokens, self.seed)

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
    """The points of a table with tokens, loss and one count of parameters or more, and where it
    has them flops, stem and seed (`table.read_table`): of the rows that `measured` takes. Raises
    ValueError, naming file and line.
    """
    return points_of(read_table(path), str(path))


def measured(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the rows that are points, copies of a row once. Of a study's table those of
    source `all`, of finished branches and runs (its audit run is none); a run of it without a
    loss diverged, and is left out.
    """
    sources = _sources(rows)
    found: dict[tuple[str, ...], int] = {}
    for i, row in enumerate(rows):
        taken = (row.get("source") or "") in sources and (row.get("kind") or "") in _KINDS
        # A table of anybody's has no kind, and a loss that is missing there is an error.
        diverged = row.get("kind") and not row.get("loss")
        if taken and not diverged:
            found.setdefault(tuple(map(str, row.values())), i)
    return list(found.values())


def points_of(rows: Sequence[Mapping[str, Any]], where: str = "the table") -> LossPoints:
    """The points of a table's rows, as `read_points` takes them. Raises ValueError that begins
    with `where`.
    """
    columns = [name for name in rows[0] if name] if rows else []
    counts = [name for name in COUNTS if name in columns]
    lacking = [] if counts else ["params"]
    lacking += [name for name in ("tokens", "loss") if name not in columns]
    if lacking:
        found = f"found {', '.join(columns)}" if columns else "the table is empty"
        advice = "".join(other_unit(name, columns) for name in lacking)
        raise ValueError(
            f"{where}: needs columns params, tokens and loss; {', '.join(lacking)} missing; {found}"
            f"{advice}"
        )
    taken = measured(rows)
    if not taken:
        raise ValueError(f"{where}: no row of it is a point{_not_taken(rows)}")
    values = {}
    for name in (*counts, "tokens", "loss", "flops"):
        if name in columns:
            values[name] = np.array([_number(where, i, name, rows[i][name]) for i in taken])
    for name, least in ((counts[0], _FEWEST_PARAMS), ("tokens", _FEWEST_TOKENS)):
        if values[name].max() < least:
            raise ValueError(
                f"{where}: {name} go up to {values[name].max():g}: are these billions? expected "
                "counts, such as 47.6M or 1.2e9"
            )
    seeds = _numbered([rows[i]["seed"] for i in taken]) if "seed" in columns else None
    points = LossPoints.of(
        {name: values[name] for name in counts},
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
            f"{len(points)} point{'s' * (len(points) > 1)}: a law of five or six parameters needs "
            f"at least {FEWEST_POINTS}"
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


def _sources(rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Of which sources the points are: of all together; of its own where a table has only one."""
    found = {row.get("source") or "" for row in rows}
    return tuple(found) if len(found) == 1 else _OF_ALL


def _not_taken(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which column leaves every row out, by which words."""
    sources = list(dict.fromkeys(row.get("source") or "" for row in rows))
    if not set(sources) & set(_sources(rows)):
        return (
            f": column source says {_listed(sources)}: a law is of one text, so keep the rows of "
            "one of them, or of all together, called all"
        )
    kinds = list(dict.fromkeys(row.get("kind") or "" for row in rows))
    if not set(kinds) & set(_KINDS):
        expected = " or ".join(kind for kind in _KINDS if kind)
        return f": column kind says {_listed(kinds)}; expected {expected}, or no such column"
    return (
        ": expected one with a loss, where there are such columns of source all and of kind "
        "branch, run or final"
    )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words[:3])) + (" and so on" if len(words) > 3 else "")


def _numbered(labels: Sequence[Any]) -> list[int]:
    """A number for each different label, in the order in which they come."""
    numbers = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def _number(where: str, row: int, name: str, value: Any) -> float:
    """A positive number, or ValueError with the file's line: a row's index and the header."""
    try:
        return number("" if value is None else str(value), name)
    except ValueError as error:
        raise ValueError(f"{where}: line {row + 2}: {error}") from None
