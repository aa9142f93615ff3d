"""Many runs at once: what exists is returned, what was interrupted goes on, what is missing is trained.

On a CPU each run has a process and a thread of its own share of the cores, never more threads than cores. The longest
runs go first; a branch begins as soon as its stem has the checkpoint that it leaves.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import DecayShape, Mixture, Recipe
from windtunnel.train import checkpoint
from windtunnel.train.loop import Watch
from windtunnel.train.run import Busy, Run, branch, create, go_on, open_run

_LOOK_EVERY = 0.2  # seconds between looks at the workers
_WAIT_BUSY = 1.0  # seconds between looks at a run that somebody else trains
_SHAPES = 64
_OVER = ("done", "failed")


class Interrupted(Exception):
    """The study was asked to stop. What has been trained is kept: the same command goes on."""


@dataclass(frozen=True)
class Branch:
    """A run that is wanted from a checkpoint of a stem.

    It leaves at `at` tokens and decays over `decay` tokens; with `decay` 0 it goes on as a stem up to `tokens` tokens.
    `batch` and `lr` hold from there on.
    """

    stem: "Recipe | Branch"
    at: int
    decay: int
    tokens: int = 0
    shape: DecayShape = "linear"
    floor: float = 0.0
    mixture: Mixture | None = None
    batch: int | None = None
    lr: float | None = None
    name: str | None = None


def fleet(lab: Path, corpus: Corpus, wanted: Sequence[Recipe | Branch], watch: Watch, label: str) -> list[Run]:
    """The run of each, in the same order: done, or failed and so recorded. A branch whose stem failed before it comes
    back as that stem. Raises Interrupted."""
    plan = _Plan(lab, corpus)
    tasks = [plan.task(one) for one in wanted]
    plan.open_stems()
    if not all(task.over() for task in plan.tasks):
        _train_missing(plan, watch, label)
    return [task.result() for task in tasks]


@dataclass
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
            if task.run is None and task.stem and task.stem.run and self._can_leave(task.stem, task.at):
                task.run = self._leave(task)

    def _can_leave(self, stem: _Task, at: int) -> bool:
        return stem.has(at) or (stem.run is not None and stem.run.status()["status"] == "done")

    def _leave(self, task: _Task) -> Run:
        asked, stem = task.wanted, task.stem and task.stem.run
        assert isinstance(asked, Branch) and stem
        if asked.decay:
            return branch(stem, self.corpus, asked.at, asked.decay, asked.shape, asked.floor, asked.mixture,
                          asked.batch, asked.lr, asked.name)  # fmt: skip
        return go_on(stem, self.corpus, asked.at, asked.tokens, asked.batch, asked.lr, sorted(task.points), asked.name)

    def waiting(self) -> list[_Task]:
        """Tasks that could be trained now, those with most work first."""
        self.open_branches()
        return sorted((t for t in self.tasks if t.run and not t.over()), key=_work_left, reverse=True)


def _work_left(task: _Task) -> float:
    """FLOPs, as far as the schedule goes."""
    if task.over():
        return 0.0
    recipe = _recipe_of(task)
    length = task.wanted.at + (task.wanted.decay or task.wanted.tokens - task.wanted.at) if isinstance(
        task.wanted, Branch) else recipe.total_tokens  # fmt: skip
    reached = max(task.at, task.run.status()["tokens"] if task.run else 0)
    return float(flops_per_token(recipe.model, recipe.data.context) * max(0, length - reached))


def _recipe_of(task: _Task) -> Recipe:
    wanted = task.wanted
    while isinstance(wanted, Branch):
        wanted = wanted.stem
    return wanted


def _train_missing(plan: _Plan, watch: Watch, label: str) -> None:
    """Train until every task is over."""
    workers = _workers()
    total = sum(map(_work_left, plan.tasks))
    missing = sum(not task.over() for task in plan.tasks)
    watch.say(f"{label}: {missing} of {len(plan.tasks)} runs to train, {min(missing, workers.count)} at once")
    progress: dict[str, float] = {}
    futures: dict[Future[None], _Task] = {}
    try:
        while futures or any(not task.over() for task in plan.tasks):
            if watch.stop():
                workers.stop.set()
            if not workers.stop.is_set():
                for task in _begin(plan, futures, workers.count):
                    assert task.run
                    futures[workers.pool.submit(_work, task.run.path, plan.corpus.folder)] = task
            if not futures and workers.stop.is_set():
                raise Interrupted
            for future in wait(futures, _LOOK_EVERY, FIRST_COMPLETED).done:
                _finish(future, futures.pop(future))
            _collect(workers.reports, progress)
            finished = sum(task.over() for task in plan.tasks)
            watch.show(label, min(total, sum(progress.values())), total, f"{finished} of {len(plan.tasks)} runs")
    finally:
        workers.stop.set()  # nobody will look at what still trains
        wait(futures)
        workers.stop.clear()
    watch.show(label, total, total, "")
    for task in plan.tasks:
        if task.run and (reason := task.run.status().get("reason")):
            watch.say(f"{label}: {task.run.id} {task.run.recipe.name} failed: {reason}")


def _finish(future: Future[None], task: _Task) -> None:
    """Raises what ended the worker's training, other than the run's own failure."""
    try:
        future.result()
    except BrokenProcessPool:
        _workers.cache_clear()
        raise InputError(
            f"{task.run and task.run.path}: a worker process was killed (is there enough memory?); the same command "
            "goes on from here"
        ) from None


def _begin(plan: _Plan, futures: dict[Future[None], _Task], workers: int) -> Iterator[_Task]:
    free = workers - len(futures)
    if free:
        busy = {id(task) for task in futures.values()}
        yield from [task for task in plan.waiting() if id(task) not in busy][:free]


def _collect(reports: "SimpleQueue[tuple[str, float]]", progress: dict[str, float]) -> None:
    while not reports.empty():
        run, flops = reports.get()
        progress[run] = flops


@dataclass
class _Workers:
    """Processes that stay from one fleet to the next: what they have compiled stays with them."""

    count: int
    pool: ProcessPoolExecutor
    reports: "SimpleQueue[tuple[str, float]]"
    stop: Event


@functools.cache
def _workers() -> _Workers:
    """One a core, each with one thread, whatever is wanted: so a run gives the same bits in every study."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = get_context("forkserver")
    context.set_forkserver_preload(["windtunnel.train.loop"])
    reports, stop = context.SimpleQueue(), context.Event()
    return _Workers(count, ProcessPoolExecutor(count, context, _start_worker, (reports, stop)), reports, stop)


_worker: dict[str, Any] = {}


def _start_worker(reports: "SimpleQueue[tuple[str, float]]", stop: Event) -> None:
    import torch
    from torch._inductor import config

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop
    torch.set_num_threads(1)
    config.compile_threads = 1
    # shapes whose compiled code a worker keeps; past the limit of 8 torch would quietly not compile any more
    torch._dynamo.config.recompile_limit = _SHAPES
    _worker.update(reports=reports, stop=stop, orphaned=threading.Event(), training=threading.Lock())
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Nobody waits for a worker whose parent was killed: it saves what it trains, and ends."""
    parent = parent_process()
    assert parent
    wait_for([parent.sentinel])
    _worker["orphaned"].set()
    with _worker["training"]:
        os._exit(1)


def _work(path: Path, folder: Path) -> None:
    """Train one run in a worker process."""
    from windtunnel.train.loop import train

    run, corpus = open_run(path), Corpus.open(folder)
    recipe = run.recipe
    flops = flops_per_token(recipe.model, recipe.data.context)
    begun: list[int] = []

    def stop() -> bool:
        return _worker["stop"].is_set() or _worker["orphaned"].is_set()

    def step(tokens: int, total: int, metrics: dict[str, Any]) -> None:
        begun.append(tokens) if not begun else None
        _worker["reports"].put((run.id, float(flops * (tokens - begun[0]))))

    while not stop():
        try:
            with _worker["training"]:
                train(run, corpus, Watch(step=step, stop=stop))
            return
        except Busy:  # by another study, which wants it too; or by what is left of a study that was killed
            time.sleep(_WAIT_BUSY)
