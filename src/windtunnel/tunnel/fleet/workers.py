"""The processes in which a fleet's runs are trained: one a core, or one a GPU."""

import functools
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Speedups
from windtunnel.results.run import StepLine
from windtunnel.train.run import Busy, Run, open_run

_WAIT_BUSY = 1.0  # seconds between looks at a run that another process trains
# What a worker has loaded before its first run, so that it begins at once.
_PRELOADED = ["windtunnel.train.loop"]
_COMPILER = ["torch._inductor.compile_fx"]  # the larger part, of use where something is compiled

Reports = SimpleQueue[tuple[Any, Any]]
"""What workers report: (run id, FLOPs so far) and (process id, what it has compiled)."""


@dataclass(kw_only=True)
class Workers:
    """They stay from one fleet to the next, and what they have compiled stays with them."""

    count: int
    machine: str  # its name, device and torch: what a measured speed depends on
    pool: ProcessPoolExecutor
    reports: Reports
    stop: Event  # once it is set, every worker saves what it trains and takes nothing up

    def train(self, runs: Sequence[Run], corpus: Corpus) -> "Future[None]":
        """Train runs in one worker: one, or several as members of a population."""
        return self.pool.submit(_train, [run.path for run in runs], corpus.folder)

    def measure(self, recipe: Recipe, most: int) -> "Future[Speedups]":
        """How many times as fast at most `most` members train together as one after the other, in
        one worker.
        """
        return self.pool.submit(_measure, recipe, most)


@functools.cache
def workers() -> Workers:
    """The workers of this process, which are started at the first call.

    On a CPU each has one thread, whatever is wanted: so a run gives the same bits in every study.
    A GPU has one worker: the kernels of a second would only wait for those of the first.
    """
    import torch

    cores = _cores()
    gpus = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())
    count = len(gpus) or cores
    context = _context(bool(gpus))
    reports = context.SimpleQueue()
    stop = context.Event()
    free = context.SimpleQueue()
    # each worker that starts takes one of these
    for gpu in gpus:
        free.put(gpu)
    device = torch.cuda.get_device_name() if gpus else f"{cores} cores"
    # each worker would start as many compilers as there are cores
    compilers = max(1, cores // count)
    begin = (reports, stop, free if gpus else None, compilers)
    return Workers(
        count=count,
        machine=f"{os.uname().nodename}, {device}, torch {torch.__version__}",
        pool=ProcessPoolExecutor(count, context, _start, begin),
        reports=reports,
        stop=stop,
    )


def visible_gpus(named: str | None, count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the `count` GPUs that this process sees: numbers,
    or names where `named`, the variable as it stands, names them.
    """
    if named is None:
        return [str(index) for index in range(count)]
    # what follows a device that is not there is not seen
    return [name.strip() for name in named.split(",")][:count]


def _context(gpus: bool) -> SpawnContext | ForkServerContext:
    """How workers begin. Neither torch's threads nor CUDA survive a fork. On a CPU workers come
    from a server that has imported torch before it had any thread. What is imported there may ask
    for CUDA (torch 2.11's compiler does), after which none of its children could use a GPU.
    """
    if gpus:
        return get_context("spawn")
    from windtunnel.train.device import can_compile

    context = get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, *(_COMPILER if can_compile("cpu") else [])])
    return context


def _cores() -> int:
    """Cores that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- inside of a worker

_worker: dict[str, Any] = {}


def _start(reports: Reports, stop: Event, free: "SimpleQueue[str] | None", compilers: int) -> None:
    """Make this process a worker that runs so many compilers at once. `free` holds the GPUs that
    no worker has taken; None where workers train on a CPU.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop
    if free is not None:
        # The only one that it sees, and so the one that is meant wherever "cuda" is said. Set
        # before torch looks for the first time.
        os.environ["CUDA_VISIBLE_DEVICES"] = free.get()
    import torch

    from windtunnel.train.device import can_compile

    torch.set_num_threads(1)
    if can_compile("cpu" if free is None else "cuda"):
        from torch._inductor import config

        config.compile_threads = compilers
    _worker.update(
        reports=reports,
        stop=stop,
        orphaned=threading.Event(),
        training=threading.Lock(),
    )
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    # else each run would begin with a look through all that was imported: 0.2 s
    gc.freeze()


def _leave_with_parent() -> None:
    """Nobody waits for a worker whose parent was killed: it saves what it trains, and ends.

    Never within a report: the queue's lock would stay taken, and the other workers would wait for
    it, and hold their runs, for ever.
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

    runs = [open_run(path) for path in paths]
    corpus = Corpus.open(folder)
    watches = [Watch(step=_progress(run), stop=_stopped) for run in runs]
    while not _stopped():
        try:
            with _worker["training"]:
                train_together(runs, corpus, watches)
                _worker["reports"].put((os.getpid(), so_far()))
            return
        except Busy:
            # another study trains it, which wants it too, or a worker whose study was killed
            time.sleep(_WAIT_BUSY)


def _progress(run: Run) -> Callable[[int, int, StepLine], None]:
    """For `Watch.step`: reports the FLOPs trained since this worker began."""
    recipe = run.recipe
    flops = flops_per_token(recipe.model, recipe.data.context)
    begun: int | None = None

    def step(tokens: int, total: int, line: StepLine) -> None:
        """`begun` is where the first report finds the run, so that a resumed run counts from
        there.
        """
        nonlocal begun
        if begun is None:
            begun = tokens
        _worker["reports"].put((run.id, float(flops * (tokens - begun))))

    return step


def _measure(recipe: Recipe, most: int) -> Speedups:
    from windtunnel.train.compiled import so_far
    from windtunnel.train.speed import speedups

    with _worker["training"]:
        found = speedups(recipe, most, _stopped)
        _worker["reports"].put((os.getpid(), so_far()))
    return found


def _stopped() -> bool:
    return _worker["stop"].is_set() or _worker["orphaned"].is_set()
