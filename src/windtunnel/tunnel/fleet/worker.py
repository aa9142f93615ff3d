"""Inside of a worker: a process that trains, whoever has started it."""

import gc
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.results.populations import Speedups
from windtunnel.results.run import RunStatus, StepLine
from windtunnel.train.cluster import not_seen
from windtunnel.train.compiled import so_far
from windtunnel.train.owner import SETTLE, holds
from windtunnel.train.run import Busy, Run, open_run
from windtunnel.tunnel.fleet.jobs import (
    Job,
    Measurement,
    Outcome,
    Progress,
    Report,
    Saved,
    Training,
)

_LOOK_EVERY = 2.0  # seconds between looks whether the fleet still owns what is trained


class Worker:
    """It carries out one job at a time."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        self.stop = threading.Event()  # once it is set, what is trained is saved and handed back
        self._report = report

    def carry_out(self, job: Job) -> Outcome:
        """Whatever goes wrong is part of the outcome."""
        before = so_far()
        try:
            value = self._train(job) if isinstance(job, Training) else self._measure(job)
            outcome = Outcome(value=value)
        except Exception as error:
            error.add_note(traceback.format_exc())
            outcome = Outcome(fault=error)
        new = so_far() - before
        if new.made or new.found:
            self._report(new)
        return outcome

    def _train(self, job: Training) -> tuple[RunStatus, ...]:
        from windtunnel.train.loop import Watch, train_together

        _check_seen(job)
        if any(lease.after_another for lease in job.leases):
            self.stop.wait(SETTLE)
        runs = [open_run(path) for path in job.runs]
        stop = self._stop_of(job)
        watches = [
            Watch(step=self._progress(run), stop=stop, saved=self._saved(run)) for run in runs
        ]
        hold = _owned_by_the_fleet if job.leases else Run.lock
        if not stop():
            train_together(runs, Corpus.open(job.corpus), watches, hold)
        return tuple(run.status() for run in runs)

    def _measure(self, job: Measurement) -> Speedups:
        from windtunnel.train.speed import speedups

        return speedups(job.recipe, job.most, self.stop.is_set)

    def _progress(self, run: Run) -> Callable[[int, int, StepLine], None]:
        """For `Watch.step`."""
        flops = flops_per_token(run.recipe.model, run.recipe.data.context)
        begun: int | None = None

        def step(tokens: int, total: int, line: StepLine) -> None:
            """`begun` is where the first report finds the run, so that a resumed run counts from
            there.
            """
            nonlocal begun
            if begun is None:
                begun = tokens
            self._report(Progress(run=run.id, flops=float(flops * (tokens - begun))))

        return step

    def _saved(self, run: Run) -> Callable[[int], None]:
        """For `Watch.saved`."""
        return lambda tokens: self._report(Saved(run=run.id, tokens=tokens))

    def _stop_of(self, job: Training) -> Callable[[], bool]:
        """For `Watch.stop`, which is asked after each step and before anything is written. Raises
        Busy, so that nothing more is written, where the fleet owns a run no more: it takes this
        worker for dead, and another one trains the run.
        """
        looked = time.monotonic()

        def stop() -> bool:
            nonlocal looked
            if job.leases and time.monotonic() > looked + _LOOK_EVERY:
                for path, lease in zip(job.runs, job.leases, strict=True):
                    if not holds(path, lease):
                        raise Busy(f"{path}: another worker has taken this run over")
                looked = time.monotonic()
            return self.stop.is_set()

        return stop


def _owned_by_the_fleet(run: Run) -> AbstractContextManager[None]:
    """A run that is in nobody else's hands."""
    return nullcontext()


def _check_seen(job: Training) -> None:
    """Raises InputError where this machine does not see the lab."""
    for path in (*job.runs, job.corpus):
        if not path.is_dir():
            raise not_seen(path, platform.node())


def prepare(device: str, compilers: int) -> None:
    """Make this process one that trains on a device, `cpu` or `cuda`, with so many compilers at
    once. On a CPU it has one thread, whatever is wanted: so a run gives the same bits in every
    study.
    """
    import torch

    from windtunnel.train.device import can_compile

    torch.set_num_threads(1)
    if can_compile(device):
        from torch._inductor import config

        config.compile_threads = compilers
    # imported now, not in the first run
    import windtunnel.train.loop  # noqa: F401

    # else each run would begin with a look through all that was imported: 0.2 s
    gc.freeze()


def device() -> str:
    """What this process trains on where a recipe leaves it open: `cuda`, `mps` or `cpu`."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return next((name for name, is_there in there.items() if is_there), "cpu")


def kind_of_device() -> str:
    """What this process trains on, as far as a measured speed depends on it: the kind of device
    and torch. Two machines of one kind have one name.
    """
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"{_processor()}, {cores()} cores"
    return f"{device}, torch {torch.__version__}"


def cores() -> int:
    """Cores that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
