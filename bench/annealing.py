"""Do laws of annealing, fitted to three runs, predict runs with other schedules? (Multi-power
law, arXiv 2503.12811.)

    .venv/bin/python bench/annealing.py [--data DIR]      # about a minute

On the published loss curves of models of 25M and 100M parameters: the laws are fitted to
cosine_24000, constant_24000 and wsdcon_9, and predict the six others, two of them three times as
long. Prints for each size the mean absolute error of each curve by the multi-power law with its
published constants, fitted here, and fitted here with shape and power of the nine curves of the
other size, and by Tissue's law; then what decays end at, by the fitted law; last, one JSON list.
The targets are the errors of the published constants: the largest of the six, and their mean.
Needs the published curves, `DIR/multi_power_law`.
"""

import csv
import time
from pathlib import Path

import numpy as np
from claims import Claim, arguments, claim, header, last_line, row

from windtunnel.laws.annealing import (
    AnnealingFit,
    AnnealingLaw,
    MultiPower,
    fit_annealing,
    fit_power,
)
from windtunnel.laws.decay import price_decays
from windtunnel.laws.loss import Array
from windtunnel.laws.schedule import Curve, Schedule

PEAK, END, WARMUP, SWITCH = 3e-4, 3e-5, 2160, 8000  # of all the runs; steps
FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
PUBLISHED = {
    25: MultiPower(
        L0=3.04045, A=0.52469, alpha=0.50787, B=363.788, C=2.06561, beta=0.58279, gamma=0.64142
    ),
    100: MultiPower(
        L0=2.65145, A=0.60115, alpha=0.45296, B=437.946, C=2.13246, beta=0.59785, gamma=0.65524
    ),
}
TARGETS = {25: 0.0075, 100: 0.0073}
OTHER = {25: 100, 100: 25}
TOTAL, LENGTHS = 24_000, (1200, 2400, 4800, 7200, 9600)  # steps


def main() -> None:
    """Fit, predict and compare for both sizes."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args().data / "multi_power_law"
    if not folder.exists():
        print(f"skipped: no published curves in {folder}")
        return
    curves = {size: read(folder / f"csv_{size}") for size in TARGETS}
    whole = {size: fit_power("multi-power", list(curves[size].values())) for size in TARGETS}
    claims = []
    for size, of_size in curves.items():
        three = [of_size[name] for name in FITTED]
        started = time.perf_counter()
        own = fit_annealing("multi-power", three)
        seconds = time.perf_counter() - started
        fits = {
            "multi-power": own,
            f"shape of {OTHER[size]}M": fit_annealing(
                "multi-power", three, like=whole[OTHER[size]].law
            ),
            "Tissue": fit_annealing("tissue", three),
        }
        errors = show(size, of_size, fits)
        show_decays(own.law)
        for name in fits:
            claims.append(error_claim(size, name, "largest", max(errors[name]), TARGETS[size]))
        known = float(np.mean(errors["published"]))
        for name in fits:
            claims.append(error_claim(size, name, "mean", float(np.mean(errors[name])), known))
        claims.append(
            claim(f"{size}M: seconds of the fit", round(seconds, 1), "s", 10, seconds <= 10)
        )
    last_line(claims)


def read(folder: Path) -> dict[str, Curve]:
    """The published curves of one size, by name. Raises ValueError where a curve's rates are not
    those of its name.
    """
    found = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = [[float(row[key]) for row in rows] for key in ("step", "lr", "loss")]
        table = np.array(columns).T
        steps = table[:, 0].astype(int)
        rates = rates_of(path.stem, steps[-1] + 1)
        if not np.allclose(rates[steps], table[:, 1], rtol=1e-6):
            raise ValueError(f"{path}: rates that are not those of the schedule in its name")
        found[path.stem] = Curve(Schedule.of_steps(rates), table[:, 0], table[:, 2])
    return found


def rates_of(name: str, count: int) -> Array:
    """The schedule that a curve's name stands for, step by step."""
    kind, *numbers = name.split("_")
    step = np.arange(float(count))
    rates = np.full(count, PEAK)
    if kind == "cosine":
        done = (step - WARMUP) / (int(numbers[0]) - WARMUP)
        rates = END + (PEAK - END) * (1 + np.cos(np.pi * done)) / 2
    elif kind == "wsdcon":
        rates[SWITCH:] = int(numbers[0]) * 1e-5
    elif kind in ("wsd", "wsdld"):
        begins, ends = map(int, numbers)
        done = np.clip((step - begins) / (ends - begins), 0, 1)
        rates = PEAK * (END / PEAK) ** done if kind == "wsd" else PEAK + (END - PEAK) * done
    return np.where(step < WARMUP, PEAK * step / WARMUP, rates)


def show(
    size: int, curves: dict[str, Curve], fits: dict[str, AnnealingFit]
) -> dict[str, list[float]]:
    """Prints the errors; gives back those of the curves that were not fitted."""
    laws: dict[str, AnnealingLaw] = {"published": PUBLISHED[size]} | {
        name: found.law for name, found in fits.items()
    }
    print(f"\n{size}M: mean absolute error, nats/token\n")
    print(header("curve", *laws))
    errors: dict[str, list[float]] = {name: [] for name in laws}
    for curve in sorted(curves, key=lambda name: (name not in FITTED, name)):
        of_curve = {name: law.error(curves[curve]) for name, law in laws.items()}
        fitted = curve in FITTED
        print(
            row(f"{curve} (fitted)" if fitted else curve, *(f"{e:.4f}" for e in of_curve.values()))
        )
        if not fitted:
            for name, error in of_curve.items():
                errors[name].append(error)
    print(row("**largest of the six**", *(f"{max(e):.4f}" for e in errors.values())))
    print(row("**mean of the six**", *(f"{np.mean(e):.4f}" for e in errors.values())) + "\n")
    for name, found in fits.items():
        state = "converged" if found.converged else "NOT converged"
        print(f"{name}: {state}, objective {found.objective:.5e}, {found.law}")
    return errors


def show_decays(law: AnnealingLaw) -> None:
    """Of a run of 24,000 steps that decays to a tenth of the peak."""
    done = np.linspace(0, 1, 201)
    shapes = {
        "linear": 1 - done,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "1-sqrt": 1 - done**0.5,
        "sqrt": (1 - done) ** 0.5,
        "power 1.5": (1 - done) ** 1.5,
        "power 2": (1 - done) ** 2,
    }
    floored = {name: 0.1 + 0.9 * shape for name, shape in shapes.items()}
    floored["exponential"] = 0.1**done
    stem = Schedule.of_steps(rates_of(f"constant_{TOTAL}", TOTAL))
    priced = {
        (decay.shape, decay.length): decay.loss
        for decay in price_decays(law, stem, TOTAL, LENGTHS, floored)
    }
    print(f"\ndecays to a tenth that end at step {TOTAL}: the loss by the law\n")
    print(header("decay, steps", *floored))
    for length in LENGTHS:
        cells = [f"{priced[name, length]:.4f}" for name in floored]
        print(row(f"{length} ({length / TOTAL:.0%})", *cells))


def error_claim(size: int, name: str, which: str, value: float, target: float) -> Claim:
    """That an error of the six curves that were not fitted is no larger than the target."""
    return claim(
        f"{size}M: {name}: {which} error of six curves",
        round(value, 5),
        "nats/token",
        round(target, 5),
        value <= target,
    )


if __name__ == "__main__":
    main()
