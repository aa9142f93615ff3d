"""How far do laws of the loss reach? Every predictor beside ours, on every published table.

    .venv/bin/python bench/reach.py [--data DIR] [--tables NAME ...] [--predictors NAME ...]

Each table is cut along the size, the tokens and the FLOPs, at up to three places, and along size
and tokens together: what lies below is fitted, what lies above (of the last: beyond both) is
predicted. Of each predictor, over all cuts: the mean and the signed mean of the error of the loss,
as a share of it; and of one that states intervals, how many runs its 90% interval holds, its
median half width, and its score (Winkler: the width, and 20 times what a run lies outside by; less
is better). Every cut counts alike.

A predictor is a function from the points of a fit to a function that says the losses of other
points: add yours to PREDICTORS. Needs the published measurements in DIR. About half an hour on one
core. Prints a table by kind of cut, one by table and, last, one JSON list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from claims import Claim, arguments, claim, header, last_line, row
from numpy.typing import NDArray
from published import DATA, TABLES
from scipy.optimize import least_squares

from windtunnel.laws.as_the_paper import fit_as_the_paper
from windtunnel.laws.choice import choose
from windtunnel.laws.fit import LossData, Objective, fit_loss
from windtunnel.laws.points import LossPoints, fittable

Array = NDArray[np.float64]
FEW = 12  # values of an axis; of more, cuts are at quantiles
QUANTILES = (0.5, 0.65, 0.8)
LEAST = 0.4  # of the points that a cut along one axis leaves to fit
LEAST_OF_BOTH = 0.25  # along two
LEVEL = 0.9


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a predictor says of some points: losses, and ends of their 90% intervals if it
    states any.
    """

    loss: Array
    low: Array | None = None
    high: Array | None = None


Predict = Callable[[LossPoints], Said]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A cut through a table."""

    table: str
    axis: str
    below: LossPoints
    above: LossPoints


@dataclass(frozen=True, kw_only=True)
class IntervalScore:
    """How a predictor's 90% intervals did above a cut, as shares of the loss."""

    holds: float
    half_width: float
    winkler: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How a predictor did above a cut, as shares of the loss."""

    split: Split
    error: float
    signed: float
    intervals: IntervalScore | None


def ours(points: LossPoints) -> Predict:
    """`windtunnel plan`'s: forms weighed by their record."""
    law = choose(points)

    def predict(others: LossPoints) -> Said:
        low, high = [], []
        for i in range(len(others)):
            sizes = {count: float(values[i]) for count, values in others.params.items()}
            interval = law.predict(sizes, float(others.tokens[i])).interval90
            low.append(interval[0])
            high.append(interval[1])
        loss = law.loss(others.params, others.tokens)
        return Said(loss=loss, low=np.array(low), high=np.array(high))

    return predict


def form(name: str) -> Callable[[LossPoints], Predict]:
    """One form of the law alone: Huber's loss of the logarithm with delta 1e-3."""

    def fit(points: LossPoints) -> Predict:
        data = LossData.of(points.size, points.tokens, points.loss)
        law = fit_loss(name, data, Objective("log", 1e-3)).law
        return lambda others: Said(loss=law.at(others.size, others.tokens))

    return fit


def curve_fit(points: LossPoints) -> Predict:
    """The additive law by scipy's `curve_fit` from one start."""
    law, _ = fit_as_the_paper(points.size, points.tokens, points.loss)
    return lambda others: Said(loss=law.at(others.size, others.tokens))


def farseer(points: LossPoints) -> Predict:
    """L = e^(a3 N^c3 + b3) + e^(a2 N^c2 + b2) D^-e^(a1 N^c1 + b1) (arXiv 2506.10972): least squares
    of log loss from several starts. N and D in units of their geometric means.
    """
    n0, d0 = np.exp(np.log(points.size).mean()), np.exp(np.log(points.tokens).mean())

    def at(numbers: Array, others: LossPoints) -> Array:
        n, d = others.size / n0, others.tokens / d0
        a1, b1, c1, a2, b2, c2, a3, b3, c3 = numbers
        with np.errstate(over="ignore"):
            exponent = np.exp(np.clip(a1 * n**c1 + b1, -20, 5))
            data = np.exp(np.clip(a2 * n**c2 + b2 - exponent * np.log(d), -30, 10))
            return np.exp(np.clip(a3 * n**c3 + b3, -20, 5)) + data

    def residuals(numbers: Array) -> Array:
        return np.log(at(numbers, points) / points.loss)

    loss = np.log(points.loss.mean())
    found = []
    for power in (-0.3, 0.1, 0.3):
        for exponent in (-1.5, -0.8):
            start = [0.1, exponent, power, 0.1, loss - 1, power, -0.2, loss - 0.3, 0.1]
            found.append(least_squares(residuals, start, method="trf", max_nfev=2000))
    best = min(found, key=lambda one: one.cost).x
    return lambda others: Said(loss=at(best, others))


PREDICTORS: dict[str, Callable[[LossPoints], Predict]] = {
    "ours": ours,
    "additive": form("additive"),
    "coupled": form("coupled"),
    "coupled+floor": form("coupled+floor"),
    "additive by curve_fit": curve_fit,
    "Farseer": farseer,
}


def main() -> None:
    """Fit, predict, print."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--predictors", nargs="+", choices=PREDICTORS, default=list(PREDICTORS))
    given = parser.parse_args()
    if not given.data.exists():
        print(f"skipped: {given.data} is not there")
        last_line([])
        return
    every = [split for name in given.tables for split in splits(name, TABLES[name](given.data))]
    scores = {name: list(_scored(PREDICTORS[name], every)) for name in given.predictors}
    print(f"{len(every)} cuts of {len(given.tables)} tables\n")
    _print(scores, lambda score: score.split.axis, "error, by what is cut")
    _print(scores, lambda score: score.split.table, "error, by table")
    last_line(_overall(scores))


def splits(name: str, points: LossPoints) -> Iterator[Split]:
    """Every cut of a table below which a law can be fitted."""
    axes = {"size": points.size, "tokens": points.tokens, "FLOPs": points.flops}
    for axis, values in axes.items():
        for at in _places(values):
            below = values <= at
            if below.mean() >= LEAST and not below.all() and fittable(points.select(below)):
                yield Split(
                    table=name, axis=axis, below=points.select(below), above=points.select(~below)
                )
    for share in QUANTILES:
        small = points.size <= np.quantile(points.size, share) * (1 + 1e-9)
        short = points.tokens <= np.quantile(points.tokens, share) * (1 + 1e-9)
        below, beyond = small & short, ~small & ~short
        if below.mean() >= LEAST_OF_BOTH and beyond.any() and fittable(points.select(below)):
            yield Split(
                table=name, axis="both", below=points.select(below), above=points.select(beyond)
            )


def _places(values: Array) -> Array:
    """Where to cut an axis; the margin is for values that differ by rounding."""
    different = np.unique(values)
    if len(different) <= FEW:
        return different[:-1][-len(QUANTILES) :] * (1 + 1e-9)
    return np.quantile(values, QUANTILES)


def _scored(fit: Callable[[LossPoints], Predict], every: list[Split]) -> Iterator[Scored]:
    for split in every:
        try:
            said = fit(split.below)(split.above)
        except ValueError:
            # What can't be fitted says that tomorrow is as today: the loss of the nearest run.
            said = Said(loss=np.full(len(split.above), split.below.loss.min()))
        errors = np.log(said.loss / split.above.loss)
        yield Scored(
            split=split,
            error=float(np.abs(errors).mean()),
            signed=float(errors.mean()),
            intervals=interval_score(said, split.above.loss),
        )


def interval_score(said: Said, got: Array) -> IntervalScore | None:
    """How the intervals did at the losses that were got; None of a predictor without intervals."""
    if said.low is None or said.high is None:
        return None
    outside = np.log(said.low / got).clip(0) + np.log(got / said.high).clip(0)
    width = np.log(said.high / said.low)
    return IntervalScore(
        holds=float((outside == 0).mean()),
        half_width=float(np.median(width) / 2),
        winkler=float((width + 2 / (1 - LEVEL) * outside).mean()),
    )


def _print(scores: dict[str, list[Scored]], kind: Callable[[Scored], str], what: str) -> None:
    kinds = list(dict.fromkeys(kind(score) for score in next(iter(scores.values()))))
    print(header(what, *kinds, "all", "signed"))
    for name, found in scores.items():
        cells = []
        for one in kinds:
            cells.append(_percent(np.mean([s.error for s in found if kind(s) == one])))
        every = _percent(np.mean([score.error for score in found]))
        signed = f"{100 * np.mean([score.signed for score in found]):+.2f}%"
        print(row(name, *cells, every, signed))
    print()


def _overall(scores: dict[str, list[Scored]]) -> list[Claim]:
    claims = []
    for name, found in scores.items():
        error = float(np.mean([score.error for score in found]))
        claims.append(claim(f"mean error of {name}", error, "share of the loss"))
        stated = [score.intervals for score in found if score.intervals]
        if len(stated) == len(found):
            holds = float(np.mean([score.holds for score in stated]))
            half = float(np.median([score.half_width for score in stated]))
            winkler = float(np.mean([score.winkler for score in stated]))
            print(
                f"{name}: the 90% interval holds {holds:.3f}; half width {_percent(half)}, score "
                f"{_percent(winkler)}"
            )
            claims.append(claim(f"90% interval of {name} holds", holds, "share of runs"))
            claims.append(claim(f"interval score of {name}", winkler, "share of the loss"))
    return claims


def _percent(share: float | np.floating) -> str:
    return f"{100 * float(share):.2f}%"


if __name__ == "__main__":
    main()
