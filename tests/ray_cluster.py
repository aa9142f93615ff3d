"""A real Ray cluster on this machine: each node a `ray start` of its own, with one core."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patience import PATIENCE
from ports import free_port

_STORE = 80 * 2**20  # bytes of each node's object store, the least that Ray takes


class Node:
    """One node, whose processes are a group of their own."""

    def __init__(self, *arguments: str, environment: dict[str, str], log: Path) -> None:
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            *arguments,
            "--num-cpus=1",
            f"--object-store-memory={_STORE}",
            "--block",
        ]
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                command, env=environment, stdout=said, stderr=said, start_new_session=True
            )

    def kill(self) -> None:
        """All of the node at once, as where a machine loses its power."""
        for process in session(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A head and further nodes. `environment` is for those who use it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        self.nodes: list[Node] = []
        self.client_port = free_port()

    @property
    def environment(self) -> dict[str, str]:
        """For a process that uses the cluster."""
        return self._environment | {"RAY_ADDRESS": self.address}

    @property
    def alive(self) -> int:
        """Nodes that Ray takes to be alive: it sees late that one was killed."""
        return self._status().count(" node_")

    def begin(self, nodes: int) -> None:
        head = [
            "--head",
            "--port=0",
            f"--ray-client-server-port={self.client_port}",
            f"--temp-dir={self._folder}",
            "--include-dashboard=false",
        ]
        self._add(*head)
        self.address = self._wait_for_address()
        for _ in range(nodes - 1):
            self._join()

    def _join(self) -> None:
        """One more node. Ray gives a node half a minute to begin, which a busy machine may not
        have: then it is tried again.
        """
        there = len(self.nodes)
        while True:
            self._add(f"--address={self.address}")
            node = self.nodes[-1]
            while node.process.poll() is None:
                if self.alive > there:
                    return
                time.sleep(1)
            self.nodes.pop().kill()

    def end(self) -> None:
        for node in self.nodes:
            node.kill()

    def _add(self, *arguments: str) -> None:
        log = self._folder / f"node-{len(self.nodes)}.log"
        node = Node(*arguments, environment=self._environment, log=log)
        self.nodes.append(node)

    def _status(self) -> str:
        command = [Path(sys.executable).with_name("ray"), "status"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout

    def _wait_for_address(self) -> str:
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            said = (self._folder / "node-0.log").read_text()
            for line in said.splitlines():
                if "--address=" in line:
                    return line.split("--address=")[1].strip().strip("'\"")
            assert self.nodes[0].process.poll() is None, said
            time.sleep(0.2)
        raise AssertionError("the head did not begin")


def session(leader: int) -> list[int]:
    """Processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@contextmanager
def ray_cluster(nodes: int, environment: dict[str, str]) -> Iterator[Cluster]:
    # sockets lie there, whose paths must be short
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    cluster = Cluster(folder, environment)
    try:
        cluster.begin(nodes)
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)
