"""One run on the ranks of a real Ray cluster of two nodes, and what is killed of it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, wait_until
from ray_cluster import ray_cluster, session
from torchrun import torchrun

from windtunnel.recipe import Recipe
from windtunnel.train.run import Run, open_run

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

STEPS, BATCH = 400, 128


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(2, {}) as made:
        yield made


@pytest.fixture(scope="module")
def asked(recipe: Callable[..., Recipe]) -> Recipe:
    return recipe(schedule={"tokens": STEPS * BATCH, "warmup": 512})


@pytest.fixture(scope="module")
def by_torchrun(make_lab: Any, asked: Recipe) -> Run:
    """The run of two ranks that torchrun started, one for each of two machines as in the cluster:
    on one machine the model is cut over both, and sums add up in another order. Only to be looked
    at.
    """
    lab = make_lab()
    done = torchrun(lab.path, 2, "train", lab.write(asked), machines=2)
    return open_run(Path(done["path"]))


def on_ray(lab: Any, asked: Recipe, cluster: Any, where: str = "ray", *more: object) -> Any:
    command = ("train", lab.write(asked), "--on", where, *more)
    return lab.start(*command, **cluster.environment)


def completes(process: Any) -> Run:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return open_run(Path(json.loads(out)["path"]))


def check_alike(run: Run, other: Run) -> None:
    assert [line.tokens for line in run.steps()] == [line.tokens for line in other.steps()]
    losses = [[line.loss for line in one.steps()] for one in (run, other)]
    assert losses[0] == losses[1], "to the bit"
    for mine, theirs in zip(run.validations(), other.validations(), strict=True):
        assert mine == theirs


@pytest.mark.parametrize("where", ["ray", "ray://127.0.0.1:{port}"])
def test_ranks_on_ray_learn_what_ranks_of_torchrun_do(
    where: str, make_lab: Any, asked: Recipe, cluster: Any, by_torchrun: Run
) -> None:
    lab = make_lab()
    address = where.format(port=cluster.client_port)
    run = completes(on_ray(lab, asked, cluster, address, "--json"))
    assert json.loads((run.path / "engine.json").read_text())["worlds"] == [2]
    check_alike(run, by_torchrun)


def test_what_is_wrong_is_said_once_in_one_line(
    make_lab: Any, asked: Recipe, recipe: Callable[..., Recipe], cluster: Any
) -> None:
    lab = make_lab()
    one_window = recipe(train={"batch": 32}, schedule={"tokens": 640, "warmup": 32})
    before = lab.files()
    for refused, more, fault in (
        (one_window, (), "2 processes can't share a batch of 1 windows equally"),
        (asked, ("--devices", 3), "--devices 3: the Ray cluster has 2 cores; expected no more"),
    ):
        process = on_ray(lab, refused, cluster, "ray", *more)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2 and not out
        (line,) = err.splitlines()
        assert line.startswith("windtunnel: ") and fault in line
    assert lab.files() == before


def test_ctrl_c_saves_and_the_same_command_goes_on(
    make_lab: Any, asked: Recipe, cluster: Any, by_torchrun: Run
) -> None:
    lab = make_lab()
    process = on_ray(lab, asked, cluster)
    wait_until(lambda: begun(lab, 1), process)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "interrupted at" in out
    assert "Stopped. The same command goes on from here." in err
    check_alike(completes(on_ray(lab, asked, cluster, "ray", "--json")), by_torchrun)


def begun(lab: Any, checkpoints: int) -> bool:
    return len(list(lab.path.glob("runs/[!.]*/checkpoints/[0-9]*"))) >= checkpoints


def ranks_of(cluster: Any) -> dict[int, int]:
    """The processes of the ranks that run, by rank."""
    found = {}
    for node in cluster.nodes:
        for process in session(node.process.pid):
            try:
                command = Path(f"/proc/{process}/cmdline").read_bytes()
                variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if b"windtunnel.train.rank" in command:
                (rank,) = (one[5:] for one in variables if one.startswith(b"RANK="))
                found[int(rank)] = process
    return found


def test_ranks_end_where_their_command_is_killed(
    make_lab: Any, asked: Recipe, cluster: Any
) -> None:
    lab = make_lab()
    process = on_ray(lab, asked, cluster)
    wait_until(lambda: begun(lab, 1), process)
    assert len(ranks_of(cluster)) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: not ranks_of(cluster))


def kill_a_rank(cluster: Any) -> None:
    os.kill(ranks_of(cluster)[1], signal.SIGKILL)


def kill_an_actor(cluster: Any) -> None:
    """The first rank's; which that rank does not outlive."""
    rank = ranks_of(cluster)[0]
    (parent,) = (
        line.split()[1]
        for line in Path(f"/proc/{rank}/status").read_text().splitlines()
        if line.startswith("PPid:")
    )
    os.kill(int(parent), signal.SIGKILL)


def kill_a_node(cluster: Any) -> None:
    cluster.nodes[1].kill()


@pytest.mark.parametrize("kill", [kill_a_rank, kill_an_actor, kill_a_node])
def test_a_killed_rank_ends_in_one_line_and_the_rerun_finishes(
    make_lab: Any, asked: Recipe, cluster: Any, by_torchrun: Run, kill: Callable[[Any], None]
) -> None:
    lab = make_lab()
    process = on_ray(lab, asked, cluster)
    wait_until(lambda: begun(lab, 2), process)
    kill(cluster)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and not out, err
    assert [line for line in err.splitlines() if line.startswith("windtunnel: ")] == [
        "windtunnel: one of the 2 processes of this run is gone, and so all of them end; the same "
        "command goes on from the last checkpoint"
    ]
    assert "Traceback" not in err
    wait_until(lambda: not ranks_of(cluster))
    if kill is kill_a_node:
        wait_until(lambda: cluster.alive == 1, every=1)
    run = completes(on_ray(lab, asked, cluster, "ray", "--json"))
    worlds = json.loads((run.path / "engine.json").read_text())["worlds"]
    if kill is kill_a_node:  # one core is left, and goes on alone
        assert worlds == [2, 1] and len(run.steps()) == STEPS
    else:
        assert worlds == [2]
        check_alike(run, by_torchrun)
