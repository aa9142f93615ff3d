"""An actor as the fleet sees it, by a Ray that says what a test has it say: what a real one says is
in `test_actors.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.train.cluster import versions
from windtunnel.tunnel.fleet import actors
from windtunnel.tunnel.fleet.jobs import Measurement, Outcome, Saved
from windtunnel.tunnel.fleet.workers import Lost


class Died(Exception):
    """Ray's error for an actor that is gone."""


class Unavailable(Died):
    """And for one that it is about to restart."""


class Calls:
    """Answers in turn: what is an error is raised. `over`: whether the job's own call has ended."""

    def __init__(self, *answers: Any, over: bool = False) -> None:
        self.answers = list(answers)
        exceptions = SimpleNamespace(RayActorError=Died, ActorUnavailableError=Unavailable)
        self.ray = SimpleNamespace(
            exceptions=exceptions, wait=lambda *_, **__: ([1] if over else [], []), get=self.get
        )

    @contextmanager
    def one(self) -> Iterator[None]:
        yield

    def result(self, reference: Any) -> Any:
        return self.get(reference)

    def get(self, reference: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def made() -> Any:
    """A handle on which every method can be called from afar."""

    class Handle:
        def __getattr__(self, name: str) -> Any:
            return SimpleNamespace(remote=lambda *_: name)

    return Handle()


def actor(*answers: Any, over: bool = False) -> actors._Actor:
    found = actors._Actor(Calls(*answers, over=over), made)  # type: ignore[arg-type]
    found._actor = made()
    return found


def facts(**more: Any) -> actors._Facts:
    described: dict[str, Any] = {"versions": versions(), "kind": "H100", "device": "cuda"}
    described["host"] = "node-7"
    return actors._Facts(**(described | more))


def test_it_begins_once_it_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "_RESTARTING", 0.0)
    one = actor(Unavailable("x"), Unavailable("x"), facts())
    one.begin()
    assert (one.kind, one.device) == ("H100", "cuda")


def test_one_that_is_gone_for_good_is_made_anew() -> None:
    one = actor(Died("it died\nmore"), facts())
    with pytest.raises(Lost, match=r"^it died$"):
        one.begin()
    one.begin()
    assert one.kind == "H100"


def test_another_windtunnel_on_a_node_is_named() -> None:
    one = actor(facts(versions=("windtunnel 0.0.1",)))
    with pytest.raises(InputError, match=r"the worker on node-7 has windtunnel 0\.0\.1; expected "):
        one.begin()


def test_what_is_said_of_a_job_ends_with_its_outcome(recipe: Any) -> None:
    saved, outcome = Saved(run="a", tokens=1), Outcome(value={1: 1.0})
    one, heard = actor([], [saved], [outcome]), list[Any]()
    job = Measurement(recipe=recipe(), most=1)
    assert one.carry_out(job, heard.append) is outcome and heard == [saved]


def test_an_actor_that_was_restarted_knows_nothing_of_the_job(recipe: Any) -> None:
    """It answers, and says nothing for ever."""
    job = Measurement(recipe=recipe(), most=1)
    with pytest.raises(Lost, match=r"^on : it died$"):
        actor([], Died("it died"), over=True).carry_out(job, print)
    with pytest.raises(Lost):
        actor(Died("it died")).carry_out(job, print)


def test_what_is_left_of_a_lost_job_is_not_said_of_the_next() -> None:
    """Where the connection broke and the actor lived."""
    inside = object.__new__(actors.Remote)
    actors.Remote.__init__(inside, "cpu", {})
    inside._said.put(Outcome(value="of the old one"))
    assert inside.begin().versions == versions()
    assert inside._drain() == []
