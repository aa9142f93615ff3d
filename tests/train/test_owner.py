"""Who owns a run where `flock` is not trusted."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.results.run import Owner
from windtunnel.train.owner import Lease, disown, holds, is_owned, own, renew
from windtunnel.train.run import Busy, Run, create

Make = Callable[..., Any]
ELSEWHERE = "another-machine"


@pytest.fixture
def run(tmp_path: Path, recipe: Make, corpus: Corpus) -> Run:
    return create(tmp_path, recipe(), corpus)


def owned_by(run: Run, host: str, pid: int, age: float = 0.0) -> None:
    """As another process has left it, which touched it so many seconds ago."""
    file = run.path / "owner.json"
    Owner(lease="theirs", host=host, pid=pid).write(file)
    then = time.time() - age
    os.utime(file, (then, then))


def test_only_one_owns_a_run_until_it_gives_it_back(run: Run) -> None:
    lease = run.own()
    assert lease and not lease.after_another and holds(run.path, lease)
    assert run.own() is None and is_owned(run.path)
    disown(run.path, lease)
    assert not is_owned(run.path) and not holds(run.path, lease)
    assert run.own() not in (None, lease)


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_at_once_one_gets_it(run: Run, dead: bool) -> None:
    if dead:
        owned_by(run, ELSEWHERE, 1, age=70)
    all_there = threading.Barrier(8)

    def take(_: int) -> Lease | None:
        all_there.wait()
        return own(run.path)

    with ThreadPoolExecutor(8) as threads:
        leases = [lease for lease in threads.map(take, range(8)) if lease]
    assert len(leases) == 1
    assert holds(run.path, leases[0])


def test_a_run_that_is_owned_is_running_and_nobody_else_trains_it(run: Run) -> None:
    run.write_status("running", 128)
    assert run.status().status == "interrupted"
    lease = run.own()
    assert lease and run.status().status == "running"
    with pytest.raises(Busy, match="a fleet on another machine is training this run"), run.lock():
        pass
    disown(run.path, lease)
    with run.lock():
        assert run.own() is None


def test_an_owner_on_another_machine_is_alive_while_it_touches_the_file(run: Run) -> None:
    owned_by(run, ELSEWHERE, 1, age=50)
    assert is_owned(run.path) and run.own() is None
    owned_by(run, ELSEWHERE, 1, age=70)
    assert not is_owned(run.path)
    renew(run.path)
    assert is_owned(run.path)
    owned_by(run, ELSEWHERE, 1, age=70)
    lease = run.own()
    assert lease and lease.after_another


def test_who_was_killed_while_he_took_a_run_keeps_it_from_nobody(run: Run) -> None:
    owned_by(run, ELSEWHERE, 1, age=70)
    mark = run.path / ".owner.json.theirs.taken"
    mark.touch()
    assert run.own() is None
    os.utime(mark, (time.time() - 70,) * 2)
    assert run.own() is None and run.own()


def test_an_owner_on_this_machine_that_has_ended_is_not_waited_for(run: Run) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owned_by(run, socket.gethostname(), os.getpid())
    assert run.own() is None
    owned_by(run, socket.gethostname(), ended.pid)
    assert run.own()


def test_what_a_dead_worker_had_is_taken_from_it(run: Run) -> None:
    first = run.own()
    assert first
    second = run.own(lost=first)
    assert second and second.after_another and not holds(run.path, first)
    assert run.own(lost=first) is None, "it is another worker's now"
    disown(run.path, first)
    assert holds(run.path, second), "what is not one's own cannot be given back"
