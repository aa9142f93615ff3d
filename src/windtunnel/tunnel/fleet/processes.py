"""Workers that are processes of this machine: one a core, or one a GPU."""

import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, Literal

from windtunnel.tunnel.fleet.jobs import Job, Outcome, Report
from windtunnel.tunnel.fleet.worker import Worker as Inside
from windtunnel.tunnel.fleet.worker import cores, device, kind_of_device, prepare
from windtunnel.tunnel.fleet.workers import Lost, Worker, Workers

# What a worker has loaded before its first run, so that it begins at once.
_PRELOADED = ["windtunnel.train.loop", "windtunnel.tunnel.fleet.worker"]
_COMPILER = ["torch._inductor.compile_fx"]  # the larger part, of use where something is compiled

_STOP: Literal["stop"] = "stop"


def local_workers() -> Workers:
    """The workers of this machine. A GPU has one: the kernels of a second would only wait for those
    of the first.
    """
    import torch

    gpus = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())
    context = _context(bool(gpus))
    places = gpus or [None] * cores()
    # each worker would start as many compilers as there are cores
    compilers = max(1, cores() // len(places))
    return Workers([_Process(context, gpu, compilers) for gpu in places])


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


class _Process(Worker):
    """A process, and the pipe to it. The pipe is no other worker's: whenever the process is killed,
    nothing is left taken that others wait for.
    """

    def __init__(
        self, context: SpawnContext | ForkServerContext, gpu: str | None, compilers: int
    ) -> None:
        self._context, self._gpu, self._compilers = context, gpu, compilers
        self._sending = threading.Lock()
        self._process: Any = None

    def begin(self) -> None:
        self._link, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_work, args=(theirs, self._gpu, self._compilers), daemon=True
        )
        self._process.start()
        theirs.close()
        self.kind, self.device = self._hear()

    def carry_out(self, job: Job, report: Callable[[Report], None]) -> Outcome:
        self._say(job)
        while not isinstance(said := self._hear(), Outcome):
            report(said)
        return said

    def stop(self) -> None:
        with suppress(Lost):
            self._say(_STOP)

    def _say(self, what: Job | Literal["stop"]) -> None:
        try:
            with self._sending:
                self._link.send(what)
        except OSError:
            raise self._lost() from None

    def _hear(self) -> Any:
        try:
            # what it had said before it ended is heard first
            if self._link in wait_for([self._link, self._process.sentinel]):
                return self._link.recv()
        except (EOFError, OSError):
            pass
        raise self._lost()

    def _lost(self) -> Lost:
        self._process.join()
        code = self._process.exitcode
        how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return Lost(f"process {self._process.pid} ended with {how}")


def _work(link: Connection, gpu: str | None, compilers: int) -> None:
    """Be a worker until nobody is at the other end: then it saves what it trains, and ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop
    if gpu is not None:
        # The only one that it sees, and so the one that is meant wherever "cuda" is said. Set
        # before torch looks for the first time.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    def say(what: Any) -> None:
        with suppress(OSError):  # nobody hears it any more
            link.send(what)

    prepare("cpu" if gpu is None else "cuda", compilers)
    inside = Inside(say)
    jobs = queue.SimpleQueue[Job | None]()
    threading.Thread(target=_listen, args=(link, inside, jobs), daemon=True).start()
    say((kind_of_device(), device()))
    while job := jobs.get():
        say(inside.carry_out(job))


def _listen(link: Connection, inside: Inside, jobs: "queue.SimpleQueue[Job | None]") -> None:
    """Hear jobs, and what is said while one is carried out."""
    try:
        while True:
            said = link.recv()
            if said == _STOP:
                inside.stop.set()
            else:
                inside.stop.clear()
                jobs.put(said)
    except (EOFError, OSError):
        inside.stop.set()
        jobs.put(None)
