"""How skewed are bowls of the loss over the learning rate, and over the batch?

    .venv/bin/python bench/bowls.py DENSE_LR_BS_LOSS.CSV

Measured on Step Law's runs. The file is the one of 1,911 runs that github.com/step-law/steplaw
publishes (arXiv 2503.04715). Of each size, length and batch with two rates on either side of the
best one, within an octave, a cubic in octaves of the rate through these points: its third
coefficient over its second. The same over the batch, of each size, length and rate, within two
octaves. Prints quantiles of that, what the points' noise alone would spread it by, and its size
about zero and beside that noise: over the rate from mean and spread, over the batch from quartiles,
since many bowls over the batch are nearly flat and those have any skew. Last, one JSON list. The
priors of `tunnel/transfer/bowl.py` and `tunnel/valley.py` rest on it.
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from claims import Claim, arguments, claim, header, last_line, row
from scipy.stats import chi2

OCTAVE = 1.05  # grids are rounded
FEWEST = 2  # points on either side of the lowest one


def main() -> None:
    """Read the runs, fit the bowls, tell their skew."""
    parser = arguments(__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    print(header("bowls over", "of", "5%", "25%", "50%", "75%", "95%", "of noise alone", "size"))
    skews, alone = bowls(file, "lr", OCTAVE)
    over_rates = tell("the rate", skews, alone, skews.mean(), skews.std(ddof=1), (0.3, 0.6))
    skews, alone = bowls(file, "bs", 2 * OCTAVE)
    low, median, high = np.quantile(skews, [0.25, 0.5, 0.75])
    spread = (high - low) / 1.349  # of a normal, in standard deviations
    last_line([over_rates, tell("the batch", skews, alone, median, spread, (0.1, 0.3))])


def tell(
    name: str,
    skews: np.ndarray,
    alone: float,
    middle: float,
    spread: float,
    within: tuple[float, float],
) -> Claim:
    """A row of the table, and the claim on the skews' size about zero."""
    size = float(np.sqrt(middle**2 + max(0.0, spread**2 - alone**2)))
    quantiles = [f"{value:+.2f}" for value in np.quantile(skews, [0.05, 0.25, 0.5, 0.75, 0.95])]
    print(row(name, str(len(skews)), *quantiles, f"{alone:.2f}", f"{size:.2f}"))
    return claim(
        f"skew of a bowl over {name}, about zero and beside noise",
        round(size, 3),
        "of the curvature, an octave",
        "{} to {}, as the prior has it".format(*within),
        within[0] <= size <= within[1],
    )


def bowls(file: Path, column: str, reach: float) -> tuple[np.ndarray, float]:
    """(bowls,) third coefficients over second ones, through the points within `reach` octaves of
    the lowest one; and the median of the standard deviations that noise alone would give them, as
    points off the cubic tell it.
    """
    cells: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    with file.open(newline="", encoding="utf-8") as lines:
        for run in csv.DictReader(lines):
            cell = tuple(run[name] for name in ("N", "D", "lr", "bs") if name != column)
            cells[cell].append((np.log2(float(run[column])), float(run["smooth loss"])))
    skews, variances = [], []
    for points in cells.values():
        x, loss = np.array(sorted(points)).T
        u = x - x[loss.argmin()]
        near = np.abs(u) <= reach
        if min((near & (u < 0)).sum(), (near & (u > 0)).sum()) < FEWEST:
            continue
        design = np.vander(u[near], 4)
        cubic, *_ = np.linalg.lstsq(design, loss[near], rcond=None)
        free = int(near.sum()) - 4
        # the median of chi square is below its mean
        squares = float(((loss[near] - design @ cubic) ** 2).sum()) / chi2.median(free)
        skews.append(cubic[0] / cubic[1])
        variances.append(squares * np.linalg.inv(design.T @ design)[0, 0] / cubic[1] ** 2)
    return np.array(skews), float(np.sqrt(np.median(variances)))


if __name__ == "__main__":
    main()
