"""What are repeated tokens worth? R* of Muennighoff et al. (arXiv 2305.16264) on their own C4 runs.

    .venv/bin/python bench/repetition.py [--data DIR] [--draws N]      # 17 s of CPU

Fitted with their law of fresh tokens: their way (tokens and excess parameters together, on the
182 runs that they kept), on all runs of one seed, and from pairs (repeated against fresh tokens
in runs of the same size and length), with 90% intervals by bootstrap over the numbers of unique
tokens. Needs the published runs, `DIR/datablations/c4_runs.csv`. Prints a table and, last, one
JSON list.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from claims import Claim, arguments, claim, end, header, row
from numpy.typing import NDArray
from scipy.optimize import minimize

from windtunnel.laws.loss import Array, LossLaw
from windtunnel.laws.repetition import PUBLISHED, Repetition

# Of Chinchilla's runs on C4, by the authors; more digits than the paper prints (A 521, B 1488, E
# 1.87, .353).
FRESH = LossLaw.of(
    E=math.exp(0.6254804),
    A=math.exp(6.255414),
    alpha=0.3526596,
    B=math.exp(7.3049974),
    beta=0.3526596,
)
PUBLISHED_OBJECTIVE = 0.0158259
# The runs that the authors left out of their fit, as outliers, besides those of further seeds.
LEFT_OUT = set(
    [
        "2b84b4b",
        "2b88b4b",
        "2b812b4b",
        "2b816b4b",
        "2b824b4b",
        "2b855b1b25",
        "4b212b12b",
        "4b224b12b",
        "4b284b1b9",
        "4b284b6b",
        "2b8100m100m",
        "14m7b5100m",
        "14m300b100m",
        "1b12b7100m",
        "1b13b9100m",
        "1b15b9100m",
        "1b17b5100m",
        "619m3b9100m",
        "619m5b9100m",
        "619m7b5100m",
        "2b84b8100m",
        "1b58b8100m",
        "1b112b100m",
        "619m22b100m",
        "221m91b400m",
        "221m174b400m",
        "221m600b400m",
        "421m300b1b5",
        "8b712b12b",
        "8b712b1b5",
        "8b712b400m",
        "8b712b100m",
        "3b926b1b5",
        "2b836b1b5",
        "2b836b400m",
        "2b836b100m",
        "2b246b400m",
        "2b246b100m",
        "1b566b1b5",
        "1b566b100m",
        "1b191b400m",
        "1b191b1b5",
        "1b1250b1b5",
        "1b5174b1b5",
        "2b291b1b5",
        "2b2174b1b5",
        "8b720b1b5",
        "2b877b1b5",
    ]
)

LEVEL = 0.9  # of the intervals
LONGEST = 15.0  # epochs up to which the law of the tokens holds for sizes of every kind
DELTA = 1e-3  # of Huber's loss on log loss, as published
LOG_BOUNDS = (float(np.log(0.1)), float(np.log(1e4)))  # of R*; at the upper one no limit was seen
GRID = 17  # points of the search in each logarithm
POLISHED = 3  # lowest points of the grid from which an optimiser starts
OPTIONS = {
    "Nelder-Mead": {"xatol": 1e-7, "fatol": 1e-14, "maxiter": 2000},
    "Powell": {"xtol": 1e-9, "ftol": 1e-14},
}

# Log residuals (runs,) at R* (free,): of the tokens, and where it is fitted of the parameters.
Residuals = Callable[[Array], Array]


def main() -> None:
    """Fit R* in five ways, and print them beside the published one."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--draws", type=int, default=200, help="of each bootstrap")
    given = parser.parse_args()
    file = given.data / "datablations" / "c4_runs.csv"
    if not file.exists():
        print(f"skipped: {file} is not there")
        return
    kept, one_seed = read(file)
    together = fit_repetition(kept, FRESH, given.draws)
    pairs = fit_pairs(one_seed, FRESH, draws=given.draws)
    show(
        {
            f"together, the authors' {len(kept)} runs": together,
            f"together, all {len(one_seed)} runs of one seed": fit_repetition(
                one_seed, FRESH, given.draws
            ),
            "pairs, up to 15 epochs": pairs,
            "pairs, up to 5 epochs": fit_pairs(one_seed, FRESH, 5, given.draws),
            "pairs, up to 50 epochs": fit_pairs(one_seed, FRESH, 50, given.draws),
        }
    )
    end(claims_of(kept, together, pairs))


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Measured runs: arrays of one length. Raises ValueError where they are not, or where one is
    no positive number.
    """

    params: Array
    tokens: Array
    unique: Array
    loss: Array

    def __post_init__(self) -> None:
        if len({len(values) for values in vars(self).values()}) > 1:
            raise ValueError("params, tokens, unique and loss: expected one length")
        for name, values in vars(self).items():
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"{name}: expected positive numbers")

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def epochs(self) -> Array:
        """How often each run read its unique tokens."""
        return self.tokens / self.unique

    def select(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> "Runs":
        """The runs of a mask or of indices."""
        return Runs(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class RepetitionFit:
    """R* with the proof of its optimum, and as it might as well be."""

    repetition: Repetition
    objective: float  # sum of Huber's loss of log residuals
    disagreement: float  # between the objectives of two optimisers
    draws: Array  # (draws, 2) of (tokens, params)

    def interval(self, name: str) -> tuple[float, float]:
        """90%, of `tokens` or `params`; its upper end infinite where the runs show no limit."""
        low, high = np.quantile(
            self.draws[:, ("tokens", "params").index(name)],
            [(1 - LEVEL) / 2, (1 + LEVEL) / 2],
            method="closest_observation",
        )
        return float(low), float(high)


def read(file: Path) -> tuple[Runs, Runs]:
    """The runs that the authors fitted, and all of one seed."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [
            row
            for row in csv.DictReader(lines)
            if "seed" not in row["name"] and "opt" not in row["name"]
        ]
    return runs_of([row for row in rows if row["name"] not in LEFT_OUT]), runs_of(rows)


def runs_of(rows: list[dict[str, str]]) -> Runs:
    """The runs of the published table's rows."""

    def column(name: str) -> Array:
        return np.array([float(row[name]) for row in rows])

    return Runs(
        params=column("N"), tokens=column("D"), unique=column("D_unique"), loss=column("loss")
    )


def fit_repetition(runs: Runs, law: LossLaw, draws: int = 200) -> RepetitionFit:
    """R* of tokens and parameters together, given the law of fresh tokens, by Huber's loss of the
    log residuals: the published way. The draws are a bootstrap over the numbers of unique tokens,
    which share their subset of the corpus.

    What `law` gets wrong of any run, R* takes upon itself: `fit_pairs` does without. Raises
    ValueError without repeats.
    """
    _check((runs.epochs > 1).sum(), "runs with repeated tokens")

    def residuals(of: Runs) -> Residuals:
        return lambda r: _log_residuals(of, Repetition(*map(float, r)), law)

    return _fit(runs, residuals, 2, draws)


def fit_pairs(runs: Runs, law: LossLaw, epochs: float = LONGEST, draws: int = 200) -> RepetitionFit:
    """R* of the tokens alone, from what repeated tokens cost against fresh ones in runs of the
    same size and length, so that only the slope of `law` in the tokens counts. Runs of more
    epochs are left out: large models overfit there, which a worth of tokens that never falls
    can't say. Raises ValueError without such pairs.
    """
    paired: list[int] = []
    beside: dict[tuple[float, float], float] = {}  # loss on fresh tokens, by size and length
    for run in np.flatnonzero((runs.epochs > 1) & (runs.epochs <= epochs)):
        size, length = runs.params[run], runs.tokens[run]
        once = (runs.params == size) & (runs.tokens == length) & (runs.unique >= length)
        if once.any():
            paired.append(int(run))
            beside[size, length] = float(runs.loss[once].mean())
    _check(
        len(paired),
        "runs with repeated tokens beside one of the same size and length with fresh ones",
    )

    def residuals(of: Runs) -> Residuals:
        fresh = np.array([beside[key] for key in zip(of.params, of.tokens, strict=True)])
        once = law.at(of.params, of.tokens)

        def at(r: Array) -> Array:
            effective = Repetition(float(r[0])).effective(of.tokens, of.unique)
            return np.log((fresh + law.at(of.params, effective) - once) / of.loss)

        return at

    return _fit(runs.select(np.array(paired)), residuals, 1, draws)


def _log_residuals(runs: Runs, repetition: Repetition, law: LossLaw) -> Array:
    """Log of the predicted over the measured loss, (runs,)."""
    return np.log(repetition.loss(law, runs.params, runs.tokens, runs.unique) / runs.loss)


def _check(found: int, what: str) -> None:
    if found < 2:
        raise ValueError(f"{found} {what}: expected 2 or more")


def _fit(
    runs: Runs, residuals: Callable[[Runs], Residuals], free: int, draws: int
) -> RepetitionFit:
    best, objective = _lowest(residuals(runs), free, "Nelder-Mead")
    other, again = _lowest(residuals(runs), free, "Powell")
    rng = np.random.default_rng(0)
    subsets = np.unique(runs.unique)
    drawn = []
    for _ in range(draws):
        chosen = rng.choice(subsets, len(subsets))
        rows = np.concatenate([np.flatnonzero(runs.unique == unique) for unique in chosen])
        lowest, _ = _lowest(residuals(runs.select(rows)), free, "Nelder-Mead")
        drawn.append(_open(lowest))
    found = _open(best if objective <= again else other)
    return RepetitionFit(
        repetition=Repetition(*map(float, found)),
        objective=min(objective, again),
        disagreement=abs(objective - again),
        draws=np.array(drawn).reshape(draws, 2),
    )


def _open(found: Array) -> Array:
    """(tokens, params): infinite at the upper bound, and params where they are not fitted."""
    r = np.array([*found, np.inf][:2])
    return np.where(r >= np.exp(LOG_BOUNDS[1]) * (1 - 1e-6), np.inf, r)


def _lowest(
    residuals: Residuals, free: int, method: Literal["Nelder-Mead", "Powell"]
) -> tuple[Array, float]:
    """R* (free,) and the objective there. It has several valleys: hence the grid."""

    def value(logs: Array) -> float:
        return _huber(residuals(np.exp(np.clip(logs, *LOG_BOUNDS))))

    axis = np.linspace(*LOG_BOUNDS, GRID)
    grid = np.stack([along.ravel() for along in np.meshgrid(*[axis] * free)], axis=-1)
    starts = grid[np.argsort([value(at) for at in grid])[:POLISHED]]
    bounds, options = [LOG_BOUNDS] * free, OPTIONS[method]
    found = [minimize(value, at, method=method, bounds=bounds, options=options) for at in starts]
    best = min(found, key=lambda result: result.fun)
    return np.exp(np.clip(best.x, *LOG_BOUNDS)), float(best.fun)


def _huber(residuals: Array) -> float:
    """Huber's loss, summed over the runs."""
    size = np.abs(residuals)
    return float(np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())


def objective(of: Runs, repetition: Repetition) -> float:
    """The authors': the sum of Huber's loss of log residuals with their law of fresh tokens."""
    return _huber(_log_residuals(of, repetition, FRESH))


def show(fits: dict[str, RepetitionFit]) -> None:
    """One row a fit, and one of what was published."""
    print(
        header(
            "fitted",
            "R* of tokens",
            "R* of parameters",
            "objective",
            "4 epochs are worth",
            "15 epochs",
        )
    )
    for name, found in fits.items():
        limits = []
        for key in ("tokens", "params"):
            low, high = found.interval(key)
            limits.append(f"{getattr(found.repetition, key):.1f} [{low:.1f}, {high:.1f}]")
        print(row(name, *limits, f"{found.objective:.7f}", *_worth(found.repetition)))
    known = (PUBLISHED.tokens, PUBLISHED.params, PUBLISHED_OBJECTIVE, *_worth(PUBLISHED))
    print(row("published", *known) + "\n")


def _worth(repetition: Repetition) -> list[str]:
    return [f"{float(repetition.effective(epochs, 1)):.2f}" for epochs in (4, 15)]


def claims_of(kept: Runs, together: RepetitionFit, pairs: RepetitionFit) -> list[Claim]:
    """What is claimed of the authors' runs fitted together, and of the pairs."""
    known = objective(kept, PUBLISHED)
    return [
        claim(
            "objective at the published R*",
            known,
            "",
            PUBLISHED_OBJECTIVE,
            abs(known - PUBLISHED_OBJECTIVE) < 1e-7,
        ),
        claim(
            "objective of the fit to the same runs",
            together.objective,
            "",
            PUBLISHED_OBJECTIVE,
            together.objective <= PUBLISHED_OBJECTIVE,
        ),
        claim(
            "disagreement of two optimisers",
            together.disagreement,
            "",
            1e-8,
            together.disagreement < 1e-8,
        ),
        claim(
            "R* of tokens, from pairs up to 15 epochs",
            pairs.repetition.tokens,
            "epochs",
            PUBLISHED.tokens,
        ),
    ]


if __name__ == "__main__":
    main()
