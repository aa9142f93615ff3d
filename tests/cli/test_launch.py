"""`windtunnel launch`: the jobs that it prints, and one that a real Slurm carries out."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.launch import LAUNCHERS, Work
from windtunnel.recipe import Recipe
from windtunnel.train.run import list_runs

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def work(**more: Any) -> Work:
    described: dict[str, Any] = {
        "name": "scaling",
        "study": True,
        "arguments": ("scaling", "--lab", "my lab"),
        "nodes": 1,
        "gpus": 0,
        "cores": 4,
        "time": "1:00:00",
        "folder": Path("/labs"),
    }
    return Work(**(described | more))


RUN = work(name="tiny", study=False, arguments=("train", "tiny.toml"))


@pytest.mark.parametrize("name", ["slurm", "torchrun"])
@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("study", [True, False])
def test_a_job_is_a_script_that_bash_reads(name: str, gpus: int, nodes: int, study: bool) -> None:
    if name == "torchrun" and (study or nodes > 1):
        return
    one = work(gpus=gpus, nodes=nodes) if study else replace_run(gpus=gpus, nodes=nodes)
    text = LAUNCHERS[name].text(one)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("GPU" in text or "gpus" in text) == (gpus > 0 and name == "slurm")


def replace_run(**more: Any) -> Work:
    return work(name="tiny", study=False, arguments=("train", "tiny.toml"), **more)


def test_a_study_has_ray_on_every_node_and_a_run_a_rank_for_each_gpu() -> None:
    study = LAUNCHERS["slurm"].text(work(nodes=3, gpus=8))
    assert study.count("ray start") == 2 and '--nodes="$((SLURM_NNODES - 1))"' in study
    assert study.endswith("windtunnel scaling --lab 'my lab' --on ray\n")
    assert LAUNCHERS["slurm"].text(work()).count("ray start") == 1
    run = LAUNCHERS["slurm"].text(replace_run(nodes=3, gpus=8))
    assert "--nproc-per-node=8" in run and "-m windtunnel train tiny.toml" in run
    assert "ray" not in run
    assert "--nproc-per-node=4" in LAUNCHERS["torchrun"].text(RUN)
    sky = LAUNCHERS["sky"].text(work(nodes=3, gpus=8))
    assert "num_nodes: 3" in sky and "windtunnel scaling --lab 'my lab' --on ray" in sky


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        (work(), "--torchrun: scaling is a study"),
        (replace_run(nodes=2), "--nodes: --torchrun starts a run on this machine"),
    ],
)
def test_torchrun_starts_one_run_on_one_machine(one: Work, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        LAUNCHERS["torchrun"].text(one)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("scaling",), "expected one of --slurm, --torchrun and --sky"),
        (("scaling", "--slurm", "--sky"), "expected one of --slurm, --torchrun and --sky"),
        (("scalin", "--slurm"), "scalin: expected a study .* did you mean 'scaling'?"),
        (("none.toml", "--slurm"), "none.toml: expected a study .* or the file of a recipe"),
        (("scaling", "--slurm", "--time", "a day"), "--time a day: expected minutes"),
        (("scaling", "--slurm", "--nodes", "0"), "--nodes 0: expected a whole number, 1 or more"),
        (("scaling", "--slurm", "--", "--on", "ray"), "--on: the job has a Ray cluster of its own"),
    ],
)
def test_what_makes_no_job_is_one_line(arguments: tuple[str, ...], fault: str) -> None:
    done = launch(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert re.search(fault, done.stderr)


def launch(
    *arguments: str, folder: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "windtunnel", "launch", *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT | more, cwd=folder, capture_output=True, text=True, check=False
    )


def test_go_without_the_launcher_writes_nothing(tmp_path: Path) -> None:
    done = launch("scaling", "--slurm", "--go", folder=tmp_path, PATH="/nowhere")
    assert done.returncode == 2
    assert done.stderr == "windtunnel: --go: sbatch is not installed on this machine\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_slurm_carries_out_a_study_on_ray(
    make_lab: Callable[[], Any],
) -> None:
    """The printed job, as it is submitted: the same table as that of local workers."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from slurm import slurm

    study = (
        *("scaling", "--corpus", "tiny", "--sizes", "16x2,32x2", "--shortest", "12k"),
        *("--longest", "48k", "--points", "4", "--no-audit"),
    )
    eager = {"CXX": "no-compiler"}
    here, there = make_lab(), make_lab()
    done = here.run(*study, **eager)
    assert done.returncode == 0, done.stderr
    with slurm() as cluster:
        job = submit(there, cluster, eager, "scaling", "--", *study[1:], "--lab", str(there.path))
        assert job == "COMPLETED", log(there)
    table = Path("studies/scaling/table.csv")
    assert (there.path / table).read_bytes() == (here.path / table).read_bytes()


@pytest.mark.slow
def test_a_real_slurm_trains_a_run_on_two_ranks(lab: Any, recipe: Callable[..., Recipe]) -> None:
    if importlib.util.find_spec("windtunnel.train.parallel") is None:
        pytest.skip("one run is not yet trained by several ranks")
    from slurm import slurm

    file = lab.write(recipe(), "tiny.toml")
    with slurm() as cluster:
        job = submit(lab, cluster, {}, str(file), "--", "--lab", str(lab.path))
        assert job == "COMPLETED", log(lab)
    (run,) = list_runs(lab.path)
    assert run.status().status == "done"
    assert json.loads((run.path / "engine.json").read_text())["worlds"] == [2]


def submit(lab: Any, cluster: Any, more: dict[str, str], what: str, *arguments: str) -> str:
    """Submit a job from the lab's parent; how it ends."""
    done = launch(
        *(what, "--slurm", "--cores", "2", "--time", "30", "--go", *arguments),
        folder=lab.path.parent,
        SLURM_CONF=cluster.configuration,
        **more,
    )
    assert done.returncode == 0, done.stderr
    return cluster.wait(done.stdout.split()[-1])


def log(lab: Any) -> str:
    return "\n".join(file.read_text() for file in lab.path.parent.glob("*.out"))
