"""Workers that are actors of a Ray cluster: one a core, or one a GPU, for the whole study, so that
what they have compiled stays.

Ray restarts an actor that died, on another node if need be; what it trained is the fleet's to give
out again. The machines need the lab in a folder that all of them share, and the same windtunnel.
"""

import atexit
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from windtunnel.train.cluster import (
    check_versions,
    connected,
    devices_of,
    first_line,
    named,
    offered,
    versions,
)
from windtunnel.tunnel.fleet.jobs import Job, Outcome, Report
from windtunnel.tunnel.fleet.worker import Worker as Inside
from windtunnel.tunnel.fleet.worker import cores, kind_of_device, prepare
from windtunnel.tunnel.fleet.worker import device as device_here
from windtunnel.tunnel.fleet.workers import Lost, Worker, Workers, in_background

_PATIENCE = 20.0  # seconds for the other actors to begin, once one has
_GROW_EVERY = 5.0  # seconds between looks at how many nodes there are
_LISTEN = 10.0  # seconds of one call for news
_WAIT = 1.0  # of one look whether a call has ended
_RESTARTING = 1.0  # seconds between looks at an actor that Ray is about to restart
# Read by the libraries that torch loads, before a worker imports it.
_PASSED_ON = ("GOMP_SPINCOUNT", "CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_CACHE_DIR")


def ray_workers(address: str) -> Workers:
    """The workers of a Ray cluster: the one whose client server is at HOST:PORT, or without an
    address the one that this machine belongs to. Raises InputError where there is none.
    """
    ray = connected(address)
    what, count = devices_of(ray, named(address))
    gpus = what == "GPU"
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    remote = ray.remote(
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        max_restarts=-1,
        # what trains, what tells the news, and what is said meanwhile
        max_concurrency=4,
    )(Remote)

    def make() -> Any:
        return remote.remote("cuda" if gpus else "cpu", passed_on)

    calls = _Calls(ray)
    made = Workers([_Actor(calls, make) for _ in range(count)], owns=True, patience=_PATIENCE)

    def grow() -> None:
        """For nodes that join later."""
        known = count
        while True:
            time.sleep(_GROW_EVERY)
            with calls.one():
                there = offered(ray, what)
            while known < there:
                known += 1
                made.add(_Actor(calls, make))

    in_background(grow)
    return made


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What must be the same on all machines of a fleet, and what may differ."""

    versions: tuple[str, ...]
    kind: str
    device: str
    host: str


class _Calls:
    """What threads ask of Ray. A call after the end of the program, when Ray has shut down, would
    end it with an exit code of 1: from then on there is none, and those under way are waited for.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self._change = threading.Condition()
        self._under_way = 0
        self._ended = False
        atexit.register(self._end)  # before Ray's own, which was registered when it was imported

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call that takes a moment. Ends the thread at the end of the program."""
        with self._change:
            if self._ended:
                raise SystemExit
            self._under_way += 1
        try:
            yield
        finally:
            with self._change:
                self._under_way -= 1
                self._change.notify_all()

    def result(self, reference: Any) -> Any:
        """What a call gives, whenever it does. Raises what it has raised."""
        while True:
            with self.one():
                if self.ray.wait([reference], timeout=_WAIT)[0]:
                    return self.ray.get(reference)

    def _end(self) -> None:
        with self._change:
            self._ended = True
            self._change.wait_for(lambda: not self._under_way)


class _Actor(Worker):
    """An actor, as the fleet sees it."""

    def __init__(self, calls: _Calls, make: Callable[[], Any]) -> None:
        self._calls, self._make = calls, make
        self._actor: Any = None
        self._host = ""

    def begin(self) -> None:
        if self._actor is None:
            with self._calls.one():
                self._actor = self._make()
        facts = self._begun()
        check_versions(facts.versions, facts.host)
        self.kind, self.device, self._host = facts.kind, facts.device, facts.host

    def carry_out(self, job: Job, report: Callable[[Report], None]) -> Outcome:
        calls = self._calls
        try:
            with calls.one():
                work = self._actor.carry_out.remote(job)
            while True:
                with calls.one():
                    asked = self._actor.news.remote()
                news = calls.result(asked)
                for said in news:
                    if isinstance(said, Outcome):
                        return said
                    report(said)
                if not news:
                    self._raise_if_lost(work)
        except calls.ray.exceptions.RayActorError as error:
            raise Lost(f"on {self._host}: {first_line(error)}") from None

    def stop(self) -> None:
        with self._calls.one():
            self._actor.stop.remote()

    def _raise_if_lost(self, work: Any) -> None:
        """Where the actor was lost, Ray may have restarted it since: what it says then is of no
        job.
        """
        with self._calls.one():
            if self._calls.ray.wait([work], timeout=0)[0]:
                self._calls.ray.get(work)

    def _begun(self) -> _Facts:
        """Once the cluster has a place for the actor, be it never."""
        failures = self._calls.ray.exceptions
        while True:
            try:
                with self._calls.one():
                    asked = self._actor.begin.remote()
                return self._calls.result(asked)
            except failures.ActorUnavailableError:
                time.sleep(_RESTARTING)
            except failures.RayActorError as error:
                self._actor = None  # for good: Ray would have restarted it
                raise Lost(first_line(error)) from None


class Remote:
    """Inside of the actor."""

    def __init__(self, device: str, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._said = queue.SimpleQueue[Report | Outcome]()
        self._at_work = threading.Lock()
        self._inside = Inside(self._said.put)
        prepare(device, compilers=1 if device == "cpu" else cores())

    def begin(self) -> _Facts:
        """Nothing is left of a job that the fleet takes for lost: its connection may have broken
        while the actor lived.
        """
        self._inside.stop.set()
        with self._at_work:
            self._drain()
        return _Facts(
            versions=versions(), kind=kind_of_device(), device=device_here(), host=platform.node()
        )

    def carry_out(self, job: Job) -> None:
        with self._at_work:
            self._inside.stop.clear()
            self._said.put(self._inside.carry_out(job))

    def stop(self) -> None:
        self._inside.stop.set()

    def news(self) -> list[Report | Outcome]:
        """What was said since the last time, or what is said next; after a while nothing."""
        with suppress(queue.Empty):
            return [self._said.get(timeout=_LISTEN), *self._drain()]
        return []

    def _drain(self) -> list[Report | Outcome]:
        said = []
        with suppress(queue.Empty):
            while True:
                said.append(self._said.get_nowait())
        return said
