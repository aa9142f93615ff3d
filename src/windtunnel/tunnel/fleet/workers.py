"""The workers of a fleet: who is free, who has died, and what they say. Where they are, processes
of this machine or actors of a cluster, is said by what a `Worker` is.
"""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.tunnel.fleet.jobs import Job, Outcome, Report

# times in a row that a worker may end before it has taken a job: it would do so for ever
_STARTS = 3


class Lost(Exception):
    """A worker ended: its process was killed, or its machine is gone."""


class Worker(ABC):
    """One worker, as its fleet sees it."""

    kind = ""
    """Of its device, known once it has begun: what a measured speed depends on."""
    device = ""
    """On which it trains where a recipe leaves it open: `cuda`, `mps` or `cpu`."""

    @abstractmethod
    def begin(self) -> None:
        """Start it, also once more after it was lost, and wait until it can take a job. Raises
        Lost, and InputError for what no further try would mend.
        """

    @abstractmethod
    def carry_out(self, job: Job, report: Callable[[Report], None]) -> Outcome:
        """Have it carry out a job, to the end. Raises Lost."""

    @abstractmethod
    def stop(self) -> None:
        """Have it save what it trains, and hand it back."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A worker is at a job no more. Where it was lost there is no outcome."""

    job: Job
    outcome: Outcome | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A worker can take a job; one that was lost, once more."""


News = Finished | Begun | Report


class Workers:
    """They stay from one fleet to the next, and what they have compiled stays with them."""

    def __init__(
        self, workers: Sequence[Worker], owns: bool = False, patience: float | None = None
    ) -> None:
        """`owns`: the fleet owns the runs that these workers train, and they lock nothing.
        `patience`: seconds to wait for the others once one has begun; None: for all of them.
        """
        self.owns = owns
        self._patience = patience
        self._change = threading.Condition()
        # each worker is in one of these, unless it could not be started
        self._beginning: list[Worker] = []
        self._free: list[Worker] = []
        self._busy: dict[Job, Worker] = {}
        self._news = queue.SimpleQueue[News]()
        self._fault: InputError | None = None
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> None:
        """One more, which begins now."""
        with self._change:
            self._beginning.append(worker)
        in_background(self._begin, worker)

    @property
    def count(self) -> int:
        """How many have begun."""
        return len(self._free) + len(self._busy)

    @property
    def free(self) -> tuple[Worker, ...]:
        """Those that have no job."""
        return tuple(self._free)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What they are at."""
        return tuple(self._busy)

    def wait_until_begun(self, stop: Callable[[], bool]) -> None:
        """Wait for the workers to begin, until asked to stop. Raises InputError where none can."""
        first: float | None = None
        while not stop():
            self.check()
            with self._change:
                if not self._beginning:
                    return
                if self._patience is not None and self.count:
                    first = first or time.monotonic()
                    if time.monotonic() > first + self._patience:
                        return
                self._change.wait(0.1)

    @property
    def are_gone(self) -> bool:
        """Whether no worker is left, and none will be."""
        return self._fault is not None and not (self._beginning or self.count)

    def check(self) -> None:
        """Raises InputError where no worker is left, and none will be."""
        with self._change:
            if self._fault and self.are_gone:
                raise self._fault

    def give(self, worker: Worker, job: Job) -> None:
        """Give a free worker a job."""
        with self._change:
            self._free.remove(worker)
            self._busy[job] = worker
        in_background(self._carry_out, worker, job)

    def news(self, seconds: float) -> list[News]:
        """What has happened since the last time; where nothing has, what happens first within so
        many seconds.
        """
        heard = []
        try:
            heard.append(self._news.get(timeout=seconds))
            while True:
                heard.append(self._news.get_nowait())
        except queue.Empty:
            return heard

    def stop(self) -> None:
        """Have all of them save what they train, and hand it back."""
        for worker in list(self._busy.values()):
            worker.stop()

    def _begin(self, worker: Worker) -> None:
        fault: Exception | None = None
        for _ in range(_STARTS):
            try:
                worker.begin()
            except Lost as error:
                fault = InputError(f"no worker could be started: {error}")
                continue
            except Exception as error:
                fault = error
                break
            with self._change:
                self._beginning.remove(worker)
                self._free.append(worker)
                self._change.notify_all()
            self._news.put(Begun())
            return
        with self._change:
            self._beginning.remove(worker)
            self._fault = (
                fault if isinstance(fault, InputError) else InputError(f"no worker: {fault!r}")
            )
            self._change.notify_all()

    def _carry_out(self, worker: Worker, job: Job) -> None:
        try:
            finished = Finished(job=job, outcome=worker.carry_out(job, self._news.put))
        except Lost as error:
            finished = Finished(job=job, outcome=None, reason=str(error))
        except Exception as error:
            finished = Finished(job=job, outcome=Outcome(fault=error))
        with self._change:
            del self._busy[job]
            (self._free if finished.outcome else self._beginning).append(worker)
        self._news.put(finished)
        if not finished.outcome:
            self._begin(worker)


def in_background(work: Callable[..., None], *arguments: object) -> None:
    """In a thread that keeps no program from ending."""
    threading.Thread(target=work, args=arguments, daemon=True).start()
