"""Many runs at once: what exists is returned, what was interrupted goes on, what is missing is
trained.

Workers are processes of this machine, or actors of a Ray cluster, one a core or one a GPU. Each
trains one run at a time, or several as members of a population where that was measured to be
faster. The longest runs go first; a branch begins as soon as its stem has the checkpoint that it
leaves. What a worker had that died goes on in another.
"""

import time
from collections.abc import Hashable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Populations, Speedups
from windtunnel.results.run import RunStatus
from windtunnel.results.study import Experiment
from windtunnel.train.compiled import Compiled
from windtunnel.train.loop import Watch, population_key
from windtunnel.train.owner import BEAT, Lease, disown, renew
from windtunnel.train.run import Busy, Run
from windtunnel.tunnel.fleet.jobs import Measurement, Progress, Training
from windtunnel.tunnel.fleet.losses import Losses
from windtunnel.tunnel.fleet.populations import (
    MOST,
    described,
    fastest,
    population_size,
    shape_name,
    worth_measuring,
)
from windtunnel.tunnel.fleet.tasks import Branch, Task, Tasks
from windtunnel.tunnel.fleet.where import workers
from windtunnel.tunnel.fleet.workers import Finished, Worker

__all__ = ["Branch", "Interrupted", "fleet"]

_LOOK_EVERY = 0.2  # seconds between looks at the workers
_WAIT_BUSY = 1.0  # and between looks at a run that somebody else trains


class Interrupted(Exception):
    """The study was asked to stop. What has been trained is kept: the same command goes on."""


def fleet(
    lab: Path,
    corpus: Corpus,
    wanted: Sequence[Recipe | Run | Branch],
    watch: Watch,
    label: str,
    study: Experiment[Any, Any] | None = None,
) -> list[Run]:
    """The run of each, in the same order: done, or failed and so recorded. A branch whose stem
    failed before it comes back as that stem.

    `label` names the fleet where it says something to `watch`; `study`: by which the lab keeps in
    mind, before anything is trained, that these runs are wanted. Raises Interrupted where `watch`
    asks to stop, and InputError for what can't be trained as asked.
    """
    tasks = Tasks(lab, corpus, study)
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
    # in FLOPs: runs of a study differ in size and length, so their number says little of the time
    total = sum(task.work_left() for task in tasks.all)
    finished = sum(task.over() for task in tasks.all)
    stopping = False
    try:
        dispatcher.begin(f"{len(tasks.all) - finished} of {len(tasks.all)}")
        changed = True
        while dispatcher.busy or finished < len(tasks.all):
            stopping = stopping or watch.stop()
            if stopping:
                dispatcher.workers.stop()
                # they save what they train and hand it back
                if not dispatcher.busy:
                    raise Interrupted
            elif changed:
                dispatcher.dispatch()
            changed = dispatcher.look()
            if changed:
                finished = sum(task.over() for task in tasks.all)
            done = min(total, dispatcher.done)
            note = f"{finished} of {len(tasks.all)} runs{dispatcher.waits_for}"
            watch.show(label, done, total, note)
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
        # measured speedups by the kind of device, and by what a population's runs have in common
        self._speedups: dict[Hashable, Speedups] = {}
        self._training: dict[Training, list[Task]] = {}
        self._measuring: dict[Measurement, tuple[str, Hashable]] = {}
        self._progress: dict[str, float] = {}  # FLOPs by run
        self._trained = 0.0  # FLOPs of jobs that are over
        self._compiled = Compiled()
        self._losses = Losses()
        self._owned: dict[Task, Lease] = {}
        self._renewed = time.monotonic()
        self._elsewhere = set[Task]()  # what somebody else trains
        self._look_again = 0.0

    @property
    def busy(self) -> bool:
        """Whether any worker is at work."""
        return bool(self._training or self._measuring)

    @property
    def done(self) -> float:
        """FLOPs that this fleet has trained."""
        return self._trained + sum(self._progress.values())

    @property
    def waits_for(self) -> str:
        """What keeps the fleet from going on, to say beside how far it has come."""
        if not self.workers.count:
            return ", no worker is left: waiting for one"
        if self._measuring and not self.done:
            return ", measuring how many to train together"
        compiled = any(
            task.recipe.train.compile for them in self._training.values() for task in them
        )
        return ", compiling, once for each size" if compiled and not self.done else ""

    def begin(self, left: str) -> None:
        """Wait for the workers, until asked to stop. `left`: how many runs of how many."""
        self.workers.wait_until_begun(self._watch.stop)
        if self.workers.count:
            self._say(f"{left} runs to train on {self.workers.count} workers")

    def dispatch(self) -> None:
        """Give every free worker something to do."""
        free = self.workers.free
        if not free:
            return
        waiting = self._waiting()
        for worker in free:
            if not waiting:
                return
            # The task with most work, and all that could train together with it: the longest run
            # decides when the study ends, so it must not wait.
            key = next(iter(waiting.values()))
            alike = [task for task, other in waiting.items() if other == key]
            if self._wants_measurement(worker, key, alike):
                self._measure(worker, key, alike)
            else:
                for task in self._train(worker, key, alike):
                    del waiting[task]

    def look(self) -> bool:
        """Hear what has happened. Returns whether there may be anything new to give out: finding
        that out reads the folders of all runs, and takes more than looking here.
        """
        changed = False
        for one in self.workers.news(_LOOK_EVERY):
            if isinstance(one, Progress):
                self._progress[one.run] = one.flops
            elif isinstance(one, Compiled):
                self._compiled += one
            else:
                if isinstance(one, Finished):
                    self._take_back(one)
                changed = True  # a worker is free, or a stem has come to where a branch leaves
        self.workers.check()
        now = time.monotonic()
        if self._owned and now > self._renewed + BEAT:
            self._renewed = now
            for task in self._owned:
                renew(task.begun.path)
        if self._elsewhere and now > self._look_again:
            self._look_again = now + _WAIT_BUSY
            changed = True
        return changed

    def close(self) -> None:
        """Have what still trains saved, since nobody will look at it any more, and say what was
        compiled.
        """
        while self.busy:
            self.workers.stop()
            for one in self.workers.news(_LOOK_EVERY):
                if isinstance(one, Finished):
                    self._forget(one.job)
                elif isinstance(one, Compiled):
                    self._compiled += one
        for task in list(self._owned):
            self._disown(task)
        # the workers stay for the next fleet
        if self._compiled != Compiled():
            self._say(str(self._compiled))

    def _waiting(self) -> dict[Task, Hashable]:
        """Tasks that no worker has, those with most work first, by what they need in common with
        others to train together.
        """
        taken = set[Task]().union(*self._training.values())
        waiting = {}
        for task in self._tasks.waiting():
            if task in taken or self._is_elsewhere(task):
                continue
            # one that has cost a worker takes no other down with it
            alone = task if self._losses.has(task) else None
            waiting[task] = population_key(task.begun), alone
        return waiting

    def _is_elsewhere(self, task: Task) -> bool:
        """Whether somebody else still trains it."""
        if task in self._elsewhere and task.begun.status().status == "running":
            return True
        self._elsewhere.discard(task)
        return False

    def _train(self, worker: Worker, key: Hashable, alike: list[Task]) -> list[Task]:
        """Have a worker train the next population of those alike, or a single run; which tasks wait
        no longer.
        """
        most = fastest(self._speedups.get((worker.kind, key), {1: 1.0}))
        chosen = alike[: population_size(len(alike), self.workers.count, most)]
        members = [task for task in chosen if self._own(task)] if self.workers.owns else chosen
        if members:
            job = Training(
                runs=tuple(task.begun.path for task in members),
                corpus=self._tasks.corpus.folder.resolve(),
                leases=tuple(self._owned[task] for task in members if task in self._owned),
            )
            self._training[job] = members
            self.workers.give(worker, job)
        return chosen

    def _measure(self, worker: Worker, key: Hashable, alike: list[Task]) -> None:
        """Have a worker measure how many of those alike to train together."""
        most = population_size(len(alike), self.workers.count, MOST)
        job = Measurement(recipe=alike[0].begun.recipe, most=most)
        self._measuring[job] = worker.kind, key
        self.workers.give(worker, job)

    def _wants_measurement(self, worker: Worker, key: Hashable, alike: list[Task]) -> bool:
        kind = worker.kind
        # With fewer runs than workers each is best alone.
        under_way = (kind, key) in self._measuring.values()
        if (kind, key) in self._speedups or under_way or len(alike) <= self.workers.count:
            return False
        recipe = alike[0].begun.recipe
        known = Populations.of(self._tasks.lab).find(kind, shape_name(recipe))
        if known:
            self._speedups[kind, key] = known
            return False
        asked = recipe.train.device
        device = worker.device if asked == "auto" else asked
        return worth_measuring([task.begun for task in alike], device)

    def _take_back(self, finished: Finished) -> None:
        """What a worker had. Raises what ended its work, other than a run's own failure."""
        job = finished.job
        if isinstance(job, Measurement):
            self._take_note(job, finished)
            return
        members = self._training[job]
        self._forget(job)
        if finished.outcome is None:
            self._lost(members, finished.reason)
        elif isinstance(finished.outcome.fault, Busy):
            self._leave_to_others(members)
        elif finished.outcome.fault:
            raise finished.outcome.fault
        else:
            self._done(members, finished.outcome.value)

    def _forget(self, job: Training | Measurement) -> None:
        """That a worker has it."""
        if isinstance(job, Measurement):
            self._measuring.pop(job, None)
            return
        for task in self._training.pop(job, ()):
            self._trained += self._progress.pop(task.begun.id, 0.0)

    def _done(self, members: list[Task], statuses: Sequence[RunStatus]) -> None:
        for task, status in zip(members, statuses, strict=True):
            task.hear(status)
            self._disown(task)

    def _leave_to_others(self, members: list[Task]) -> None:
        """Somebody else trains one of them, and wants it too."""
        for task in members:
            self._disown(task)
            self._elsewhere.add(task)

    def _lost(self, members: list[Task], reason: str) -> None:
        """Their worker died: they wait again, and go on from their last checkpoints."""
        names = ", ".join(task.begun.id for task in members)
        self._say(f"a worker was lost ({reason}); back into the queue: {names}")
        for task in members if len(members) == 1 else ():
            if failure := self._losses.count(task, reason):
                self._give_up(task, failure)
        for task in members:
            self._losses.note(task)

    def _give_up(self, task: Task, failure: str) -> None:
        with suppress(Busy), nullcontext() if task in self._owned else task.begun.lock():
            task.begun.write_status("failed", task.saved, reason=failure)
        self._disown(task)

    def _take_note(self, job: Measurement, finished: Finished) -> None:
        kind, key = self._measuring.pop(job)
        outcome = finished.outcome
        if outcome is None:
            self._say(f"a worker was lost while it measured ({finished.reason}): one run at a time")
            self._speedups[kind, key] = {1: 1.0}
            return
        if outcome.fault:
            raise outcome.fault
        if self._watch.stop():  # the measurement was cut short
            return
        self._speedups[kind, key] = outcome.value
        # read anew: another study may have measured meanwhile
        known = Populations.of(self._tasks.lab)
        known.write_with(self._tasks.lab, kind, shape_name(job.recipe), outcome.value)
        self._say(described(outcome.value))

    def _own(self, task: Task) -> bool:
        """Whether the fleet owns its run now, for a worker that is to train it."""
        lease = task.begun.own(self._owned.pop(task, None))
        if lease is None:
            self._elsewhere.add(task)
            return False
        self._owned[task] = lease
        return True

    def _disown(self, task: Task) -> None:
        if lease := self._owned.pop(task, None):
            disown(task.begun.path, lease)

    def _say(self, line: str) -> None:
        self._watch.say(f"{self._label}: {line}")
