"""Many runs at once: what exists is returned, what was interrupted goes on, what is missing is
trained.

Workers are processes, one a core or one a GPU. Each trains one run at a time, or several as
members of a population where that was measured to be faster. The longest runs go first; a branch
begins as soon as its stem has the checkpoint that it leaves.
"""

import time
from collections.abc import Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Populations, Speedups
from windtunnel.train.compiled import Compiled
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import Watch, population_key
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.populations import (
    MOST,
    described,
    fastest,
    population_size,
    shape_name,
    worth_measuring,
)
from windtunnel.tunnel.fleet.tasks import Branch, Task, Tasks
from windtunnel.tunnel.fleet.workers import workers

__all__ = ["Branch", "Interrupted", "fleet"]

_LOOK_EVERY = 0.2  # seconds between looks at the workers
# and between looks at the folders of the runs, whose stems may have come to where a branch leaves
_READ_EVERY = 2.0


class Interrupted(Exception):
    """The study was asked to stop. What has been trained is kept: the same command goes on."""


def fleet(
    lab: Path, corpus: Corpus, wanted: Sequence[Recipe | Branch], watch: Watch, label: str
) -> list[Run]:
    """The run of each, in the same order: done, or failed and so recorded. A branch whose stem
    failed before it comes back as that stem.

    `label` names the fleet where it says something to `watch`. Raises Interrupted where `watch`
    asks to stop, and InputError for what can't be trained as asked.
    """
    tasks = Tasks(lab, corpus)
    asked = [tasks.add(one) for one in wanted]
    for line in tasks.unvalidated:
        watch.say(f"{label}: {line}")
    tasks.open_stems()
    if not all(task.over() for task in tasks.all):
        _train_missing(tasks, watch, label)
    return [task.result() for task in asked]


def _train_missing(tasks: Tasks, watch: Watch, label: str) -> None:
    """Train until every task is over."""
    dispatcher = _Dispatcher(tasks, watch, label)
    stop = dispatcher.workers.stop
    # in FLOPs: runs of a study differ in size and length, so their number says little of the time
    total = sum(task.work_left() for task in tasks.all)
    finished = sum(task.over() for task in tasks.all)
    watch.say(
        f"{label}: {len(tasks.all) - finished} of {len(tasks.all)} runs to train on "
        f"{dispatcher.workers.count} workers"
    )
    changed = True
    try:
        while dispatcher.busy or finished < len(tasks.all):
            if watch.stop():
                stop.set()
            # once asked to stop, the workers save what they train and hand it back
            if stop.is_set() and not dispatcher.busy:
                raise Interrupted
            if changed and not stop.is_set():
                dispatcher.dispatch()
            changed = dispatcher.look()
            if changed:
                finished = sum(task.over() for task in tasks.all)
            done = min(total, dispatcher.done)
            watch.show(label, done, total, f"{finished} of {len(tasks.all)} runs")
    finally:
        dispatcher.close()
    watch.show(label, total, total, "")
    for task in tasks.all:
        if task.run and (reason := task.run.status().reason):
            watch.say(f"{label}: {task.run.id} {task.run.recipe.name} failed: {reason}")


class _Dispatcher:
    """Gives tasks to workers, and knows what each worker does: it trains some, or measures how
    many to train together.
    """

    def __init__(self, tasks: Tasks, watch: Watch, label: str) -> None:
        self.workers = workers()
        self._tasks = tasks
        self._watch = watch
        self._label = label
        # measured speedups by what a population's runs have in common
        self._speedups: dict[Hashable, Speedups] = {}
        self._training: dict[Future[None], list[Task]] = {}
        self._measuring: dict[Future[Speedups], tuple[Hashable, Recipe]] = {}
        self._progress: dict[str, float] = {}  # FLOPs by run
        self._compiled: dict[int, Compiled] = dict(_compiled_before)
        self._looked = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether any worker is at work."""
        return bool(self._futures)

    @property
    def done(self) -> float:
        """FLOPs that this fleet has trained."""
        return sum(self._progress.values())

    @property
    def _futures(self) -> list[Future[Any]]:
        return [*self._training, *self._measuring]

    def dispatch(self) -> None:
        """Give every free worker something to do."""
        free = self.workers.count - len(self._futures)
        if free <= 0:
            return
        waiting = self._waiting()
        while free and waiting:
            # The task with most work, and all that could train together with it: the longest run
            # decides when the study ends, so it must not wait.
            key = next(iter(waiting.values()))
            alike = [task for task, other in waiting.items() if other == key]
            if self._wants_measurement(key, alike):
                self._measure(key, alike)
            else:
                for task in self._train(key, alike):
                    del waiting[task]
            free -= 1

    def look(self) -> bool:
        """See which workers have finished, and how far the others are. Returns whether the folders
        of the runs may have anything new to say: reading them all takes more than looking here.
        """
        finished = wait(self._futures, _LOOK_EVERY, FIRST_COMPLETED).done
        for future in finished:
            if future in self._training:
                members = self._training.pop(future)
                _result(future, str(members[0].begun.path))
            else:
                key, recipe = self._measuring.pop(future)
                self._take_note(key, recipe, _result(future, "the fleet"))
        self._collect()
        if not finished and time.monotonic() < self._looked + _READ_EVERY:
            return False
        self._looked = time.monotonic()
        return True

    def close(self) -> None:
        """Have what still trains saved, since nobody will look at it any more, and say what was
        compiled.
        """
        self.workers.stop.set()
        wait(self._futures)
        # the workers stay for the next fleet
        self.workers.stop.clear()
        self._collect()
        # what this fleet has compiled: workers report all that they ever have
        new = Compiled()
        for process, now in self._compiled.items():
            new += now - _compiled_before.get(process, Compiled())
        _compiled_before.update(self._compiled)
        if new != Compiled():
            self._watch.say(f"{self._label}: {new}")

    def _waiting(self) -> dict[Task, Hashable]:
        """Tasks that no worker has, those with most work first, by what they need in common with
        others to train together.
        """
        taken = set[Task]().union(*self._training.values())
        free = [task for task in self._tasks.waiting() if task not in taken]
        return {task: population_key(task.begun) for task in free}

    def _train(self, key: Hashable, alike: list[Task]) -> list[Task]:
        """Have a worker train the next population of those alike, or a single run; which ones."""
        most = fastest(self._speedups.get(key, {1: 1.0}))
        members = alike[: population_size(len(alike), self.workers.count, most)]
        future = self.workers.train([task.begun for task in members], self._tasks.corpus)
        self._training[future] = members
        return members

    def _measure(self, key: Hashable, alike: list[Task]) -> None:
        """Have a worker measure how many of those alike to train together."""
        recipe = alike[0].begun.recipe
        most = population_size(len(alike), self.workers.count, MOST)
        self._measuring[self.workers.measure(recipe, most)] = key, recipe

    def _wants_measurement(self, key: Hashable, alike: list[Task]) -> bool:
        # With fewer runs than workers each is best alone.
        under_way = any(key == other for other, _ in self._measuring.values())
        if key in self._speedups or under_way or len(alike) <= self.workers.count:
            return False
        recipe = alike[0].begun.recipe
        known = Populations.of(self._tasks.lab).find(self.workers.machine, shape_name(recipe))
        if known:
            self._speedups[key] = known
            return False
        return worth_measuring([task.begun for task in alike], choose_engine(recipe).device)

    def _take_note(self, key: Hashable, recipe: Recipe, speedups: Speedups) -> None:
        if self.workers.stop.is_set():  # the measurement was cut short
            return
        self._speedups[key] = speedups
        # read anew: another study may have measured meanwhile
        known = Populations.of(self._tasks.lab)
        known.write_with(self._tasks.lab, self.workers.machine, shape_name(recipe), speedups)
        self._watch.say(f"{self._label}: {described(speedups)}")

    def _collect(self) -> None:
        """Read what the workers have reported since the last time."""
        while not self.workers.reports.empty():
            key, value = self.workers.reports.get()
            if isinstance(value, Compiled):
                self._compiled[key] = value
            else:
                self._progress[key] = value


# By process, at the end of the last fleet: workers stay from one fleet to the next.
_compiled_before: dict[int, Compiled] = {}


def _result(future: "Future[Any]", what: str) -> Any:
    """What the worker gives back. Raises what ended its work, other than a run's own failure."""
    try:
        return future.result()
    except BrokenProcessPool:
        workers.cache_clear()
        raise InputError(
            f"{what}: a worker process was killed (is there enough memory?); "
            "the same command goes on from here"
        ) from None
