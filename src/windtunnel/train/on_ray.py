"""A command of windtunnel on many ranks, each a process that an actor of a Ray cluster starts, as
torchrun would: by the same command, with the same variables. What trains knows of no Ray.

Ray Train would do this, too, and asks for pandas, pyarrow and TensorBoard on every machine.
"""

import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError, Lost
from windtunnel.train.cluster import (
    check_versions,
    connected,
    devices_of,
    first_line,
    named,
    not_seen,
    offered,
    versions,
)

STOPPED = 130  # the exit code of a command that was asked to stop

_GRACE = 10.0  # seconds in which the other ranks may end by themselves, once one has failed
_LOOK = 0.5  # seconds between looks whether to stop
_LISTEN = 10.0  # seconds of one call for news
_KEPT = 20  # of the last lines of a rank that ended without a word of ours
_FAULT = "windtunnel: "
# What tells most of why ranks ended: bad input, then a fault, then a request to stop.
_TELLING = {0: 0, STOPPED: 1, 1: 2, 2: 3}


@dataclass(frozen=True, kw_only=True)
class Places:
    """So many GPUs or cores of a cluster."""

    ray: Any
    name: str
    """The cluster, as a person has typed it."""
    what: str
    """GPU or CPU."""
    world: int

    @property
    def gpus(self) -> bool:
        """Whether they are GPUs."""
        return self.what == "GPU"

    def __str__(self) -> str:
        return f"{self.world} {'GPUs' if self.gpus else 'cores'}"

    def check(self) -> None:
        """Raises Lost where the cluster has fewer by now: Ray takes a while to see that a node is
        gone.
        """
        if offered(self.ray, self.what) < self.world:
            raise Lost(
                f"{self.name}: the Ray cluster has lost a node, and has no {self} any more; the "
                "same command goes on with what is left"
            )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a rank ended: its exit code, or minus the signal that killed it."""

    code: int
    printed: str = ""
    fault: str = ""
    """The one line of ours that says what was wrong."""
    last: tuple[str, ...] = ()
    """Of what it said besides, where nobody has heard it."""


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """Of the machine of an actor."""

    versions: tuple[str, ...]
    node: str
    host: str
    gpus: tuple[str, ...]
    """The actor's own."""
    seen: bool
    """Whether it sees the lab."""


def places(address: str, device: str, asked: int | None) -> Places:
    """Each GPU of a cluster, or each core where it has none or the recipe's `device` wants none; or
    as many of them as are asked for. Raises InputError where there are fewer.
    """
    ray, name = connected(address), named(address)
    if device == "cuda" and not offered(ray, "GPU"):
        raise InputError(f"{name}: the recipe wants train.device = cuda, and no node has a GPU")
    what, there = devices_of(ray, name, gpus=device in ("auto", "cuda"))
    found = Places(ray=ray, name=name, what=what, world=there)
    if asked and asked > there:
        raise InputError(f"--devices {asked}: the Ray cluster has {found}; expected no more")
    return replace(found, world=asked or there)


def carry_out(
    there: Places,
    command: Sequence[str],
    sees: Path,
    say: Callable[[str], None],
    stop: Callable[[], bool],
) -> Ended:
    """Carry out a command of windtunnel on all places, to the end of every rank; how the one ended
    that tells most. `say` is told what the first one says meanwhile, and `sees` is a folder that
    all machines must see.

    Raises Lost where a rank or its machine is gone, and InputError where one can't be started.
    """
    from windtunnel.train.parallel import lost

    failures, ray = there.ray.exceptions, there.ray
    with _actors(there, say, stop) as actors:
        if not actors:
            return Ended(code=STOPPED)
        try:
            facts = ray.get([actor.facts.remote(sees) for actor in actors])
        except failures.RayActorError as error:
            raise InputError(
                f"{there.name}: a process could not be started: {first_line(error)}"
            ) from None
        for one in facts:
            check_versions(one.versions, one.host)
            if not one.seen:
                raise not_seen(sees, one.host)
        # ranks of one machine follow each other, as torchrun counts them
        order = sorted(range(len(actors)), key=lambda place: (facts[place].node, place))
        actors, facts = [actors[at] for at in order], [facts[at] for at in order]
        try:
            meeting = ray.get(actors[0].meeting_place.remote())
            for actor, variables in zip(actors, _variables(facts, meeting), strict=True):
                # a call of its own: news and ends are waited for while it runs
                ray.get(actor.begin.remote(list(command), variables))
            ended = _followed(ray, actors, say, stop)
        except failures.RayActorError:
            raise lost(there.world) from None
    if any(one.code < 0 for one in ended):
        raise lost(there.world)
    telling = _telling(ended)
    for line in () if telling.fault else telling.last:
        say(line)
    return telling


def _telling(ended: Sequence[Ended]) -> Ended:
    """Of ranks that ended differently, the one that knows most of why; else the first."""
    return max(ended, key=lambda one: (_TELLING.get(one.code, 2), bool(one.fault)))


@contextmanager
def _actors(
    there: Places, say: Callable[[str], None], stop: Callable[[], bool]
) -> Iterator[list[Any]]:
    """An actor for each rank, on as few nodes as hold them; none where we are asked to stop before
    the cluster has room for all.
    """
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    each = {"CPU": 1.0, "GPU": 1.0} if there.gpus else {"CPU": 1.0}
    group, actors = placement_group([each] * there.world, strategy="PACK"), list[Any]()
    try:
        if not group.wait(_LISTEN):
            say(f"waiting for {there} of the Ray cluster to be free")
        while not (stopping := stop()) and not group.wait(_LOOK):
            there.check()
        remote = there.ray.remote(
            num_cpus=1,
            num_gpus=1 if there.gpus else 0,
            # what carries out, what tells the news, and what asks to stop
            max_concurrency=4,
        )(Starter)
        for place in range(0 if stopping else there.world):
            chosen = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
            actors.append(remote.options(scheduling_strategy=chosen).remote())
        yield actors
    finally:
        for actor in actors:
            there.ray.kill(actor)
        remove_placement_group(group)


def _variables(facts: Sequence[_Facts], meeting: tuple[str, int]) -> Iterator[dict[str, str]]:
    """For each rank, what torchrun would put in its environment."""
    world, machines = len(facts), Counter(one.node for one in facts)
    # a model is cut over machines alike, or over all ranks: they must agree on which
    alike = len(set(machines.values())) == 1
    before = Counter[str]()
    gpus: defaultdict[str, list[str]] = defaultdict(list)
    for one in facts:
        gpus[one.node] += one.gpus
    for rank, one in enumerate(facts):
        found = {
            "MASTER_ADDR": meeting[0],
            "MASTER_PORT": str(meeting[1]),
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": str(before[one.node]),
            "LOCAL_WORLD_SIZE": str(machines[one.node] if alike else world),
            # the first actor has opened the meeting place, which so outlives the ranks
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        before[one.node] += 1
        if one.gpus:
            # GPUs of one machine send to each other directly where each process sees all of them
            found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[one.node])
        yield found


def _followed(
    ray: Any, actors: Sequence[Any], say: Callable[[str], None], stop: Callable[[], bool]
) -> list[Ended]:
    """How the ranks ended, in their order: all, or, once one has failed, those that ended within
    the grace. Raises Ray's error where an actor died.
    """
    ends = {actor.end.remote(): rank for rank, actor in enumerate(actors)}
    news, ended = actors[0].news.remote(), dict[int, Ended]()
    give_up, asked = float("inf"), False
    while (ends or news) and time.monotonic() < give_up:
        if not asked and (asked := stop()):
            for actor in actors:
                actor.stop.remote()
        ready, _ = ray.wait([*ends, *([news] if news else [])], timeout=_LOOK)
        for reference in ready:
            if reference in ends:
                one = ray.get(reference)
                ended[ends.pop(reference)] = one
                if one.code:
                    give_up = min(give_up, time.monotonic() + _GRACE)
                continue
            line = ray.get(reference)
            if line:
                say(line)
            news = None if line is None else actors[0].news.remote()
    return [ended[rank] for rank in sorted(ended)]


class Starter:
    """Inside of an actor: it starts one rank, and hears what that says."""

    def __init__(self) -> None:
        self._said = queue.SimpleQueue[str | None]()
        self._stopping = False
        self._process: subprocess.Popen[str] | None = None

    def facts(self, sees: Path) -> _Facts:
        """What must be known before a rank is started."""
        import ray

        context = ray.get_runtime_context()
        return _Facts(
            versions=versions(),
            node=context.get_node_id(),
            host=platform.node(),
            gpus=tuple(context.get_accelerator_ids().get("GPU", ())),
            seen=sees.is_dir(),
        )

    def meeting_place(self) -> tuple[str, int]:
        """Open the place where ranks find each other: HOST, PORT."""
        import ray
        import torch.distributed as dist

        host = ray.util.get_node_ip_address()
        self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, 0, is_master=True, wait_for_workers=False
        )
        return host, self._store.port

    def begin(self, command: list[str], variables: dict[str, str]) -> None:
        """Start the rank."""
        self._first = variables["RANK"] == "0"
        self._printed = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "windtunnel.train.rank", *command],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=self._printed,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def end(self) -> Ended:
        """Hear it to its end."""
        assert self._process and self._process.stderr
        fault, last = "", list[str]()
        for line in self._process.stderr:
            if line.startswith(_FAULT):
                fault = line.removeprefix(_FAULT).rstrip()
            elif self._first:
                self._said.put(line.rstrip())
            else:
                last = [*last, line.rstrip()][-_KEPT:]
        self._said.put(None)
        code = self._process.wait()
        if self._stopping and code == -signal.SIGTERM:  # it had not begun
            code = STOPPED
        self._printed.seek(0)
        return Ended(code=code, printed=self._printed.read(), fault=fault, last=tuple(last))

    def news(self) -> str | None:
        """The line that it says next, or after a while an empty one; None once it has ended."""
        with suppress(queue.Empty):
            return self._said.get(timeout=_LISTEN)
        return ""

    def stop(self) -> None:
        """Ask it to save, and to end."""
        self._stopping = True
        assert self._process
        self._process.terminate()
