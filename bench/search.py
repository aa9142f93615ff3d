"""Which sampler should `windtunnel search` use: its own surface, or Optuna's TPE or GP, or chance?

    .venv/bin/python bench/search.py [--repeats N] [--data DIR] [--keep FILE]

The published StepLaw grids (17 cells of one size and length, some 118 rates and batches each) as
lookups: trials until one lies within 0.005 nats of its cell's best. What a sampler asks for is
answered by the nearest grid point in octaves; the same Sobol start for all but random; a sampler
that needs more than 60 trials counts as 61. Repeats are spread over the cells. First with
continuous settings as in a real search, then with the grid known. Then synthetic bowls of 4 and 5
settings, asked as the search asks (16 to start, batches of 8, 48 in all). `--keep`: results as they
come; the same command with the same file goes on from there. 51 repeats take some minutes. Needs
the published runs, `DIR/steplaw/dense_lr_bs_loss.csv`. Prints tables and, last, one JSON list.
"""

import csv
import json
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from claims import Claim, arguments, claim, header, last_line, row
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
# Settings, and nats of noise of a run: a larger model's, a tiny one's.
BOWLS = ((4, 0.003), (5, 0.003), (4, 0.015))
SHARE = 5  # so many times fewer repeats of the bowls
LEVEL, RESAMPLES = (0.05, 0.95), 4000
OURS = "surface (ours)"


def main() -> None:
    """Try every sampler on the grids and on the bowls."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--keep", type=Path, metavar="FILE", help="go on from this file")
    given = parser.parse_args()
    table = given.data / "steplaw" / "dense_lr_bs_loss.csv"
    if not table.exists():
        print(f"skipped: {table} is not there")
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    found, cells, bowls = Results(given.keep), read_cells(table), max(2, given.repeats // SHARE)
    for name, askers in (("continuous", continuous), ("known", known)):
        for repeat in range(given.repeats):
            cell = cells[repeat % len(cells)]
            for sampler, asker in askers(cell, repeat).items():
                found.measure(name, sampler, repeat, partial(on_grid, asker, cell))
    for settings, noise in BOWLS:
        for repeat in range(bowls):
            bowl = Bowl.of(repeat, settings, noise)
            for sampler, asker in bowl_askers(bowl, repeat).items():
                found.measure(
                    name_of(settings, noise), sampler, repeat, partial(on_bowl, asker, bowl)
                )
    report(found, given.repeats, bowls, len(cells))


def name_of(settings: int, noise: float) -> str:
    """What the bowls of a kind are called."""
    return f"{settings} settings, noise {noise}"


def axis(name: str, section: str, low: float, middle: float, high: float) -> Setting:
    """A setting of the search, log-uniform from `low` to `high`."""
    return Setting(name=name, help="", section=section, default=middle, low=low, high=high)


@dataclass(frozen=True)
class Cell:
    """What was measured of one size and length."""

    points: Octaves  # (points, 2): log2 of rate and batch
    losses: Vector  # (points,), nats/token

    @property
    def space(self) -> Space:
        """The settings, between the least and the largest that were measured."""
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
        """The index of the point that lies nearest, in octaves."""
        return int(((self.points - at) ** 2).sum(axis=1).argmin())

    def loss(self, at: Vector) -> float:
        """The loss of the nearest point."""
        return float(self.losses[self.nearest(at)])


class Asker(Protocol):
    """Asks for a point, (settings,) octaves; is told what came of it."""

    def ask(self) -> Vector:
        """The next point to try."""
        ...

    def tell(self, at: Vector, loss: float) -> None:
        """What came of a point."""
        ...


class Ours:
    """`windtunnel search`'s; with `grid`, among its points that were not tried."""

    def __init__(self, space: Space, start: Octaves, seed: int, grid: Cell | None = None) -> None:
        self.space, self.start, self.seed, self.grid = space, start, seed, grid
        self.asked: list[Vector] = []
        self.losses: list[float] = []

    def ask(self) -> Vector:
        """The next of the start, then what the surface suggests."""
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
        """Points come in the order in which they were asked."""
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
        distributions = optuna.distributions
        kind: Any = distributions.IntDistribution if axes else distributions.FloatDistribution
        ends = [(0, len(axis) - 1) for axis in axes] if axes else zip(*space.bounds, strict=True)
        self.distributions = {name: kind(*end) for name, end in zip(space.names, ends, strict=True)}
        for point in start:
            at = point
            if axes:
                at = [int(np.abs(axis - x).argmin()) for axis, x in zip(axes, point, strict=True)]
            self.study.enqueue_trial(dict(zip(space.names, at, strict=True)))

    def ask(self) -> Vector:
        """What the sampler suggests."""
        trial = self.study.ask(self.distributions)
        self.running.append(trial)
        at = [trial.params[name] for name in self.space.names]
        if self.axes:
            at = [axis[i] for axis, i in zip(self.axes, at, strict=True)]
        return np.array(at)

    def tell(self, at: Vector, loss: float) -> None:
        """Points come in the order in which they were asked."""
        self.study.tell(self.running.pop(0), loss)


class Untried:
    """Chance, without trying a point of the grid again."""

    def __init__(self, grid: Cell, seed: int) -> None:
        self.left = list(np.random.default_rng(seed).permutation(grid.points))

    def ask(self) -> Vector:
        """One of those that are left."""
        return self.left.pop()

    def tell(self, at: Vector, loss: float) -> None:
        """It does not matter."""


def random(seed: int) -> optuna.samplers.BaseSampler:
    """Chance."""
    return optuna.samplers.RandomSampler(seed=seed)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimators; the start is given."""
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)


def gp(seed: int) -> optuna.samplers.BaseSampler:
    """A Gaussian process; the start is given."""
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)


def continuous(cell: Cell, seed: int) -> dict[str, Callable[[], Asker]]:
    """Samplers that may ask for any point, by name."""
    space, start = cell.space, cell.space.spread(START, seed)
    return {
        OURS: lambda: Ours(space, start, seed),
        "Optuna TPE": lambda: Optunas(tpe(seed), space, start),
        "Optuna GP": lambda: Optunas(gp(seed), space, start),
        "random": lambda: Optunas(random(seed), space, start[:0]),
    }


def known(cell: Cell, seed: int) -> dict[str, Callable[[], Asker]]:
    """Samplers that know the grid, by name."""
    space, axes = cell.space, cell.axes
    start = np.array([cell.points[cell.nearest(point)] for point in space.spread(START, seed)])
    return {
        OURS: lambda: Ours(space, start, seed, cell),
        "Optuna TPE": lambda: Optunas(tpe(seed), space, start, axes),
        "Optuna GP": lambda: Optunas(gp(seed), space, start, axes),
        "random": lambda: Untried(cell, seed),
    }


def on_grid(make: Callable[[], Asker], cell: Cell) -> dict[str, float]:
    """`trials` until one is near the cell's best; `MOST` + 1 where none is."""
    asker = make()
    for trial in range(1, MOST + 1):
        at = asker.ask()
        loss = cell.loss(at)
        if loss <= cell.losses.min() + NEAR:
            return {"trials": trial}
        asker.tell(at, loss)
    return {"trials": MOST + 1}


@dataclass(frozen=True, kw_only=True)
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
        """One of so many settings, drawn by its seed."""
        rng = np.random.default_rng([seed, settings])
        turned = np.eye(settings) + 0.3 * rng.standard_normal((settings, settings))
        axes = np.linalg.qr(turned)[0]
        curve = np.exp(rng.uniform(np.log(0.002), np.log(0.04), settings))
        skew = rng.choice([-1, 1], settings) * rng.uniform(0.3, 1.2, settings)
        best = rng.uniform(-1.3, 1.3, settings)
        return Bowl(best=best, axes=axes, curve=curve, skew=skew, noise=noise, seed=seed)

    @property
    def space(self) -> Space:
        """Its settings."""
        return Space(tuple(axis(f"x{i}", "none", 0.25, 1.0, 4.0) for i in range(len(self.best))))

    def true(self, at: Vector) -> float:
        """Nats above the minimum."""
        z = self.skew * ((at - self.best) @ self.axes)
        return float((2 * self.curve / self.skew**2 * (np.exp(z) - z - 1)).sum())

    def measured(self, at: Vector) -> float:
        """With a run's noise, which is the same whenever the same point is tried."""
        key = np.frombuffer(np.ascontiguousarray(at).tobytes(), np.uint32)
        scatter = np.random.default_rng([self.seed, *key]).standard_normal()
        return self.true(at) + self.noise * scatter


def on_bowl(make: Callable[[], Asker], bowl: Bowl) -> dict[str, float]:
    """`trials` until one is truly near the minimum; true nats above it of the `best` point that
    was tried, and of the one that the surface through all runs `chosen`.
    """
    asker, tried, losses = make(), list[Vector](), list[float]()
    while len(tried) < BOWL_TRIALS:
        batch = [asker.ask() for _ in range(BOWL_BATCH if tried else BOWL_START)]
        for at in batch:
            losses.append(bowl.measured(at))
            asker.tell(at, losses[-1])
        tried += batch
    heights = [bowl.true(at) for at in tried]
    surface = fit_surface(np.array(tried), losses, [0] * len(tried))
    near = next((i for i, height in enumerate(heights, 1) if height <= NEAR), BOWL_TRIALS + 1)
    return {
        "trials": near,
        "best": min(heights),
        "chosen": heights[int(surface.mean(np.array(tried)).argmin())],
    }


def bowl_askers(bowl: Bowl, seed: int) -> dict[str, Callable[[], Asker]]:
    """The samplers, by name; the fixed sequence asks for its points alone."""
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


class Results:
    """What was measured, by (table, sampler) and repeat; kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        self.rows: dict[tuple[str, str, int], dict[str, float]] = {}
        for one in map(json.loads, lines):
            self.rows[one["table"], one["sampler"], one["repeat"]] = one["found"]

    def measure(
        self, table: str, sampler: str, repeat: int, once: Callable[[], dict[str, float]]
    ) -> None:
        """Measure what has not been measured yet."""
        if (table, sampler, repeat) in self.rows:
            return
        self.rows[table, sampler, repeat] = found = once()
        if self.file:
            line = {"table": table, "sampler": sampler, "repeat": repeat, "found": found}
            with self.file.open("a", encoding="utf-8") as lines:
                print(json.dumps(line), file=lines)

    def samplers(self, table: str) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(sampler for name, sampler, _ in self.rows if name == table))

    def values(self, table: str, sampler: str, what: str, repeats: int) -> Vector:
        """One number of every repeat, (repeats,)."""
        return np.array([self.rows[table, sampler, repeat][what] for repeat in range(repeats)])


def report(found: Results, repeats: int, bowls: int, cells: int) -> None:
    """The tables and the claims."""
    claims = on_grids(found, "continuous", "settings continuous, as in a search", repeats, cells)
    claims += on_grids(found, "known", "the grid known", repeats, cells)
    print(f"\nSynthetic bowls, {bowls} each, {BOWL_TRIALS} trials in batches of {BOWL_BATCH}\n")
    best = ("best tried, mean mnats", "chosen by the surface, mean mnats")
    print(header("bowl", "sampler", "median trials to within .005", *best, "ours minus it"))
    for settings, noise in BOWLS:
        claims += on_bowls(found, name_of(settings, noise), bowls)
    last_line(claims)


def on_grids(found: Results, table: str, title: str, repeats: int, cells: int) -> list[Claim]:
    """One table of the grids, a row a sampler."""
    print(
        f"\nTrials to within {NEAR} nats of a cell's best, {title}; {repeats} repeats, 90% "
        "intervals\n"
    )
    missed = f"not in {MOST}"
    print(header("sampler", "median", "mean", "within 10", missed, "ours minus it, mean"))
    ours = found.values(table, OURS, "trials", repeats)
    middle = float(np.median(ours))
    claims = [compared(f"{table}: trials, median of ours", middle, "trials")]
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
        what = f"{table}: trials, ours minus {sampler}, mean"
        ok = spread(less, np.mean, cells)[1] < 0
        claims.append(compared(what, float(less.mean()), "trials", "90% interval below 0", ok))
    return claims


def on_bowls(found: Results, table: str, bowls: int) -> list[Claim]:
    """The rows of one kind of bowl."""
    ours = found.values(table, OURS, "chosen", bowls)
    claims = []
    for sampler in found.samplers(table):
        trials = found.values(table, sampler, "trials", bowls)
        best = found.values(table, sampler, "best", bowls)
        chosen = found.values(table, sampler, "chosen", bowls)
        heights = (f"{1e3 * best.mean():.2f}", f"{1e3 * chosen.mean():.2f}")
        shown = (table, sampler, interval(trials, np.median, bowls), *heights)
        if sampler == OURS:
            print(row(*shown, ""))
            continue
        less = ours - chosen
        print(row(*shown, interval(1e3 * less, np.mean, bowls, 2)))
        what = f"{table}: loss above the minimum, ours minus {sampler}, mean"
        ok = spread(less, np.mean, bowls)[0] <= 0
        mean = float(less.mean())
        claims.append(compared(what, mean, "nats/token", "90% interval not above 0", ok))
    return claims


def compared(
    what: str, value: float, unit: str, target: str | None = None, ok: bool | None = None
) -> Claim:
    """A claim of this machine, in four digits."""
    return claim(what, round(value, 4), unit, target, ok, platform.machine())


def spread(values: Vector, of: Callable[..., Any], clusters: int) -> tuple[float, float]:
    """90% interval by bootstrap over the clusters (repeat i is of cluster i modulo their
    number).
    """
    rng = np.random.default_rng(0)
    groups = [values[i::clusters] for i in range(min(clusters, len(values)))]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(groups), size=len(groups))
        drawn.append(of(np.concatenate([groups[i] for i in chosen])))
    low, high = np.quantile(drawn, LEVEL)
    return float(low), float(high)


def interval(values: Vector, of: Callable[..., Any], clusters: int, digits: int = 1) -> str:
    """A number, and its 90% interval."""
    low, high = spread(values, of, clusters)
    return f"{of(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def read_cells(table: Path) -> list[Cell]:
    """The published runs by size and length, in that order."""
    with table.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    by_cell: dict[tuple[float, float], list[dict[str, str]]] = {}
    for one in rows:
        by_cell.setdefault((float(one["N"]), float(one["D"])), []).append(one)
    cells = []
    for _, mine in sorted(by_cell.items()):
        points = np.log2([[float(one["lr"]), float(one["bs"])] for one in mine])
        cells.append(Cell(points, np.array([float(one["smooth loss"]) for one in mine])))
    return cells


if __name__ == "__main__":
    main()
