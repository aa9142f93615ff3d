"""How skewed are bowls of the loss over the learning rate? Measured on Step Law's runs.

    .venv/bin/python bench/bowls.py DENSE_LR_BS_LOSS.CSV

The file is the one of 1,911 runs that github.com/step-law/steplaw publishes (arXiv 2503.04715). Of
each size, length and batch with two rates on either side of the best one within an octave, a cubic
in octaves of the rate through these five points: its third coefficient over its second. Prints
quantiles of that, and what the points' noise alone would spread it by; last, one JSON list. The
prior of `tunnel/transfer/bowl.py` rests on it.
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from claims import arguments, claim, header, last_line, row

_OCTAVE = 1.05  # grids of rates are rounded


def main() -> None:
    """Read the runs, fit the bowls, tell their skew."""
    parser = arguments(__doc__)
    parser.add_argument("file", type=Path)
    skews, alone = bowls(parser.parse_args().file)
    print(header("bowls", "5%", "25%", "median", "75%", "95%", "mean", "spread", "of noise alone"))
    quantiles = [f"{value:+.2f}" for value in np.quantile(skews, [0.05, 0.25, 0.5, 0.75, 0.95])]
    mean, spread = float(skews.mean()), float(skews.std(ddof=1))
    print(row(str(len(skews)), *quantiles, f"{mean:+.2f}", f"{spread:.2f}", f"{alone:.2f}"))
    size = float(np.sqrt(mean**2 + max(0.0, spread**2 - alone**2)))
    last_line(
        [
            claim(
                "skew of a bowl over the rate, about zero and beside noise",
                round(size, 3),
                "of the curvature, an octave",
                "0.3 to 0.6, as the prior has it",
                0.3 <= size <= 0.6,
            )
        ]
    )


def bowls(file: Path) -> tuple[np.ndarray, float]:
    """(bowls,) third coefficients over second ones; and the median of the standard deviations that
    noise alone would give them, as the fifth point off a cubic through five tells it.
    """
    cells: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    with file.open(newline="", encoding="utf-8") as lines:
        for run in csv.DictReader(lines):
            cell = (run["N"], run["D"], run["bs"])
            cells[cell].append((np.log2(float(run["lr"])), float(run["smooth loss"])))
    skews, errors = [], []
    for points in cells.values():
        x, loss = np.array(sorted(points)).T
        best = x[loss.argmin()]
        near = np.abs(x - best) <= _OCTAVE
        if (near & (x < best)).sum() != 2 or (near & (x > best)).sum() != 2:
            continue
        design = np.vander(x[near] - best, 4)
        cubic, *_ = np.linalg.lstsq(design, loss[near], rcond=None)
        # five points less four coefficients
        variance = float(((loss[near] - design @ cubic) ** 2).sum())
        skews.append(cubic[0] / cubic[1])
        errors.append(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]) / abs(cubic[1]))
    return np.array(skews), float(np.sqrt(np.median(np.square(errors)) / 0.455))


if __name__ == "__main__":
    main()
