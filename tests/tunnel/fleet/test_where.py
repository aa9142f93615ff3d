"""Where fleets train, as `--on` says it."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.tunnel.fleet import where


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(where, "_chosen", "here")
    where._started.cache_clear()
    yield
    where._started.cache_clear()


def test_an_unknown_place_is_refused_before_anything_is_done() -> None:
    with pytest.raises(InputError, match=r"--on rai: expected one of here, ray; did you mean"):
        where.train_on("rai")
    assert where._chosen == "here"


def test_this_machine_has_no_address() -> None:
    with pytest.raises(InputError, match="--on here://x: expected no address"):
        where.train_on("here://x")


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    where.train_on("ray")
    with pytest.raises(InputError, match=r"--on ray: Ray is not installed; .*windtunnel\[ray\]"):
        where.workers()


def test_workers_stay_until_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Some:
        are_gone = False

    made: list[Any] = []

    def start(address: str) -> Any:
        made.append(Some())
        return made[-1]

    monkeypatch.setattr("windtunnel.tunnel.fleet.processes.local_workers", lambda: start(""))
    first: Any = where.workers()
    assert where.workers() is first
    first.are_gone = True
    assert where.workers() is not first and len(made) == 2
