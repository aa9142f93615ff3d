"""Which law of the best batch costs least where it was not fitted?

    .venv/bin/python bench/batch_laws.py [--data DIR]

StepLaw's runs (arXiv 2503.04715): 17 cells of one size and length, each with about ten batches
and twelve rates. A law is fitted without a size, or a length, and the batch that it says there is
held against that cell's best: the regret, in nats/token, on a smoothing spline through the cell's
losses. Twice: the rate tuned at each batch, and one rate for all runs. Prints the table of
held-out regret, with R2 of the fit to all cells beside it, and, last, one JSON list.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.interpolate import BSpline, make_smoothing_spline

from windtunnel.laws.batch import BATCH_LAWS, Optima, by_regret
from windtunnel.laws.batch_cost import ThreeTerm
from windtunnel.laws.fit import LossData, fit_loss

SEQUENCE = 2048  # tokens
# of the batches that the three-term law is fitted to: beyond, losses leave the power law
LARGEST = 1_048_576
FIXED = (
    -19
)  # rate of the second arm in half octaves, 2^-9.5 = 1.38e-3: the one nearest to most cells' best
# of the spline: about where a batch left out of a cell is predicted best (median over the cells)
SMOOTHING = 0.01
GROUPS = 5  # of cells with neighbouring lengths
FEWEST = 6  # cells that a law is fitted to
SCHEMES = ("size", "tokens", "larger", "longer")


@dataclass(frozen=True)
class Cell:
    """Losses of one size and length by batch."""

    params: float
    tokens: float
    batches: np.ndarray
    losses: np.ndarray

    @cached_property
    def curve(self) -> BSpline:
        return make_smoothing_spline(np.log2(self.batches), self.losses, lam=SMOOTHING)

    @cached_property
    def best(self) -> tuple[float, float]:
        """Batch and loss at the bottom of the curve."""
        x = np.linspace(np.log2(self.batches[0]), np.log2(self.batches[-1]), 2000)
        losses = self.curve(x)
        return float(2 ** x[losses.argmin()]), float(losses.min())

    def regret(self, batch: float) -> float:
        """Outside of the sampled batches the nearest one is taken."""
        return (
            float(self.curve(np.log2(np.clip(batch, self.batches[0], self.batches[-1]))))
            - self.best[1]
        )


Chooser = Callable[[Cell], float]  # the batch for a cell


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    file = arguments.parse_args().data / "steplaw" / "dense_lr_bs_loss.csv"
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
    results = claims(found)
    print(json.dumps(results))
    sys.exit(0 if all(claim["ok"] is not False for claim in results) else 1)


def read(file: Path) -> tuple[list[Cell], list[Cell]]:
    """The cells with the rate tuned at each batch, and with one rate."""
    losses: dict[tuple[float, float], dict[int, dict[int, float]]] = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            batches = losses.setdefault((float(row["N"]), float(row["D"])), {})
            rates = batches.setdefault(int(row["bs"]) * SEQUENCE, {})
            rates[round(2 * np.log2(float(row["lr"])))] = float(row["smooth loss"])
    tuned, fixed = [], []
    for (params, tokens), batches in sorted(losses.items()):
        at = sorted(batches)
        tuned.append(
            Cell(
                params,
                tokens,
                np.array(at, float),
                np.array([min(batches[b].values()) for b in at]),
            )
        )
        at = [b for b in at if FIXED in batches[b]]
        fixed.append(
            Cell(params, tokens, np.array(at, float), np.array([batches[b][FIXED] for b in at]))
        )
    return tuned, fixed


def optima(cells: Sequence[Cell]) -> Optima:
    batch, loss = np.array([cell.best for cell in cells]).T
    return Optima(
        batch=batch,
        loss=loss,
        tokens=np.array([c.tokens for c in cells]),
        params=np.array([c.params for c in cells]),
        error=np.ones(len(cells)),
    )


def by_law(name: str) -> Callable[[Sequence[Cell]], Chooser]:
    def fitted(cells: Sequence[Cell]) -> Chooser:
        law = BATCH_LAWS[name].fit(optima(cells))
        return lambda cell: float(law.at(math.nan, cell.tokens, cell.params))

    return fitted


def by_loss(cells: Sequence[Cell]) -> Chooser:
    """A plan knows no loss of a run to come: it is the one that the fitted cells predict."""
    at = optima(cells)
    law, loss = (
        BATCH_LAWS["loss"].fit(at),
        fit_loss("additive", LossData.of(at.params, at.tokens, at.loss)).law,
    )
    return lambda cell: float(law.at(loss.at(cell.params, cell.tokens), cell.tokens, cell.params))


def three_term(cells: Sequence[Cell]) -> ThreeTerm:
    points = [
        (c.params, c.tokens, b, loss)
        for c in cells
        for b, loss in zip(c.batches, c.losses, strict=True)
        if b <= LARGEST
    ]
    return ThreeTerm.fit(*np.array(points).T)


def by_three_term(cells: Sequence[Cell]) -> Chooser:
    law = three_term(cells)
    return lambda cell: float(law.predict(cell.tokens))


def constant(cells: Sequence[Cell]) -> Chooser:
    mean = float(np.exp(np.log(optima(cells).batch).mean()))
    return lambda cell: mean


CHOOSERS: dict[str, Callable[[Sequence[Cell]], Chooser]] = {
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
    by_size = scheme in ("size", "larger")
    ordered = sorted(
        cells,
        key=lambda cell: (cell.params, cell.tokens) if by_size else (cell.tokens, cell.params),
    )
    groups = (
        [[c for c in ordered if c.params == n] for n in sorted({c.params for c in cells})]
        if by_size
        else [list(group) for group in np.array_split(np.array(ordered, object), GROUPS)]
    )
    for i, held in enumerate(groups):
        others = groups[:i] if scheme in ("larger", "longer") else groups[:i] + groups[i + 1 :]
        kept = [cell for group in others for cell in group]
        if len(kept) >= FEWEST:
            yield kept, held


@dataclass(frozen=True)
class Measured:
    regrets: dict[str, list[float]]  # by scheme
    r2: float  # of log batches, fitted to all cells

    @property
    def mean(self) -> float:
        """Over the schemes, each counting the same."""
        return float(np.mean([np.mean(regrets) for regrets in self.regrets.values()]))


def measure(fitted: Callable[[Sequence[Cell]], Chooser], cells: Sequence[Cell]) -> Measured:
    regrets = {
        scheme: [
            cell.regret(chooser(cell))
            for kept, held in folds(cells, scheme)
            for chooser in [fitted(kept)]
            for cell in held
        ]
        for scheme in SCHEMES
    }
    chooser = fitted(cells)
    truth, said = (
        np.log([value(cell) for cell in cells]) for value in (lambda cell: cell.best[0], chooser)
    )
    return Measured(
        regrets, float(1 - ((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    )


def show(found: dict[str, dict[str, Measured]]) -> None:
    for arm, laws in found.items():
        print(
            f"\nrate {'tuned at each batch' if arm == 'tuned' else 'fixed for all runs'}: held-out regret, 1e-3 nats"
            "/token, mean / median / max\n"
        )
        print(
            "| law | R2 | a size left out | lengths left out | larger sizes | longer runs | mean |"
        )
        print("|" + "---|" * 7)
        for law, measured in laws.items():
            cells = [
                f"{np.mean(r) * 1e3:.2f} / {np.median(r) * 1e3:.2f} / {np.max(r) * 1e3:.1f}"
                for r in measured.regrets.values()
            ]
            print(
                f"| {CALLED[law]} | {measured.r2:.2f} | {' | '.join(cells)} | {measured.mean * 1e3:.2f} |"
            )


def show_fits(tuned: Sequence[Cell]) -> None:
    """The laws through all cells with the rate tuned."""
    print()
    for name, kind in BATCH_LAWS.items():
        print(
            f"{CALLED[name]}: "
            + ", ".join(f"{k} {v:.4g}" for k, v in vars(kind.fit(optima(tuned))).items())
        )
    law = three_term(tuned)
    print(
        f"three-term: exponents {law.a:.3f} {law.b:.3f} {law.c:.3f}, best batch as D^{law.exponent:.2f}, "
        f"RMSE {law.rmse:.4f}\n"
    )


def claims(found: dict[str, dict[str, Measured]]) -> list[dict]:
    """The default must be the law of least held-out regret with the rate tuned, among those that
    are fitted.
    """
    results = []
    for arm, laws in found.items():
        fitted = {law: measured.mean for law, measured in laws.items() if law != "published"}
        least = min(fitted.values())
        for law, measured in laws.items():
            ok = bool(measured.mean <= least) if (arm, law) == ("tuned", by_regret()[0]) else None
            results.append(
                {
                    "claim": f"held-out regret of {law}, rate {arm}",
                    "value": round(measured.mean, 6),
                    "unit": "nats/token",
                    "target": "the least" if ok is not None else None,
                    "ok": ok,
                    "machine": "any",
                }
            )
    return results


if __name__ == "__main__":
    main()
