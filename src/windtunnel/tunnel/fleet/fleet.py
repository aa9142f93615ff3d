"""Many runs at once: what exists is returned, what was interrupted goes on, what is missing is
trained.

Workers are processes, one a core or one a GPU; each trains one run at a time, or kin as members
of a population where that was measured to be faster. The longest runs go first; a branch begins
as soon as its stem has the checkpoint that it leaves.
"""

from collections.abc import Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import DecayShapeName, Mixture, Recipe
from windtunnel.train import checkpoint
from windtunnel.train.branch import branch, go_on
from windtunnel.train.compiled import Compiled
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import Watch, kinship
from windtunnel.train.run import Run, create, open_run
from windtunnel.tunnel.fleet.populations import (
    MOST,
    Book,
    Gains,
    best,
    share,
    told,
    worth_measuring,
)
from windtunnel.tunnel.fleet.workers import workers

_LOOK_EVERY = 0.2  # seconds between looks at the workers
_OVER = ("done", "failed")


class Interrupted(Exception):
    """The study was asked to stop. What has been trained is kept: the same command goes on."""


@dataclass(frozen=True)
class Branch:
    """A run that is wanted from a checkpoint of a stem.

    It leaves at `at` tokens and decays over `decay` tokens; with `decay` 0 it goes on as a stem
    up to `tokens` tokens. `batch` and `lr` hold from there on.
    """

    stem: "Recipe | Branch"
    at: int
    decay: int
    tokens: int = 0
    shape: DecayShapeName = "linear"
    floor: float = 0.0
    mixture: Mixture | None = None
    batch: int | None = None
    lr: float | None = None
    name: str | None = None


def fleet(
    lab: Path, corpus: Corpus, wanted: Sequence[Recipe | Branch], watch: Watch, label: str
) -> list[Run]:
    """The run of each, in the same order: done, or failed and so recorded. A branch whose stem
    failed before it comes back as that stem. Raises Interrupted.
    """
    plan = _Plan(lab, corpus)
    tasks = [plan.task(one) for one in wanted]
    plan.open_stems()
    if not all(task.over() for task in plan.tasks):
        _train_missing(plan, watch, label)
    return [task.result() for task in tasks]


@dataclass(eq=False)
class _Task:
    """One wanted run; `run` is known once it can be created."""

    wanted: Recipe | Branch
    stem: "_Task | None"
    points: set[int] = field(default_factory=set)  # where branches leave it
    run: Run | None = None

    def over(self) -> bool:
        if self.run is None:
            return self.stem is not None and self.stem.failed_before(self.at)
        return self.run.status()["status"] in _OVER

    def failed_before(self, at: int) -> bool:
        if self.run is None:
            return self.over()
        return self.run.status()["status"] == "failed" and not self.has(at)

    def has(self, at: int) -> bool:
        return self.run is not None and at in checkpoint.positions(self.run.checkpoints)

    @property
    def at(self) -> int:
        return self.wanted.at if isinstance(self.wanted, Branch) else 0

    def result(self) -> Run:
        if self.run:
            return open_run(self.run.path)
        assert self.stem
        return self.stem.result()


class _Plan:
    """The tasks of a fleet, stems among them, each once."""

    def __init__(self, lab: Path, corpus: Corpus) -> None:
        self.lab, self.corpus = lab, corpus
        self._by_key: dict[Any, _Task] = {}

    @property
    def tasks(self) -> list[_Task]:
        return list(self._by_key.values())

    def task(self, wanted: Recipe | Branch) -> _Task:
        if isinstance(wanted, Recipe):
            run = create(self.lab, wanted, self.corpus)
            return self._by_key.setdefault(run.path, _Task(wanted, None, run=run))
        stem = self.task(wanted.stem)
        stem.points.add(wanted.at)
        fields = tuple(repr(value) for value in astuple(wanted)[1:])
        return self._by_key.setdefault((id(stem), fields), _Task(wanted, stem))

    def open_stems(self) -> None:
        """Tell the stems where their branches leave."""
        for task in self.tasks:
            if isinstance(task.wanted, Recipe) and task.points:
                asked = task.wanted.change(train={"branch_points": sorted(task.points)})
                task.run = create(self.lab, asked, self.corpus)
        self.open_branches()

    def open_branches(self) -> None:
        """Create the branches whose stems have come to where they leave."""
        for task in self.tasks:
            if (
                task.run is None
                and task.stem
                and task.stem.run
                and self._can_leave(task.stem, task.at)
            ):
                task.run = self._leave(task)

    def _can_leave(self, stem: _Task, at: int) -> bool:
        return stem.has(at) or (stem.run is not None and stem.run.status()["status"] == "done")

    def _leave(self, task: _Task) -> Run:
        asked, stem = task.wanted, task.stem and task.stem.run
        assert isinstance(asked, Branch) and stem
        if asked.decay:
            return branch(
                stem,
                self.corpus,
                asked.at,
                asked.decay,
                asked.shape,
                asked.floor,
                asked.mixture,
                asked.batch,
                asked.lr,
                asked.name,
            )
        return go_on(
            stem,
            self.corpus,
            asked.at,
            asked.tokens,
            asked.batch,
            asked.lr,
            sorted(task.points),
            asked.name,
        )

    def waiting(self) -> list[_Task]:
        """Tasks that could be trained now, those with most work first."""
        self.open_branches()
        return sorted(
            (t for t in self.tasks if t.run and not t.over()), key=_work_left, reverse=True
        )


def _work_left(task: _Task) -> float:
    """FLOPs, as far as the schedule goes."""
    if task.over():
        return 0.0
    recipe = _recipe_of(task)
    length = (
        task.wanted.at + (task.wanted.decay or task.wanted.tokens - task.wanted.at)
        if isinstance(task.wanted, Branch)
        else recipe.total_tokens
    )
    reached = max(task.at, task.run.status()["tokens"] if task.run else 0)
    return float(flops_per_token(recipe.model, recipe.data.context) * max(0, length - reached))


def _recipe_of(task: _Task) -> Recipe:
    wanted = task.wanted
    while isinstance(wanted, Branch):
        wanted = wanted.stem
    return wanted


def _train_missing(plan: _Plan, watch: Watch, label: str) -> None:
    """Train until every task is over."""
    team = _Team(plan, watch, label)
    total = sum(map(_work_left, plan.tasks))
    missing = sum(not task.over() for task in plan.tasks)
    watch.say(
        f"{label}: {missing} of {len(plan.tasks)} runs to train on {team.workers.count} workers"
    )
    try:
        while team.busy or any(not task.over() for task in plan.tasks):
            if watch.stop():
                team.workers.stop.set()
            if team.workers.stop.is_set():
                if not team.busy:
                    raise Interrupted
            else:
                team.begin()
            team.look()
            finished = sum(task.over() for task in plan.tasks)
            watch.show(label, min(total, team.done), total, f"{finished} of {len(plan.tasks)} runs")
    finally:
        team.leave()
    watch.show(label, total, total, "")
    for task in plan.tasks:
        if task.run and (reason := task.run.status().get("reason")):
            watch.say(f"{label}: {task.run.id} {task.run.recipe.name} failed: {reason}")


class _Team:
    """The workers, and what each is at: tasks that it trains, or kin of which it measures how
    best to train them.
    """

    def __init__(self, plan: _Plan, watch: Watch, label: str) -> None:
        self.workers = workers()
        self._plan, self._watch, self._label = plan, watch, label
        self._book = Book(plan.lab, self.workers.machine)
        self._gains: dict[Hashable, Gains] = {}
        self._training: dict[Future[None], list[_Task]] = {}
        self._measuring: dict[Future[Gains], tuple[Hashable, Recipe]] = {}
        self._progress: dict[str, float] = {}
        self._compiled: dict[int, Compiled] = dict(_compiled_before)

    @property
    def busy(self) -> bool:
        return bool(self._training or self._measuring)

    @property
    def _futures(self) -> list[Future[Any]]:
        return [*self._training, *self._measuring]

    @property
    def done(self) -> float:
        """FLOPs."""
        return sum(self._progress.values())

    def begin(self) -> None:
        """Give every free worker something to do."""
        free = self.workers.count - len(self._training) - len(self._measuring)
        if free <= 0:
            return
        taken = {task for tasks in self._training.values() for task in tasks}
        waiting = {task: kinship(_run(task)) for task in self._plan.waiting() if task not in taken}
        while free and waiting:
            kin = next(iter(waiting.values()))
            group = [task for task, its in waiting.items() if its == kin]
            if self._wants_measurement(kin, group):
                recipe = _run(group[0]).recipe
                self._measuring[
                    self.workers.measure(recipe, share(len(group), self.workers.count, MOST))
                ] = kin, recipe
            else:
                members = group[
                    : share(len(group), self.workers.count, best(self._gains.get(kin, {1: 1.0})))
                ]
                self._training[
                    self.workers.train([_run(task) for task in members], self._plan.corpus)
                ] = members
                for task in members:
                    del waiting[task]
            free -= 1

    def look(self) -> None:
        """See who has finished, and how far the others are."""
        for future in wait(self._futures, _LOOK_EVERY, FIRST_COMPLETED).done:
            tasks = self._training.pop(future, None)
            result = _finish(future, tasks[0] if tasks else None)
            if tasks is None:
                self._take_note(*self._measuring.pop(future), result)
        self._collect()

    def _collect(self) -> None:
        while not self.workers.reports.empty():
            key, value = self.workers.reports.get()
            (self._compiled if isinstance(value, Compiled) else self._progress)[key] = value

    def leave(self) -> None:
        """Nobody will look at what still trains: it is saved."""
        self.workers.stop.set()
        wait(self._futures)
        self.workers.stop.clear()
        self._collect()
        new = sum(
            (
                now - _compiled_before.get(process, Compiled())
                for process, now in self._compiled.items()
            ),
            Compiled(),
        )
        _compiled_before.update(self._compiled)
        if new != Compiled():
            self._watch.say(f"{self._label}: {new}")

    def _wants_measurement(self, kin: Hashable, group: list[_Task]) -> bool:
        under_way = any(kin == other for other, _ in self._measuring.values())
        if kin in self._gains or under_way or len(group) <= self.workers.count:
            return False
        recipe = _run(group[0]).recipe
        if found := self._book.find(recipe):
            self._gains[kin] = found
            return False
        return worth_measuring([_run(task) for task in group], choose_engine(recipe).device)

    def _take_note(self, kin: Hashable, recipe: Recipe, gains: Gains) -> None:
        if not self.workers.stop.is_set():  # else it was cut short
            self._gains[kin] = gains
            self._book.write(recipe, gains)
            self._watch.say(f"{self._label}: {told(gains)}")


_compiled_before: dict[int, Compiled] = {}  # by process, at the end of the last fleet: workers stay


def _run(task: _Task) -> Run:
    assert task.run
    return task.run


def _finish(future: "Future[Any]", task: _Task | None) -> Any:
    """What the worker gives back. Raises what ended its work, other than a run's own failure."""
    try:
        return future.result()
    except BrokenProcessPool:
        workers.cache_clear()
        where = task.run.path if task and task.run else "the fleet"
        raise InputError(
            f"{where}: a worker process was killed (is there enough memory?); the same command goes on from here"
        ) from None
