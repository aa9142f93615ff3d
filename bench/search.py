"""Which sampler should `windtunnel search` use: its own surface, or Optuna's TPE or GP, or chance?

    .venv/bin/python bench/search.py [--repeats N] [--data DIR] [--keep FILE]

The published StepLaw grids (17 cells of one size and length, some 118 rates and batches each) as
lookups: trials until one lies within 0.005 nats of its cell's best. What a sampler asks for is
answered by the nearest grid point in octaves; the same Sobol start for all but random; a sampler
that needs more than 60 trials counts as 61. Repeats are spread over the cells. First with
continuous settings as in a real search, then with the grid known. Then synthetic bowls of 4 and 5
settings, asked as the search asks (16 to start, batches of 8, 48 in all). Prints three tables and
one JSON list. `--keep`: results as they come; the same command with the same file goes on from
there. 51 repeats take some minutes.
"""

import argparse
import csv
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.stats import qmc

from windtunnel.tunnel.search.sampler import promise, suggest
from windtunnel.tunnel.search.settings import Setting
from windtunnel.tunnel.search.space import Octaves, Space
from windtunnel.tunnel.search.surface import fit_surface

Vector = NDArray[np.float64]
NEAR = 0.005  # nats above the cell's best
MOST, START = 60, 5
BOWL_TRIALS, BOWL_START, BOWL_BATCH = 48, 16, 8
BOWLS = (
    (4, 0.003),
    (5, 0.003),
    (4, 0.015),
)  # settings, and nats of noise of a run: a larger model's, a tiny one's
SHARE = 5  # so many times fewer repeats of the bowls
LEVEL, RESAMPLES = (0.05, 0.95), 4000
OURS = "surface (ours)"


def axis(name: str, section: str, low: float, middle: float, high: float) -> Setting:
    return Setting(name=name, help="", section=section, default=middle, low=low, high=high)


@dataclass(frozen=True)
class Cell:
    """The measured points of one size and length, (points, 2) log2 of rate and batch, and their
    losses.
    """

    name: str
    points: Octaves
    losses: Vector

    @property
    def space(self) -> Space:
        low, high = 2 ** self.points.min(0), 2 ** self.points.max(0)
        middle = np.sqrt(low * high)
        names = (("lr", "optimizer"), ("batch", "train"))
        ends = zip(names, low, middle, high, strict=True)
        return Space(tuple(axis(*name, *values) for name, *values in ends))

    @property
    def axes(self) -> list[Vector]:
        """The values of each setting, those that differ by rounding taken for one."""
        return [np.unique(self.points[:, i].round(1)) for i in range(2)]

    def nearest(self, at: Vector) -> int:
        return int(((self.points - at) ** 2).sum(axis=1).argmin())

    def loss(self, at: Vector) -> float:
        return float(self.losses[self.nearest(at)])


class Asker(Protocol):
    """Asks for a point, (settings,) octaves; is told what came of it."""

    def ask(self) -> Vector: ...
    def tell(self, at: Vector, loss: float) -> None: ...


class Ours:
    """`windtunnel search`'s; with `grid`, among its points that were not tried."""

    def __init__(self, space: Space, start: Octaves, seed: int, grid: Cell | None = None) -> None:
        self.space, self.start, self.seed, self.grid = space, start, seed, grid
        self.asked: list[Vector] = []
        self.losses: list[float] = []

    def ask(self) -> Vector:
        index, told = len(self.asked), len(self.losses)
        if index < len(self.start):
            at = self.start[index]
        elif self.grid:
            surface = fit_surface(np.array(self.asked), self.losses, [0] * told)
            tried = [self.grid.nearest(point) for point in self.asked]
            left = np.delete(self.grid.points, tried, axis=0)
            at = left[promise(surface, left).argmax()]
        else:
            seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
            running = np.reshape(self.asked[told:], (index - told, len(self.space.settings)))
            at = suggest(self.space, np.array(self.asked[:told]), self.losses, running, seed)
        self.asked.append(at)
        return at

    def tell(self, at: Vector, loss: float) -> None:
        self.losses.append(loss)


class Optunas:
    """One of Optuna's samplers. With `axes` the settings are their numbers on the axes of a
    grid.
    """

    def __init__(
        self,
        sampler: optuna.samplers.BaseSampler,
        space: Space,
        start: Octaves,
        axes: Sequence[Vector] | None = None,
    ) -> None:
        self.space, self.axes = space, axes
        self.study = optuna.create_study(sampler=sampler)
        self.running: list[optuna.Trial] = []
        low, high = space.bounds
        ends = [(0, len(axis) - 1) for axis in axes] if axes else list(zip(low, high, strict=True))
        kind: Any = (
            optuna.distributions.IntDistribution if axes else optuna.distributions.FloatDistribution
        )
        self.distributions = {name: kind(*end) for name, end in zip(space.names, ends, strict=True)}
        for point in start:
            at = (
                [int(np.abs(axis - x).argmin()) for axis, x in zip(axes, point, strict=True)]
                if axes
                else point
            )
            self.study.enqueue_trial(dict(zip(space.names, at, strict=True)))

    def ask(self) -> Vector:
        trial = self.study.ask(self.distributions)
        self.running.append(trial)
        at = [trial.params[name] for name in self.space.names]
        return np.array(
            [axis[i] for axis, i in zip(self.axes, at, strict=True)] if self.axes else at
        )

    def tell(self, at: Vector, loss: float) -> None:
        self.study.tell(self.running.pop(0), loss)


class Untried:
    """Chance, without trying a point of the grid again."""

    def __init__(self, grid: Cell, seed: int) -> None:
        self.left = list(np.random.default_rng(seed).permutation(grid.points))

    def ask(self) -> Vector:
        return self.left.pop()

    def tell(self, at: Vector, loss: float) -> None: ...


def random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)  # the start is given


def gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)


def continuous(cell: Cell, seed: int) -> dict[str, Callable[[], Asker]]:
    space, start = cell.space, cell.space.spread(START, seed)
    return {
        OURS: lambda: Ours(space, start, seed),
        "Optuna TPE": lambda: Optunas(tpe(seed), space, start),
        "Optuna GP": lambda: Optunas(gp(seed), space, start),
        "random": lambda: Optunas(random(seed), space, start[:0]),
    }


def known(cell: Cell, seed: int) -> dict[str, Callable[[], Asker]]:
    space, axes = cell.space, cell.axes
    start = np.array([cell.points[cell.nearest(point)] for point in space.spread(START, seed)])
    return {
        OURS: lambda: Ours(space, start, seed, cell),
        "Optuna TPE": lambda: Optunas(tpe(seed), space, start, axes),
        "Optuna GP": lambda: Optunas(gp(seed), space, start, axes),
        "random": lambda: Untried(cell, seed),
    }


def until_near(asker: Asker, cell: Cell) -> int:
    """Trials until one is near the cell's best; `MOST` + 1 where none is."""
    for trial in range(1, MOST + 1):
        at = asker.ask()
        loss = cell.loss(at)
        if loss <= cell.losses.min() + NEAR:
            return trial
        asker.tell(at, loss)
    return MOST + 1


@dataclass(frozen=True)
class Bowl:
    """A known loss over settings of four octaves each, nats above its minimum.

    Along rotated axes z it is 2 a / s**2 (exp(s z) - s z - 1): a z**2 near its minimum, a wall on
    one side and a slope on the other, as losses have them and no quadratic has. a: 0.002 to 0.04
    nats/octave**2; |s|: 0.3 to 1.2.
    """

    best: Vector
    axes: Vector  # (settings, settings), orthogonal
    curve: Vector
    skew: Vector
    noise: float  # of a run, nats
    seed: int

    @staticmethod
    def of(seed: int, settings: int, noise: float) -> "Bowl":
        rng = np.random.default_rng([seed, settings])
        axes = np.linalg.qr(np.eye(settings) + 0.3 * rng.standard_normal((settings, settings)))[0]
        curve = np.exp(rng.uniform(np.log(0.002), np.log(0.04), settings))
        skew = rng.choice([-1, 1], settings) * rng.uniform(0.3, 1.2, settings)
        return Bowl(rng.uniform(-1.3, 1.3, settings), axes, curve, skew, noise, seed)

    @property
    def space(self) -> Space:
        return Space(tuple(axis(f"x{i}", "none", 0.25, 1.0, 4.0) for i in range(len(self.best))))

    def true(self, at: Vector) -> float:
        z = self.skew * ((at - self.best) @ self.axes)
        return float((2 * self.curve / self.skew**2 * (np.exp(z) - z - 1)).sum())

    def measured(self, at: Vector) -> float:
        """With a run's noise, which is the same whenever the same point is tried."""
        key = np.frombuffer(np.ascontiguousarray(at).tobytes(), np.uint32)
        return (
            self.true(at) + self.noise * np.random.default_rng([self.seed, *key]).standard_normal()
        )


def on_bowl(asker: Asker, bowl: Bowl) -> dict[str, float]:
    """`trials` until one is truly near the minimum; true nats above it of the `best` point that
    was tried, and of the one that the surface through all runs `chosen`.
    """
    tried: list[Vector] = []
    losses: list[float] = []
    while len(tried) < BOWL_TRIALS:
        batch = [asker.ask() for _ in range(BOWL_BATCH if tried else BOWL_START)]
        for at in batch:
            losses.append(bowl.measured(at))
            asker.tell(at, losses[-1])
        tried += batch
    heights = [bowl.true(at) for at in tried]
    surface = fit_surface(np.array(tried), losses, [0] * len(tried))
    near = next((i + 1 for i, height in enumerate(heights) if height <= NEAR), BOWL_TRIALS + 1)
    return {
        "trials": near,
        "best": min(heights),
        "chosen": heights[int(surface.mean(np.array(tried)).argmin())],
    }


def bowl_askers(bowl: Bowl, seed: int) -> dict[str, Callable[[], Asker]]:
    space = bowl.space
    start = np.vstack([np.zeros(len(bowl.best)), space.spread(BOWL_START - 1, seed)])
    sobol = qmc.Sobol(len(bowl.best), rng=seed).random(64)[:BOWL_TRIALS]
    low, high = space.bounds
    return {
        OURS: lambda: Ours(space, start, seed),
        "Optuna TPE": lambda: Optunas(tpe(seed), space, start),
        "Optuna GP": lambda: Optunas(gp(seed), space, start),
        "Sobol": lambda: Ours(space, low + (high - low) * sobol, seed),
    }


# what is printed


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--repeats", type=int, default=51)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--keep", type=Path)
    given = arguments.parse_args()
    table = given.data / "steplaw" / "dense_lr_bs_loss.csv"
    if not table.exists():
        print(f"skipped: {table} is not there")
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    found = Results(given.keep)
    cells = read_cells(table)
    for name, askers in (("continuous", continuous), ("known", known)):
        for repeat in range(given.repeats):
            cell = cells[repeat % len(cells)]
            for sampler, asker in askers(cell, repeat).items():
                found.get(
                    name, sampler, repeat, lambda a=asker, c=cell: {"trials": until_near(a(), c)}
                )
    bowls = max(2, given.repeats // SHARE)
    for settings, noise in BOWLS:
        for repeat in range(bowls):
            bowl = Bowl.of(repeat, settings, noise)
            for sampler, asker in bowl_askers(bowl, repeat).items():
                found.get(
                    f"{settings} settings, noise {noise}",
                    sampler,
                    repeat,
                    lambda a=asker, b=bowl: on_bowl(a(), b),
                )
    report(found, given.repeats, bowls, len(cells))


class Results:
    """What was measured, by (table, sampler) and repeat; kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file and file.exists() else []
        self.rows: dict[tuple[str, str, int], dict[str, float]] = {}
        for one in map(json.loads, lines):
            self.rows[one["table"], one["sampler"], one["repeat"]] = one["found"]

    def get(
        self, table: str, sampler: str, repeat: int, measure: Callable[[], dict[str, float]]
    ) -> None:
        if (table, sampler, repeat) in self.rows:
            return
        self.rows[table, sampler, repeat] = found = measure()
        if self.file:
            with self.file.open("a") as lines:
                print(
                    json.dumps(
                        {"table": table, "sampler": sampler, "repeat": repeat, "found": found}
                    ),
                    file=lines,
                )

    def samplers(self, table: str) -> list[str]:
        return list(dict.fromkeys(sampler for name, sampler, _ in self.rows if name == table))

    def values(self, table: str, sampler: str, what: str, repeats: int) -> Vector:
        return np.array([self.rows[table, sampler, repeat][what] for repeat in range(repeats)])


def report(found: Results, repeats: int, bowls: int, cells: int) -> None:
    claims = on_grids(found, "continuous", "settings continuous, as in a search", repeats, cells)
    claims += on_grids(found, "known", "the grid known", repeats, cells)
    print(f"\nSynthetic bowls, {bowls} each, {BOWL_TRIALS} trials in batches of {BOWL_BATCH}\n")
    header = (
        "bowl",
        "sampler",
        "median trials to within .005",
        "best tried, mean mnats",
        "chosen by the surface, mean mnats",
        "ours minus it",
    )
    print(row(*header), row(*["---"] * len(header)), sep="\n")
    for settings, noise in BOWLS:
        claims += on_bowls(found, f"{settings} settings, noise {noise}", bowls)
    print(json.dumps(claims))


def on_grids(
    found: Results, table: str, title: str, repeats: int, cells: int
) -> list[dict[str, Any]]:
    print(
        f"\nTrials to within {NEAR} nats of a cell's best, {title}; {repeats} repeats, 90% intervals\n"
    )
    header = ("sampler", "median", "mean", "within 10", f"not in {MOST}", "ours minus it, mean")
    print(row(*header), row(*["---"] * len(header)), sep="\n")
    ours = found.values(table, OURS, "trials", repeats)
    claims = [
        claim(f"{table}: trials, median of ours", float(np.median(ours)), "trials", None, None)
    ]
    for sampler in found.samplers(table):
        trials = found.values(table, sampler, "trials", repeats)
        shown = (
            interval(trials, np.median, cells),
            f"{trials.mean():.1f}",
            f"{(trials <= 10).mean():.0%}",
            f"{(trials > MOST).mean():.0%}",
        )
        if sampler == OURS:
            print(row(sampler, *shown, ""))
            continue
        less = ours - trials
        print(row(sampler, *shown, interval(less, np.mean, cells)))
        claims.append(
            claim(
                f"{table}: trials, ours minus {sampler}, mean",
                float(less.mean()),
                "trials",
                "90% interval below 0",
                spread(less, np.mean, cells)[1] < 0,
            )
        )
    return claims


def on_bowls(found: Results, table: str, bowls: int) -> list[dict[str, Any]]:
    ours = found.values(table, OURS, "chosen", bowls)
    claims = []
    for sampler in found.samplers(table):
        trials, best, chosen = (
            found.values(table, sampler, what, bowls) for what in ("trials", "best", "chosen")
        )
        shown = (
            table,
            sampler,
            interval(trials, np.median, bowls),
            f"{1e3 * best.mean():.2f}",
            f"{1e3 * chosen.mean():.2f}",
        )
        if sampler == OURS:
            print(row(*shown, ""))
            continue
        less = ours - chosen
        print(row(*shown, interval(1e3 * less, np.mean, bowls, 2)))
        ok = spread(less, np.mean, bowls)[0] <= 0
        claims.append(
            claim(
                f"{table}: loss above the minimum, ours minus {sampler}, mean",
                float(less.mean()),
                "nats/token",
                "90% interval not above 0",
                ok,
            )
        )
    return claims


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def spread(values: Vector, of: Callable[..., Any], clusters: int) -> tuple[float, float]:
    """90% interval by bootstrap over the clusters (repeat i is of cluster i modulo their
    number).
    """
    rng = np.random.default_rng(0)
    groups = [values[i::clusters] for i in range(min(clusters, len(values)))]
    drawn = [
        of(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, LEVEL)
    return float(low), float(high)


def interval(values: Vector, of: Callable[..., Any], clusters: int, digits: int = 1) -> str:
    low, high = spread(values, of, clusters)
    return f"{of(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def claim(
    what: str, value: float, unit: str, target: str | None, ok: bool | None
) -> dict[str, Any]:
    return {
        "claim": what,
        "value": round(value, 4),
        "unit": unit,
        "target": target,
        "ok": ok,
        "machine": platform.machine(),
    }


def read_cells(table: Path) -> list[Cell]:
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    return list(_cells(rows))


def _cells(rows: Sequence[dict[str, str]]) -> Iterator[Cell]:
    for cell in sorted({(float(row["N"]), float(row["D"])) for row in rows}):
        mine = [row for row in rows if (float(row["N"]), float(row["D"])) == cell]
        points = np.log2([[float(row["lr"]), float(row["bs"])] for row in mine])
        yield Cell(
            "{:.3g} {:.3g}".format(*cell),
            points,
            np.array([float(row["smooth loss"]) for row in mine]),
        )


if __name__ == "__main__":
    main()
