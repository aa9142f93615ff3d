"""Which learning rate, scale_depth, scale_emb and init_std are best, jointly, on a small shape? A
Bayesian search as in the paper (section A.1), whose winner is what the surface through all runs
says, not the luckiest run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import t as student

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import count
from windtunnel.recipe import RESULTS_VERSION, Recipe
from windtunnel.results.search import (
    SEARCH,
    Candidate,
    Chosen,
    ExpectedGain,
    PairedDifference,
    PaperPoint,
    SearchNoise,
    SearchNumbers,
    SearchRow,
    SettingBowl,
    SettingRange,
    Tried,
)
from windtunnel.results.study import Verdict, write_study
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.fleet import fleet
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.search.design import Design
from windtunnel.tunnel.search.space import Octaves, SearchPoint, Space, changes, space
from windtunnel.tunnel.search.surface import (
    Surface,
    TrialNoise,
    expected_gain,
    fit_surface,
    importances,
    noise_of,
    profiles,
)
from windtunnel.tunnel.search.trials import SAMPLER, Outcome, Trials, open_trials, worst_loss
from windtunnel.tunnel.study import core_minutes, final_loss, ids, rows_at_end

LEVEL = 0.9
_FEWEST_STEPS = 400
_TOKENS_A_PARAMETER = 10  # the paper's; its pilot ranked alike at 20
_APART = 0.25  # octaves, in some setting, between candidates
_MORE_BATCHES = 3  # of trials, in a space that was widened at the last
_MORE = (1, 2, 4, 8, 16, 32)  # further trials whose gain is estimated

Role = Literal["trial", "candidate", "chosen", "paper"]


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """One run of the search: what it was for, and the trial whose point it has."""

    run: Run
    point: SearchPoint
    role: Role
    trial: int
    loss: float | None  # nats/token; None where it diverged

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.recipe.seed


def search(
    lab: Path, corpus: Corpus, design: Design, watch: Watch, storage: str | None = None
) -> Path:
    """Run the study, or what is missing of it; returns its folder. Where the best point so far lies
    at an end of the space, the space is widened there, and trials are added. `storage`: any URL
    that Optuna takes, by default the study's own SQLite file. Raises InputError where no trial
    comes to its end.
    """
    work = _Search(lab, corpus, design, watch)
    work.carry_out(_open(lab, corpus, design, storage))
    candidates = work.candidates()
    work.again(candidates, "candidate", design.choosing, "best trials, new seeds")
    noise = work.noise()
    # by which is chosen; the runs of the comparison have no part in it
    choice = surface_of(work.runs, work.space, noise)
    best = choose(choice, work.space.octaves([one.point for one in candidates]))
    chosen = candidates[best]
    work.again([chosen], "chosen", design.comparing, "the chosen point, new seeds")
    work.paper()
    numbers = work.numbers(candidates, chosen, choice, noise)
    distinct = work.distinct()
    verdict, summary = judge(numbers, len(distinct))
    return write_study(
        lab,
        SEARCH,
        rows=work.rows(),
        verdict=verdict,
        summary=summary,
        numbers=numbers,
        runs=ids(distinct),
    )


class _Search:
    """The runs of a search so far, in the order in which they were asked for."""

    def __init__(self, lab: Path, corpus: Corpus, design: Design, watch: Watch) -> None:
        self.lab, self.corpus, self.design, self.watch = lab, corpus, design, watch
        self.space = space(design.also)
        self.tokens = length(corpus, design)
        self.runs: list[TrialRun] = []

    def carry_out(self, trials: Trials) -> None:
        """Every trial, batch by batch, in a space that is widened wherever the best point so far
        lies at its end; and a few batches more where it still did at the last. Raises InputError
        where all of them diverge.
        """
        widened = False
        for first, end in self.design.batches():
            widened = self._batch(trials, first, end)
        if all(one.loss is None for one in self.runs):
            raise InputError(
                f"search: all {self.design.trials} trials diverged; expected at least one to come "
                "to its end"
            )
        # runs too short for a verdict want ever higher rates: no money is spent on following them
        for _ in range(_MORE_BATCHES if self.tokens >= _FEWEST_STEPS * self.design.batch else 0):
            if not widened:
                return
            end = len(self.runs)
            widened = self._batch(trials, end, end + self.design.batch_trials)

    def _batch(self, trials: Trials, first: int, end: int) -> bool:
        """Ask for trials, train and tell them; whether the space is wider afterwards."""
        points = replace(trials, space=self.space).ask(end)[first:]
        numbered = list(zip(points, range(first, end), strict=True))
        label = f"trials {first + 1} to {end} of {max(end, self.design.trials)}"
        self._train(numbered, "trial", [self.design.seed], label)
        trials.tell(first, [_outcome(one) for one in self.runs[first:]])
        before, self.space = self.space, self._wider()
        return self.space != before

    def _wider(self) -> Space:
        """The space, wider where the trial of least posterior mean lies at an end of it."""
        ended = [one.point for one in self.runs if one.loss is not None]
        if not ended:
            return self.space
        tried = self.space.octaves(ended)
        return self.space.wider(tried[choose(surface_of(self.runs, self.space), tried)])

    def candidates(self) -> list[TrialRun]:
        """The trials that run again: those of least posterior mean."""
        ended = [one for one in self.runs if one.loss is not None]
        surface = surface_of(self.runs, self.space)
        tried = self.space.octaves([one.point for one in ended])
        return [ended[i] for i in pick(surface, tried, self.design.candidates)]

    def again(
        self, trials: Sequence[TrialRun], role: Role, seeds: Sequence[int], label: str
    ) -> None:
        """Run the points of these trials with other seeds."""
        self._train([(one.point, one.trial) for one in trials], role, seeds, label)

    def paper(self) -> None:
        """Run the paper's point, which is the first trial's, with the seeds of the comparison."""
        label = "the paper's point, new seeds"
        self._train([(self.space.defaults, 0)], "paper", self.design.comparing, label)

    def _train(
        self,
        points: Iterable[tuple[SearchPoint, int]],
        role: Role,
        seeds: Sequence[int],
        label: str,
    ) -> None:
        """Run points, each with the number of its trial, with every seed."""
        wanted = [(point, trial, seed) for point, trial in points for seed in seeds]
        recipes = [self._recipe(point, seed) for point, _, seed in wanted]
        found = fleet(self.lab, self.corpus, recipes, self.watch, f"search: {label}", SEARCH)
        for run, (point, trial, _) in zip(found, wanted, strict=True):
            loss = final_loss(run)
            self.runs.append(TrialRun(run=run, point=point, role=role, trial=trial, loss=loss))

    def _recipe(self, point: SearchPoint, seed: int) -> Recipe:
        design = self.design
        sections = changes(point, self.tokens, design.batch)
        sections["train"] = {"batch": design.batch, **design.train}
        sections["optimizer"] = sections.get("optimizer", {}) | {"kind": design.optimizer}
        values = "-".join(f"{value:.3g}" for value in point.values())
        return proxy(
            self.corpus,
            design.width,
            design.depth,
            self.tokens,
            name=f"search-{design.width}x{design.depth}-{values}",
            seed=seed,
            **sections,
        )

    def noise(self) -> TrialNoise | None:
        """From the candidates that came to their end with every seed; None where they can't tell
        it.
        """
        losses: dict[int, list[float]] = {}
        for one in self.runs:
            if one.role == "candidate" and one.loss is not None:
                losses.setdefault(one.trial, []).append(one.loss)
        seeds = len(self.design.choosing)
        return noise_of([found for found in losses.values() if len(found) == seeds])

    def losses(self, role: Role, trial: int | None = None) -> tuple[float | None, ...]:
        """Losses of runs of one role, and of one trial where it is given."""
        here = [one for one in self.runs if one.role == role]
        return tuple(one.loss for one in here if trial is None or one.trial == trial)

    def distinct(self) -> list[Run]:
        """Every run once: the paper's point may be the chosen one."""
        return list({one.run.id: one.run for one in self.runs}.values())

    def rows(self) -> list[SearchRow]:
        """The study's table."""
        rows = []
        for one in self.runs:
            rows += rows_at_end(
                SearchRow,
                one.run,
                one.role,
                trial=one.trial,
                width=self.design.width,
                depth=self.design.depth,
                batch=self.design.batch,
                point=one.point,
            )
        return rows

    def numbers(
        self,
        candidates: Sequence[TrialRun],
        chosen: TrialRun,
        choice: Surface,
        noise: TrialNoise | None,
    ) -> SearchNumbers:
        """What was found. `choice` is the surface by which was chosen, `noise` what was measured of
        it.
        """
        design, where = self.design, self.space
        found = compare(self.losses("chosen"), self.losses("paper"))
        surface = surface_of(self.runs, where, noise)
        at = where.octaves([chosen.point])[0]
        known = noise or surface.noise
        shares = importances(surface, where)
        return SearchNumbers(
            corpus=self.corpus.folder.name,
            width=design.width,
            depth=design.depth,
            optimizer=design.optimizer,
            tokens=self.tokens,
            batch=design.batch,
            sampler=SAMPLER,
            trials=len(self.losses("trial")),
            seed=design.seed,
            failed=self.losses("trial").count(None),
            settings={
                each.name: SettingRange(
                    low=each.low, high=each.high, paper=each.default, searched=each.label
                )
                for each in where.settings
            },
            chosen=Chosen(point=chosen.point, trial=chosen.trial, losses=self.losses("chosen")),
            defaults=PaperPoint(point=where.defaults, losses=self.losses("paper")),
            difference=PairedDifference(
                mean=found.mean, interval=found.interval, seeds=design.fresh_seeds
            ),
            outcome=found.outcome if self.tokens >= _FEWEST_STEPS * design.batch else None,
            edges=where.edges(at),
            luckiest=self._luckiest(),
            candidates=tuple(self._candidate(one, choice) for one in candidates),
            noise=SearchNoise(seed=known.seed, run=known.run, measured=noise is not None),
            bowls=_bowls(surface, where, at),
            importances=dict(zip(where.names, shares, strict=True)),
            expected_gain=ExpectedGain(
                trials=_MORE, gain=tuple(expected_gain(surface, where, at, _MORE))
            ),
            core_minutes=core_minutes(self.distinct()),
        )

    def _luckiest(self) -> Tried:
        trials = [one for one in self.runs if one.role == "trial" and one.loss is not None]
        best = min(trials, key=lambda one: one.loss or 0.0)
        return Tried(point=best.point, trial=best.trial, loss=best.loss)

    def _candidate(self, one: TrialRun, choice: Surface) -> Candidate:
        height = float(choice.mean(self.space.octaves([one.point]))[0])
        return Candidate(
            point=one.point,
            trial=one.trial,
            trial_loss=one.loss,
            losses=self.losses("candidate", one.trial),
            posterior_mean=choice.loss(height),
        )


def length(corpus: Corpus, design: Design) -> int:
    """Tokens of each run: as given, or by the model's size."""
    params = count(proxy(corpus, design.width, design.depth).model).params
    steps = max(_FEWEST_STEPS, round(_TOKENS_A_PARAMETER * params / design.batch))
    return design.tokens or steps * design.batch


def surface_of(runs: Sequence[TrialRun], where: Space, noise: TrialNoise | None = None) -> Surface:
    """Through every run; one that diverged as high as the worst that did not."""
    worst = worst_loss([one.loss for one in runs])
    losses = [worst if one.loss is None else one.loss for one in runs]
    points = where.octaves([one.point for one in runs])
    return fit_surface(points, losses, [one.seed for one in runs], noise)


def pick(surface: Surface, tried: Octaves, number: int) -> list[int]:
    """Which of the tried points have the least posterior mean, best first, no two of them closer
    than a quarter octave in every setting. `tried`: (points, settings).
    """
    picked: list[int] = []
    for i in np.argsort(surface.mean(tried), kind="stable").tolist():
        apart = [np.abs(tried[i] - tried[j]).max() for j in picked]
        if len(picked) < number and min(apart, default=_APART) >= _APART:
            picked.append(i)
    return picked


def choose(surface: Surface, candidates: Octaves) -> int:
    """The one of (points, settings) with the least posterior mean given all its runs."""
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
    """Losses with the same seeds, paired by position. What diverges with fewer seeds is better."""
    failures = chosen.count(None) - paper.count(None)
    if failures:
        return Comparison("loses" if failures > 0 else "beats", None, None)
    pairs = [c - p for c, p in zip(chosen, paper, strict=True) if c is not None and p is not None]
    if len(pairs) < 2:
        return Comparison("ties", None, None)
    mean = float(np.mean(pairs))
    error = float(np.std(pairs, ddof=1)) / len(pairs) ** 0.5
    reach = float(student.ppf((1 + LEVEL) / 2, len(pairs) - 1)) * error
    low, high = mean - reach, mean + reach
    outcome = "beats" if high < 0 else "loses" if low > 0 else "ties"
    return Comparison(outcome, mean, (low, high))


def _open(lab: Path, corpus: Corpus, design: Design, storage: str | None) -> Trials:
    folder = SEARCH.folder(lab)
    if storage is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: could not be made: {error.strerror}") from None
    tokens = length(corpus, design)
    # a search with another of these is another search, with trials of its own
    what = [
        corpus.digest,
        RESULTS_VERSION,
        design.width,
        design.depth,
        design.optimizer,
        tokens,
        design.batch,
        design.batch_trials,
        dict(design.train),
    ]
    return open_trials(
        storage or f"sqlite:///{(folder / 'optuna.db').resolve()}",
        space(design.also),
        design.start,
        design.seed,
        f"{corpus.folder.name} {design.width}x{design.depth} {tokens}",
        what,
    )


def _outcome(one: TrialRun) -> Outcome:
    return Outcome(one.run.id, one.loss, one.run.status().reason)


def _bowls(surface: Surface, where: Space, chosen: np.ndarray) -> dict[str, SettingBowl]:
    """By setting; `chosen` (settings,) in octaves."""
    bowls = {}
    for setting, profile in zip(where.settings, profiles(surface, where, chosen), strict=True):
        ends = sorted(setting.rounded(2**x) for x in profile.best)
        bowls[setting.name] = SettingBowl(
            value=tuple(setting.rounded(2.0**x) for x in profile.octaves),
            above=tuple(mean for mean, _, _ in profile.above),
            low=tuple(low for _, low, _ in profile.above),
            high=tuple(high for _, _, high in profile.above),
            best=(ends[0], ends[1]),
        )
    return bowls


def judge(numbers: SearchNumbers, runs: int) -> tuple[Verdict, str]:
    """The verdict and one sentence. `runs`: how many there were. A search whose runs are too short
    to tell a rate that is good from one that is fast has no verdict, and says so.
    """
    found = numbers.difference
    point = ", ".join(f"{name} {value:.3g}" for name, value in numbers.chosen.point.items())
    if numbers.chosen.point == numbers.defaults.point:
        against = (
            f"the paper's defaults stay ({point}): nothing that was tried is expected to beat them"
        )
    else:
        against = (
            f"{point} {numbers.outcome or 'against'} the paper's defaults over {found.seeds} fresh "
            "seeds"
        )
        if found.mean is not None and found.interval is not None:
            low, high = found.interval
            against += f": {found.mean:+.4f} [{low:+.4f}, {high:+.4f}] nats/token (90%)"
    parts = [
        against,
        *(_at_edge(numbers, name) for name in numbers.edges),
        f"{numbers.trials} trials, {runs} runs, {numbers.core_minutes} core-minutes",
        f"{_MORE[-1]} more trials would gain about {numbers.expected_gain.gain[-1]:.4f}",
    ]
    if numbers.outcome is None:
        steps = numbers.tokens // numbers.batch
        parts.append(
            f"runs of {steps} steps are too short for a verdict, which needs {_FEWEST_STEPS}"
        )
        return None, "; ".join(parts)
    return ("fail" if numbers.outcome == "loses" else "pass"), "; ".join(parts)


def _at_edge(numbers: SearchNumbers, name: str) -> str:
    """What to say of a setting whose chosen value lies at an end of what was searched."""
    searched, edge = numbers.settings[name], numbers.edges[name]
    end = searched.low if edge == "low" else searched.high
    side = "lower" if edge == "low" else "upper"
    return (
        f"{name} lies at the {side} end of what was searched ({searched.searched} {end:.3g}), so a "
        "better one may lie beyond"
    )
