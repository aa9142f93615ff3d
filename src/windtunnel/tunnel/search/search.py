"""Which learning rate, scale_depth, scale_emb and init_std are best, jointly, on a small shape? A
Bayesian search as in the paper (section A.1), whose winner is what the surface through all runs
says, not the luckiest run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import count
from windtunnel.recipe import RESULTS_VERSION, Recipe
from windtunnel.results.search import SEARCH, SearchNumbers, SearchRow
from windtunnel.results.study import write_study
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.fleet import fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.search.space import Octaves, Point, Space, changes, space
from windtunnel.tunnel.search.surface import (
    Noise,
    Surface,
    expected_gain,
    fit,
    importances,
    noise_of,
    profiles,
)
from windtunnel.tunnel.search.trials import SAMPLER, Outcome, Trials, open_trials, worst_loss
from windtunnel.tunnel.study import core_minutes, final, ids, rows_at_end

LEVEL = 0.9
_FEWEST_STEPS = 400
_TOKENS_A_PARAMETER = 10  # the paper's; its pilot ranked alike at 20
_APART = 0.25  # octaves, in some setting, between candidates
_MORE = (1, 2, 4, 8, 16, 32)  # further trials whose gain is estimated


@dataclass(frozen=True)
class Design:
    """What is searched and how long.

    The trials share one seed, so that what they differ by is the settings. The best few of the
    surface run again with `fresh_seeds` further seeds; then the chosen one and the paper's point,
    with as many seeds that had no part in the choice. `tokens` 0: ten a parameter, and at least
    400 steps. `train`: changes of that section of the recipe.
    """

    width: int = 32
    depth: int = 3
    tokens: int = 0
    batch: int = 2048
    trials: int = 48
    start: int = 16  # of the trials: the paper's point, then a Sobol sequence
    batch_trials: int = 8  # asked for at once
    candidates: int = 4
    fresh_seeds: int = 3
    seed: int = 0
    also: tuple[str, ...] = ()
    train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        return space(self.also)

    @property
    def seeds(self) -> tuple[list[int], list[int]]:
        """Those of the choice and those of the comparison."""
        fresh = [self.seed + 1 + i for i in range(2 * self.fresh_seeds)]
        return fresh[: self.fresh_seeds], fresh[self.fresh_seeds :]

    def length(self, corpus: Corpus) -> int:
        params = count(proxy(corpus, self.width, self.depth).model).params
        return self.tokens or self.batch * max(
            _FEWEST_STEPS, round(_TOKENS_A_PARAMETER * params / self.batch)
        )

    def recipe(self, corpus: Corpus, point: Point, seed: int) -> Recipe:
        tokens = self.length(corpus)
        sections = changes(point, tokens, self.batch)
        sections["train"] = {"batch": self.batch, **self.train}
        name = f"search-{self.width}x{self.depth}-" + "-".join(
            f"{value:.3g}" for value in point.values()
        )
        return proxy(corpus, self.width, self.depth, tokens, name=name, seed=seed, **sections)

    def batches(self) -> list[tuple[int, int]]:
        """First and last of the trials that are asked for together: the start, then batches of
        the sampler.
        """
        ends = [min(self.start, self.trials)]
        while ends[-1] < self.trials:
            ends.append(min(self.trials, ends[-1] + self.batch_trials))
        return list(zip([0, *ends], ends, strict=False))


@dataclass(frozen=True)
class Measured:
    """One run of the search. `role`: trial, candidate, chosen or paper; `trial`: the one whose
    point it has.
    """

    run: Run
    point: Point
    role: str
    trial: int

    @property
    def seed(self) -> int:
        return self.run.recipe.seed

    @property
    def loss(self) -> float | None:
        validation = final(self.run)
        return None if validation is None else validation.loss


def search(
    lab: Path, corpus: Corpus, design: Design, watch: Watch, storage: str | None = None
) -> Path:
    """Run the study, or what is missing of it; returns its folder. `storage`: any URL that Optuna
    takes, by default the study's own SQLite file. Raises InputError where no trial comes to its
    end.
    """
    trials = _open(lab, corpus, design, storage)
    measured: list[Measured] = []

    def train(
        points: Sequence[Point], role: str, of: Sequence[int], seeds: Sequence[int], label: str
    ) -> None:
        wanted = [
            (point, trial, seed) for point, trial in zip(points, of, strict=True) for seed in seeds
        ]
        runs = fleet(
            lab,
            corpus,
            [design.recipe(corpus, p, seed) for p, _, seed in wanted],
            watch,
            f"search: {label}",
        )
        measured.extend(
            Measured(run, p, role, trial) for run, (p, trial, _) in zip(runs, wanted, strict=True)
        )

    for first, end in design.batches():
        points = trials.ask(end)[first:]
        train(
            points,
            "trial",
            range(first, end),
            [design.seed],
            f"trials {first + 1} to {end} of {design.trials}",
        )
        trials.tell(first, [_outcome(one) for one in measured[first:]])
    if all(one.loss is None for one in measured):
        raise InputError(
            f"search: all {design.trials} trials diverged; is there a bound of the space that fits?"
        )
    choosing, comparing = design.seeds
    tried = [one for one in measured if one.loss is not None]
    best = pick(
        surface_of(measured, design.space),
        design.space.octaves([m.point for m in tried]),
        design.candidates,
    )
    candidates = [tried[i] for i in best]
    train(
        [c.point for c in candidates],
        "candidate",
        [c.trial for c in candidates],
        choosing,
        "best trials, new seeds",
    )
    noise = _noise(measured, choosing)
    surface = surface_of(measured, design.space, noise)
    chosen = candidates[choose(surface, design.space.octaves([c.point for c in candidates]))]
    train([chosen.point], "chosen", [chosen.trial], comparing, "the chosen point, new seeds")
    train([design.space.defaults], "paper", [0], comparing, "the paper's point, new seeds")
    return _write(lab, corpus, design, measured, candidates, chosen, surface, noise)


def surface_of(measured: Sequence[Measured], where: Space, noise: Noise | None = None) -> Surface:
    """Through every run; one that diverged as high as the worst that did not."""
    worst = worst_loss([one.loss for one in measured])
    losses = [worst if one.loss is None else one.loss for one in measured]
    return fit(
        where.octaves([one.point for one in measured]),
        losses,
        [one.seed for one in measured],
        noise,
    )


def pick(surface: Surface, tried: Octaves, number: int) -> list[int]:
    """Which of the tried points have the least posterior mean, best first, no two of them closer
    than a quarter octave in every setting.
    """
    picked: list[int] = []
    for i in np.argsort(surface.mean(tried), kind="stable").tolist():
        if len(picked) < number and all(
            np.abs(tried[i] - tried[j]).max() >= _APART for j in picked
        ):
            picked.append(i)
    return picked


def choose(surface: Surface, candidates: Octaves) -> int:
    """The one with the least posterior mean given all its runs."""
    return int(surface.mean(candidates).argmin())


@dataclass(frozen=True)
class Comparison:
    """Of the chosen point with the paper's, seed by seed. `mean`: nats/token, negative where the
    chosen one is better; None where a run diverged.
    """

    outcome: Literal["beats", "ties", "loses"]
    mean: float | None
    interval: tuple[float, float] | None  # 90%, Student's t of the paired differences


def compare(chosen: Sequence[float | None], paper: Sequence[float | None]) -> Comparison:
    """Paired by position. What diverges with fewer seeds is better."""
    failures = chosen.count(None) - paper.count(None)
    pairs = [c - p for c, p in zip(chosen, paper, strict=True) if c is not None and p is not None]
    if failures or len(pairs) < 2:
        return Comparison(
            "loses" if failures > 0 else "beats" if failures < 0 else "ties", None, None
        )
    mean, error = float(np.mean(pairs)), float(np.std(pairs, ddof=1)) / len(pairs) ** 0.5
    reach = float(student.ppf((1 + LEVEL) / 2, len(pairs) - 1)) * error
    low, high = mean - reach, mean + reach
    return Comparison("beats" if high < 0 else "loses" if low > 0 else "ties", mean, (low, high))


def _open(lab: Path, corpus: Corpus, design: Design, storage: str | None) -> Trials:
    file = lab / "studies" / "search" / "optuna.db"
    if storage is None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{file.parent}: could not be made: {error.strerror}") from None
    tokens = design.length(corpus)
    what = [
        corpus.digest,
        RESULTS_VERSION,
        design.width,
        design.depth,
        tokens,
        design.batch,
        design.batch_trials,
        dict(design.train),
    ]
    title = f"{corpus.folder.name} {design.width}x{design.depth} {tokens}"
    return open_trials(
        storage or f"sqlite:///{file.resolve()}",
        design.space,
        design.start,
        design.seed,
        title,
        what,
    )


def _outcome(one: Measured) -> Outcome:
    return Outcome(one.run.id, one.loss, one.run.status().reason)


def _noise(measured: Sequence[Measured], seeds: Sequence[int]) -> Noise | None:
    """From the candidates that came to their end with every seed."""
    tables: dict[int, list[float]] = {}
    for one in measured:
        if one.role == "candidate" and one.loss is not None:
            tables.setdefault(one.trial, []).append(one.loss)
    return noise_of([losses for losses in tables.values() if len(losses) == len(seeds)])


def _write(
    lab: Path,
    corpus: Corpus,
    design: Design,
    measured: Sequence[Measured],
    candidates: Sequence[Measured],
    chosen: Measured,
    choice: Surface,
    noise: Noise | None,
) -> Path:
    """`choice`: the surface by which was chosen; the comparison had no part in it."""
    where = design.space
    losses = {
        role: [one.loss for one in measured if one.role == role]
        for role in ("trial", "chosen", "paper")
    }
    found = compare(losses["chosen"], losses["paper"])
    surface = surface_of(measured, where, noise)
    at = where.octaves([chosen.point])[0]
    trials = [one for one in measured if one.role == "trial"]
    runs = list({one.run.id: one.run for one in measured}.values())
    luckiest = min((one for one in trials if one.loss is not None), key=lambda one: one.loss or 0.0)
    known = noise or surface.noise
    numbers = {
        "corpus": corpus.folder.name,
        "width": design.width,
        "depth": design.depth,
        "tokens": design.length(corpus),
        "batch": design.batch,
        "sampler": SAMPLER,
        "trials": design.trials,
        "seed": design.seed,
        "failed": sum(one.loss is None for one in trials),
        "settings": {
            s.name: {"low": s.low, "high": s.high, "paper": s.default, "searched": s.label}
            for s in where.settings
        },
        "chosen": chosen.point | {"trial": chosen.trial, "losses": losses["chosen"]},
        "defaults": where.defaults | {"losses": losses["paper"]},
        "difference": {"mean": found.mean, "interval": found.interval, "seeds": design.fresh_seeds},
        "outcome": found.outcome,
        "luckiest": luckiest.point | {"trial": luckiest.trial, "loss": luckiest.loss},
        "candidates": [_candidate(one, choice, where, measured) for one in candidates],
        "noise": {"seed": known.seed, "run": known.run, "measured": noise is not None},
        "bowls": _bowls(surface, where, at),
        "importances": dict(zip(where.names, importances(surface, where), strict=True)),
        "expected_gain": {"trials": list(_MORE), "gain": expected_gain(surface, where, at, _MORE)},
        "core_minutes": core_minutes(runs),
    }
    rows = [row for one in measured for row in _rows(one, design)]
    verdict: Literal["pass", "fail"] = "fail" if found.outcome == "loses" else "pass"
    return write_study(
        lab,
        SEARCH,
        rows=rows,
        verdict=verdict,
        summary=_summary(numbers, len(runs)),
        numbers=SearchNumbers.model_validate(numbers),
        runs=ids(runs),
    )


def _rows(one: Measured, design: Design) -> list[SearchRow]:
    return rows_at_end(
        SearchRow,
        one.run,
        one.role,
        trial=one.trial,
        width=design.width,
        depth=design.depth,
        batch=design.batch,
        point=one.point,
    )


def _candidate(
    one: Measured, surface: Surface, where: Space, measured: Sequence[Measured]
) -> dict[str, Any]:
    """Its trial's loss, its losses with fresh seeds, and its height on the surface."""
    fresh = [m.loss for m in measured if m.role == "candidate" and m.trial == one.trial]
    mean = surface.loss(float(surface.mean(where.octaves([one.point]))[0]))
    return one.point | {
        "trial": one.trial,
        "trial_loss": one.loss,
        "losses": fresh,
        "posterior_mean": mean,
    }


def _bowls(surface: Surface, where: Space, chosen: np.ndarray) -> dict[str, dict[str, Any]]:
    bowls = {}
    for setting, profile in zip(where.settings, profiles(surface, where, chosen), strict=True):
        best = sorted(setting.rounded(2**x) for x in profile.best)
        mean, low, high = zip(*profile.above, strict=True)
        bowls[setting.name] = {
            "value": [setting.rounded(2.0**x) for x in profile.octaves],
            "above": mean,
            "low": low,
            "high": high,
            "best": best,
        }
    return bowls


def _summary(numbers: dict[str, Any], runs: int) -> str:
    found, names = numbers["difference"], list(numbers["settings"])
    point = ", ".join(f"{name} {numbers['chosen'][name]:.3g}" for name in names)
    by = ""
    if found["mean"] is not None:
        low, high = found["interval"]
        by = f": {found['mean']:+.4f} [{low:+.4f}, {high:+.4f}] nats/token (90%)"
    return (
        f"{point} {numbers['outcome']} the paper's defaults over {found['seeds']} fresh seeds{by}; "
        f"{numbers['trials']} trials, {runs} runs, {numbers['core_minutes']} core-minutes; 32 more trials would gain "
        f"about {numbers['expected_gain']['gain'][-1]:.4f}"
    )
