"""Which law of the best batch costs least where it was not fitted?

    .venv/bin/python bench/batch_laws.py [--data DIR]

StepLaw's runs (arXiv 2503.04715): 17 cells of one size and length, each with about ten batches
and twelve rates. A law is fitted without a size, or a length, and the batch that it says there is
held against that cell's best: the regret, in nats/token, on a smoothing spline through the cell's
losses. Twice: the rate tuned at each batch, and one rate for all runs. Prints the table of
held-out regret, with R2 of the fit to all cells beside it, and, last, one JSON list. Needs the
published runs, `DIR/steplaw/dense_lr_bs_loss.csv`.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from claims import Claim, arguments, claim, end, header, row
from scipy.interpolate import BSpline, make_smoothing_spline

from windtunnel.laws.batch import BATCH_LAWS, Optima, by_regret
from windtunnel.laws.batch_cost import ThreeTerm
from windtunnel.laws.fit import LossData, fit_loss

SEQUENCE = 2048  # tokens
# Of the batches that the three-term law is fitted to: beyond, losses leave the power law.
LARGEST = 1_048_576
# Rate of the second arm in half octaves, 2^-9.5 = 1.38e-3: the one nearest to most cells' best.
FIXED = -19
# Of the spline: about where a batch left out of a cell is predicted best (median over the cells).
SMOOTHING = 0.01
GROUPS = 5  # of cells with neighbouring lengths
FEWEST = 6  # cells that a law is fitted to
SCHEMES = ("size", "tokens", "larger", "longer")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Losses of one size and length by batch."""

    params: float
    tokens: float
    batches: np.ndarray  # tokens, rising
    losses: np.ndarray  # nats/token, at the best rate or at the one rate

    @cached_property
    def curve(self) -> BSpline:
        """The loss over log2 of the batch."""
        return make_smoothing_spline(np.log2(self.batches), self.losses, lam=SMOOTHING)

    @cached_property
    def best(self) -> tuple[float, float]:
        """Batch and loss at the bottom of the curve."""
        x = np.linspace(np.log2(self.batches[0]), np.log2(self.batches[-1]), 2000)
        losses = self.curve(x)
        return float(2 ** x[losses.argmin()]), float(losses.min())

    def regret(self, batch: float) -> float:
        """Nats above the cell's best; outside of the sampled batches the nearest one is taken."""
        nearest = np.clip(batch, self.batches[0], self.batches[-1])
        return float(self.curve(np.log2(nearest))) - self.best[1]


Chooser = Callable[[Cell], float]  # the batch for a cell
Fitter = Callable[[Sequence[Cell]], Chooser]


def main() -> None:
    """Fit every law without some of the cells, and hold it against those."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    file = parser.parse_args().data / "steplaw" / "dense_lr_bs_loss.csv"
    if not file.exists():
        print(f"skipped: {file} is not there")
        return
    tuned, fixed = read(file)
    found = {
        arm: {law: measure(fitted, cells) for law, fitted in CHOOSERS.items()}
        for arm, cells in (("tuned", tuned), ("fixed", fixed))
    }
    show(found)
    show_fits(tuned)
    end(claims_of(found))


def read(file: Path) -> tuple[list[Cell], list[Cell]]:
    """The cells with the rate tuned at each batch, and with one rate."""
    losses: dict[tuple[float, float], dict[int, dict[int, float]]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            batches = losses.setdefault((float(row["N"]), float(row["D"])), {})
            rates = batches.setdefault(int(row["bs"]) * SEQUENCE, {})
            rates[round(2 * np.log2(float(row["lr"])))] = float(row["smooth loss"])
    tuned, fixed = [], []
    for (params, tokens), batches in sorted(losses.items()):
        best = {batch: min(batches[batch].values()) for batch in sorted(batches)}
        one = {batch: batches[batch][FIXED] for batch in best if FIXED in batches[batch]}
        for arm, by_batch in ((tuned, best), (fixed, one)):
            arm.append(
                Cell(
                    params=params,
                    tokens=tokens,
                    batches=np.array(list(by_batch), float),
                    losses=np.array(list(by_batch.values())),
                )
            )
    return tuned, fixed


def optima(cells: Sequence[Cell]) -> Optima:
    """The best batches of these cells, all as sure."""
    batch, loss = np.array([cell.best for cell in cells]).T
    return Optima(
        batch=batch,
        loss=loss,
        tokens=np.array([c.tokens for c in cells]),
        params=np.array([c.params for c in cells]),
        error=np.ones(len(cells)),
    )


def by_law(name: str) -> Fitter:
    """By one of `BATCH_LAWS` that needs no loss."""

    def fitted(cells: Sequence[Cell]) -> Chooser:
        law = BATCH_LAWS[name].fit(optima(cells))
        return lambda cell: float(law.at(math.nan, cell.tokens, cell.params))

    return fitted


def by_loss(cells: Sequence[Cell]) -> Chooser:
    """A plan knows no loss of a run to come: it is the one that the fitted cells predict."""
    at = optima(cells)
    law = BATCH_LAWS["loss"].fit(at)
    # Two sizes leave E open, so that rounding would choose it: the coupled form has none.
    form = "additive" if len(np.unique(at.params)) > 2 else "coupled"
    loss = fit_loss(form, LossData.of(at.params, at.tokens, at.loss)).law
    return lambda cell: float(law.at(loss.at(cell.params, cell.tokens), cell.tokens, cell.params))


def three_term(cells: Sequence[Cell]) -> ThreeTerm:
    """The three-term law through the losses of all batches that are not too large."""
    points = []
    for cell in cells:
        for batch, loss in zip(cell.batches, cell.losses, strict=True):
            if batch <= LARGEST:
                points.append((cell.params, cell.tokens, batch, loss))
    return ThreeTerm.fit(*np.array(points).T)


def by_three_term(cells: Sequence[Cell]) -> Chooser:
    """By the three-term law."""
    law = three_term(cells)
    return lambda cell: float(law.predict(cell.tokens))


def constant(cells: Sequence[Cell]) -> Chooser:
    """One batch for all: the geometric mean of the best ones."""
    mean = float(np.exp(np.log(optima(cells).batch).mean()))
    return lambda cell: mean


CHOOSERS: dict[str, Fitter] = {
    "tokens_params": by_law("tokens_params"),
    "three_term": by_three_term,
    "tokens": by_law("tokens"),
    "loss": by_loss,
    "published": lambda _: lambda cell: 0.58 * cell.tokens**0.571,
    "constant": constant,
}
CALLED = {
    "tokens_params": "c D^p N^q",
    "three_term": "three-term",
    "tokens": "c D^p",
    "loss": "c / L^k",
    "published": "0.58 D^0.571 (published, of all these runs)",
    "constant": "one batch for all",
}


def folds(cells: Sequence[Cell], scheme: str) -> Iterator[tuple[list[Cell], list[Cell]]]:
    """(fitted, held out): each size or group of lengths, out of all others (`size`, `tokens`) or
    of the smaller ones (`larger`, `longer`).
    """
    if scheme in ("size", "larger"):
        ordered = sorted(cells, key=lambda cell: (cell.params, cell.tokens))
        sizes = sorted({cell.params for cell in cells})
        groups = [[cell for cell in ordered if cell.params == size] for size in sizes]
    else:
        ordered = sorted(cells, key=lambda cell: (cell.tokens, cell.params))
        parts = np.array_split(np.arange(len(ordered)), GROUPS)
        groups = [[ordered[at] for at in part] for part in parts]
    for i, held in enumerate(groups):
        others = groups[:i] if scheme in ("larger", "longer") else groups[:i] + groups[i + 1 :]
        kept = list(chain.from_iterable(others))
        if len(kept) >= FEWEST:
            yield kept, held


@dataclass(frozen=True)
class Measured:
    """How a law did."""

    regrets: dict[str, list[float]]  # nats/token, by scheme
    r2: float  # of log batches, fitted to all cells

    @property
    def mean(self) -> float:
        """Over the schemes, each counting the same."""
        return float(np.mean([np.mean(regrets) for regrets in self.regrets.values()]))


def measure(fitted: Fitter, cells: Sequence[Cell]) -> Measured:
    """A law's regret where it was not fitted, by every scheme."""
    regrets: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
    for scheme in SCHEMES:
        for kept, held in folds(cells, scheme):
            chooser = fitted(kept)
            regrets[scheme] += [cell.regret(chooser(cell)) for cell in held]
    chooser = fitted(cells)
    truth = np.log([cell.best[0] for cell in cells])
    said = np.log([chooser(cell) for cell in cells])
    unexplained = ((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    return Measured(regrets, float(1 - unexplained))


def show(found: dict[str, dict[str, Measured]]) -> None:
    """A table for each arm, a row a law."""
    for arm, laws in found.items():
        print(
            f"\nrate {'tuned at each batch' if arm == 'tuned' else 'fixed for all runs'}: held-out "
            "regret, 1e-3 nats/token, mean / median / max\n"
        )
        schemes = ("a size left out", "lengths left out", "larger sizes", "longer runs")
        print(header("law", "R2", *schemes, "mean"))
        for law, measured in laws.items():
            cells = []
            for regrets in measured.regrets.values():
                milli = 1e3 * np.array(regrets)
                cells.append(f"{milli.mean():.2f} / {np.median(milli):.2f} / {milli.max():.1f}")
            mean = f"{measured.mean * 1e3:.2f}"
            print(row(CALLED[law], f"{measured.r2:.2f}", *cells, mean))


def show_fits(tuned: Sequence[Cell]) -> None:
    """The laws through all cells with the rate tuned."""
    print()
    for name, kind in BATCH_LAWS.items():
        law = kind.fit(optima(tuned))
        print(f"{CALLED[name]}: " + ", ".join(f"{k} {v:.4g}" for k, v in vars(law).items()))
    law = three_term(tuned)
    print(
        f"three-term: exponents {law.a:.3f} {law.b:.3f} {law.c:.3f}, best batch as "
        f"D^{law.exponent:.2f}, RMSE {law.rmse:.4f}\n"
    )


def claims_of(found: dict[str, dict[str, Measured]]) -> list[Claim]:
    """The law that is tried first must be the one of least held-out regret with the rate tuned,
    among those that are fitted.
    """
    claims = []
    for arm, laws in found.items():
        least = min(laws[law].mean for law in laws if law != "published")
        for law, measured in laws.items():
            first = (arm, law) == ("tuned", by_regret()[0])
            claims.append(
                claim(
                    f"held-out regret of {law}, rate {arm}",
                    round(measured.mean, 6),
                    "nats/token",
                    "the least" if first else None,
                    measured.mean <= least if first else None,
                )
            )
    return claims


if __name__ == "__main__":
    main()
