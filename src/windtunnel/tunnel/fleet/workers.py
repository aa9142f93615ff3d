"""The processes in which a fleet's runs are trained: one a core, or one a GPU."""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.train.run import Busy, Run, open_run

_WAIT_BUSY = 1.0  # seconds between looks at a run that somebody else trains


@dataclass
class Workers:
    """They stay from one fleet to the next: what they have compiled stays with them. `reports`
    brings (run, FLOPs so far) and (process, what it has compiled).
    """

    count: int
    machine: str
    pool: ProcessPoolExecutor
    reports: "SimpleQueue[tuple[Any, Any]]"
    stop: Event

    def train(self, runs: Sequence[Run], corpus: Corpus) -> "Future[None]":
        """Train runs in one worker: one, or kin as members of a population."""
        return self.pool.submit(_train, [run.path for run in runs], corpus.folder)

    def measure(self, recipe: Recipe, most: int) -> "Future[dict[int, float]]":
        """How many times as fast at most `most` members train together as one after the other, in
        one worker.
        """
        return self.pool.submit(_measure, recipe, most)


@functools.cache
def workers() -> Workers:
    """On a CPU each has one thread, whatever is wanted: so a run gives the same bits in every
    study. A GPU has one worker: its kernels would only wait for those of another.
    """
    import torch

    from windtunnel.train.device import can_compile

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    gpus = torch.cuda.device_count()
    context = get_context("forkserver")
    # a worker is forked from a process that has imported these; torch's compiler is the larger part
    compiler = ["torch._inductor.compile_fx"] if can_compile("cuda" if gpus else "cpu") else []
    context.set_forkserver_preload(["windtunnel.train.loop", *compiler])
    reports, stop, free = context.SimpleQueue(), context.Event(), context.SimpleQueue()
    count = gpus or cores
    for index in range(count):
        free.put(index)
    kind = torch.cuda.get_device_name() if gpus else f"{cores} cores"
    pool = ProcessPoolExecutor(
        count, context, _start, (reports, stop, free, max(1, cores // count))
    )
    return Workers(
        count, f"{os.uname().nodename}, {kind}, torch {torch.__version__}", pool, reports, stop
    )


_worker: dict[str, Any] = {}


def _start(
    reports: "SimpleQueue[tuple[Any, Any]]", stop: Event, free: "SimpleQueue[int]", cores: int
) -> None:
    import torch

    from windtunnel.train.device import can_compile

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop
    torch.set_num_threads(1)
    if can_compile("cuda" if torch.cuda.is_available() else "cpu"):
        from torch._inductor import config

        config.compile_threads = cores
    if torch.cuda.is_available():
        torch.cuda.set_device(free.get())
    _worker.update(
        reports=reports, stop=stop, orphaned=threading.Event(), training=threading.Lock()
    )
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Nobody waits for a worker whose parent was killed: it saves what it trains, and ends. Never
    within a report: the queue's lock would stay taken, and the other workers would wait for it,
    and hold their runs, for ever.
    """
    parent = parent_process()
    assert parent
    wait_for([parent.sentinel])
    _worker["orphaned"].set()
    with _worker["training"]:
        os._exit(1)


def _train(paths: Sequence[Path], folder: Path) -> None:
    from windtunnel.train.compiled import so_far
    from windtunnel.train.loop import Watch, train_together

    runs, corpus = [open_run(path) for path in paths], Corpus.open(folder)
    watches = [Watch(step=_progress(run), stop=_stopped) for run in runs]
    while not _stopped():
        try:
            with _worker["training"]:
                train_together(runs, corpus, watches)
                _worker["reports"].put((os.getpid(), so_far()))
            return
        except (
            Busy
        ):  # by another study, which wants it too; or by what is left of a study that was killed
            time.sleep(_WAIT_BUSY)


def _progress(run: Run) -> Callable[[int, int, dict[str, Any]], None]:
    recipe, begun = run.recipe, []
    flops = flops_per_token(recipe.model, recipe.data.context)

    def step(tokens: int, total: int, metrics: dict[str, Any]) -> None:
        begun.append(tokens) if not begun else None
        _worker["reports"].put((run.id, float(flops * (tokens - begun[0]))))

    return step


def _measure(recipe: Recipe, most: int) -> dict[int, float]:
    from windtunnel.train.compiled import so_far
    from windtunnel.train.speed import gains

    with _worker["training"]:
        found = gains(recipe, most, _stopped)
        _worker["reports"].put((os.getpid(), so_far()))
    return found


def _stopped() -> bool:
    return _worker["stop"].is_set() or _worker["orphaned"].is_set()
