"""What stands between a Ray cluster and the ranks of a run, without a cluster: a run on a real one
is in `tests/cli/test_train_on_ray.py`.
"""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import InputError, Lost
from windtunnel.train import on_ray
from windtunnel.train.cluster import versions
from windtunnel.train.on_ray import STOPPED, Ended, Starter, places


def offers(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    ray = SimpleNamespace(cluster_resources=lambda: resources)
    monkeypatch.setattr(on_ray, "connected", lambda _: ray)


@pytest.mark.parametrize(
    ("device", "asked", "said"),
    [
        ("auto", None, "8 GPUs"),
        ("auto", 4, "4 GPUs"),
        ("cuda", None, "8 GPUs"),
        ("cpu", None, "64 cores"),
        ("cpu", 2, "2 cores"),
    ],
)
def test_a_rank_has_a_gpu_where_there_are_some(
    device: str, asked: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers(monkeypatch, CPU=64.0, GPU=8.0)
    assert str(places("", device, asked)) == said


@pytest.mark.parametrize(
    ("resources", "device", "asked", "fault"),
    [
        ({"CPU": 2.0}, "auto", 3, "--devices 3: the Ray cluster has 2 cores; expected no more"),
        ({"CPU": 2.0}, "cuda", None, "--on ray: the recipe wants train.device = cuda, and no node"),
        ({}, "auto", None, "--on ray: the Ray cluster has neither a core nor a GPU to use"),
    ],
)
def test_what_a_cluster_has_not_is_refused(
    resources: dict[str, float],
    device: str,
    asked: int | None,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offers(monkeypatch, **resources)
    with pytest.raises(InputError, match=f"^{fault}"):
        places("", device, asked)


def test_a_node_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cluster was asked before it knew."""
    offers(monkeypatch, CPU=2.0)
    there = places("", "cpu", None)
    there.check()
    there.ray.cluster_resources = lambda: {"CPU": 1.0}
    with pytest.raises(Lost, match=r"^--on ray: the Ray cluster has lost a node, and"):
        there.check()


def variables(*machines: str, gpus: bool = False) -> list[dict[str, str]]:
    """Of ranks on these machines; a GPU is called by the machine and a number."""
    facts = [
        on_ray._Facts(
            versions=versions(),
            node=machine,
            host=machine,
            gpus=(f"{machine}{place}",) if gpus else (),
            seen=True,
        )
        for place, machine in enumerate(machines)
    ]
    return list(on_ray._variables(facts, ("head", 1234)))


def test_ranks_are_told_what_torchrun_would_tell_them() -> None:
    found = variables("a", "a", "b", "b", gpus=True)
    assert [one["RANK"] for one in found] == ["0", "1", "2", "3"]
    assert [one["LOCAL_RANK"] for one in found] == ["0", "1", "0", "1"]
    assert {one["LOCAL_WORLD_SIZE"] for one in found} == {"2"}
    assert {one["WORLD_SIZE"] for one in found} == {"4"}
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in found} == {("head", "1234")}
    # each sees all of its machine, and has that of its local rank
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["a0,a1"] * 2 + ["b2,b3"] * 2


def test_machines_that_differ_are_one_to_a_model() -> None:
    """Else some ranks would cut it over two devices, and one would wait for them for ever."""
    found = variables("a", "a", "b")
    assert {one["LOCAL_WORLD_SIZE"] for one in found} == {"3"}
    assert "CUDA_VISIBLE_DEVICES" not in found[0]


def ended(command: list[str], rank: str = "0") -> tuple[Ended, list[str]]:
    """How a rank of one ends, and what it says before."""
    starter, said = Starter(), list[str]()
    starter.begin(command, {"RANK": rank, "WORLD_SIZE": "1"})
    found = starter.end()
    while (line := starter.news()) is not None:
        said.append(line)
    return found, said


def test_a_rank_is_the_command_line() -> None:
    found, said = ended(["--version"])
    assert found.code == 0 and found.printed.strip() and not said
    found, said = ended(["train", "not-there.toml"])
    assert found.code == 2 and found.fault.startswith("not-there.toml: ") and not said


def test_a_rank_ends_with_its_actor(tmp_path: Any) -> None:
    """Whose death closes the pipe."""
    (tmp_path / "lab").mkdir()
    starter = Starter()
    starter.begin(["ui", "--lab", str(tmp_path / "lab"), "--port", "0"], {"RANK": "1"})
    assert starter._process and starter._process.stdin
    starter._process.stdin.close()
    began = time.monotonic()
    assert starter.end().code == 1 and time.monotonic() - began < 60


class Cluster:
    """A Ray whose calls end at once, or never: an actor is what `Starter` would say."""

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        ready = [one for one in references if not one.waits]
        time.sleep(0 if ready else timeout)
        return ready[:1], []

    def get(self, reference: Any) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value


def actor(end: Any, *news: str) -> Any:
    """Ends so; None: never."""
    lines = [*news, None]

    def call(value: Any) -> Any:
        class Reference:
            waits = value is ...

        Reference.value = value  # type: ignore[attr-defined]
        return Reference()

    return SimpleNamespace(
        end=SimpleNamespace(remote=lambda: call(... if end is None else end)),
        news=SimpleNamespace(remote=lambda: call(lines.pop(0))),
        stop=SimpleNamespace(remote=lambda: call(None)),
    )


def test_the_first_rank_is_heard_and_all_are_waited_for() -> None:
    said: list[str] = []
    done = Ended(code=0, printed="done")
    found = on_ray._followed(
        Cluster(), [actor(done, "10%", "", "60%"), actor(Ended(code=0))], said.append, lambda: False
    )
    assert found == [done, Ended(code=0)] and said == ["10%", "60%"]


def test_what_hangs_once_one_has_failed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_GRACE", 0.1)
    monkeypatch.setattr(on_ray, "_LOOK", 0.05)
    hanging, killed = actor(None), actor(Ended(code=-9))
    assert on_ray._followed(Cluster(), [hanging, killed], print, lambda: False) == [Ended(code=-9)]


@pytest.mark.parametrize(
    ("ends", "telling"),
    [
        ([Ended(code=0, printed="x"), Ended(code=0)], Ended(code=0, printed="x")),
        ([Ended(code=STOPPED, printed="x"), Ended(code=STOPPED)], Ended(code=STOPPED, printed="x")),
        ([Ended(code=1), Ended(code=2, fault="full")], Ended(code=2, fault="full")),
        ([Ended(code=1, fault="lost"), Ended(code=1)], Ended(code=1, fault="lost")),
        ([Ended(code=0), Ended(code=1, fault="lost")], Ended(code=1, fault="lost")),
    ],
)
def test_the_rank_that_knows_most_tells_how_it_ended(ends: list[Ended], telling: Ended) -> None:
    assert on_ray._telling(ends) == telling
