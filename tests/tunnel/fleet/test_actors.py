"""A fleet on a real Ray cluster of three nodes, and what is killed of it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, wait_until
from ray_cluster import ray_cluster, session

from windtunnel.results.scaling import SCALING
from windtunnel.train.run import list_runs

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

STUDY = (
    *("scaling", "--corpus", "tiny", "--sizes", "16x2,32x2", "--shortest", "12k"),
    *("--longest", "48k", "--points", "4", "--no-audit"),
)
# to compile would take longer than what is to be killed
EAGER = {"CXX": "no-compiler"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(3, EAGER) as made:
        yield made


@pytest.fixture(scope="module")
def local(make_lab: Any) -> Any:
    """A lab with the study of local workers. Only to be looked at."""
    lab = make_lab()
    done = lab.run(*STUDY, **EAGER)
    assert done.returncode == 0, done.stderr
    return lab


def table(lab: Any) -> bytes:
    return (SCALING.folder(lab.path) / "table.csv").read_bytes()


def on_ray(lab: Any, cluster: Any, where: str = "ray") -> Any:
    return lab.start(*STUDY, "--on", where, **cluster.environment)


def completes(process: Any) -> str:
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return err


def checkpoints(lab: Any) -> int:
    return len(list(lab.path.glob("runs/[!.]*/checkpoints/[0-9]*")))


def steps(lab: Any) -> dict[str, list[int]]:
    """Positions of the steps of each run, in the order in which they were recorded."""
    return {run.id: [step.tokens for step in run.steps()] for run in list_runs(lab.path)}


def workers_of(node: Any) -> list[int]:
    """Processes of a node that train."""
    found = []
    for process in session(node.process.pid):
        try:
            title = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::Remote"):
            found.append(process)
    return found


def test_a_study_gives_the_table_of_local_workers(make_lab: Any, local: Any, cluster: Any) -> None:
    lab = make_lab()
    completes(on_ray(lab, cluster))
    assert table(lab) == table(local)
    assert not list(lab.path.glob("runs/*/owner.json")), "what is over belongs to nobody"


def test_a_client_of_a_cluster_gets_the_same_table(make_lab: Any, local: Any, cluster: Any) -> None:
    """By Ray's client server, for a machine that is no part of the cluster."""
    lab = make_lab()
    completes(on_ray(lab, cluster, f"ray://127.0.0.1:{cluster.client_port}"))
    assert table(lab) == table(local)


def killed_actor(cluster: Any, process: Any) -> None:
    wait_until(lambda: bool(workers_of(cluster.nodes[1])), process)
    os.kill(workers_of(cluster.nodes[1])[0], signal.SIGKILL)


def killed_node(cluster: Any, process: Any) -> None:
    cluster.nodes[2].kill()


@pytest.mark.parametrize("kill", [killed_actor, killed_node])
def test_what_a_dead_worker_had_goes_on_elsewhere(
    make_lab: Any, local: Any, cluster: Any, kill: Callable[[Any, Any], None]
) -> None:
    lab = make_lab()
    process = on_ray(lab, cluster)
    wait_until(lambda: checkpoints(lab) >= 2, process)
    kill(cluster, process)
    said = completes(process)
    assert "a worker was lost" in said, "it was to have a run"
    assert table(lab) == table(local)
    # a run that went on dropped what was after its last checkpoint, and nothing else
    assert steps(lab) == steps(local)


def test_a_driver_that_was_killed_goes_on(make_lab: Any, local: Any, cluster: Any) -> None:
    """The runs that were done are not touched, the others go on from their checkpoints."""
    lab = make_lab()
    process = on_ray(lab, cluster)
    wait_until(lambda: len(done(lab)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not (SCALING.folder(lab.path) / "result.json").exists(), "it was to end before its time"
    before = {run: written(lab, run) for run in done(lab)}
    kept = {path: path.stat().st_mtime_ns for path in lab.path.glob("runs/*/checkpoints/0*")}
    completes(on_ray(lab, cluster))
    assert before == {run: written(lab, run) for run in before}
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path.exists())
    assert table(lab) == table(local) and steps(lab) == steps(local)


def written(lab: Any, run: str) -> int:
    return (lab.path / "runs" / run / "metrics.jsonl").stat().st_mtime_ns


def done(lab: Any) -> list[str]:
    files = lab.path.glob("runs/[!.]*/status.json")
    return [file.parent.name for file in files if json.loads(file.read_text())["status"] == "done"]
