"""The decay-stage study: its arithmetic where all is known, its record of a real run, and kills."""

import csv
import json
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from drawn import each_of
from patience import PATIENCE, wait_until

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.report.experiments.dynamics import figures
from windtunnel.results.dynamics import DYNAMICS
from windtunnel.results.run import Engine
from windtunnel.results.study import read_study, read_table
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.objective import Objective
from windtunnel.train.run import create
from windtunnel.tunnel.dynamics.dynamics import dynamics
from windtunnel.tunnel.dynamics.recorder import measure

BATCH, STEPS = 256, 150  # of the runs here: 3 of warm-up, 72 stable, 75 of decay
TINY = (
    "--corpus",
    "tiny",
    "--width",
    32,
    "--depth",
    1,
    "--batch",
    BATCH,
    "--tokens",
    BATCH * STEPS,
    "--decay",
    "50%",
)
EAGER = {"CXX": "no-compiler"}  # to compile, or to import what does, would take longer


def table(lab: Any) -> bytes:
    return (lab.path / "studies" / "dynamics" / "table.csv").read_bytes()


def study(lab: Any) -> None:
    done = lab.run("dynamics", *TINY, **EAGER)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(make_small_lab: Any) -> Any:
    """A lab with the study, never interrupted."""
    lab = make_small_lab()
    study(lab)
    return lab


def test_the_command_writes_a_study_that_can_be_drawn(whole: Any) -> None:
    rows = list(csv.DictReader(table(whole).decode().splitlines()))
    assert [int(row["tokens"]) for row in rows] == list(range(BATCH, BATCH * STEPS, BATCH)), (
        "all steps but the last"
    )
    result = read_study(whole.path, DYNAMICS)
    assert result.verdict is None
    assert len(result.numbers.claims) == 6
    (run,) = result.runs
    trained = [
        json.loads(line)
        for line in (whole.path / "runs" / run / "metrics.jsonl").read_text().splitlines()
    ]
    norms = [line["grad_norm"] for line in trained if "lr" in line]
    assert [float(row["grad_norm"]) for row in rows] == pytest.approx(norms[:-1], rel=1e-5)
    drawn = figures(result, read_table(whole.path, DYNAMICS))
    assert len(drawn) == 4 and len(each_of(drawn)) >= 4


def test_kills_and_a_stop_leave_no_trace_in_the_table(make_small_lab: Any, whole: Any) -> None:
    lab, reached = make_small_lab(), 0
    for number, further in ((signal.SIGKILL, 45), (signal.SIGTERM, 25)):
        process = lab.start("dynamics", *TINY, **EAGER)
        reached = wait_for(process, lab, reached + further)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == (130 if number == signal.SIGTERM else -number), (
            "it was to end before its time"
        )
        assert not list(lab.path.glob("studies/*/result.json"))
    study(lab)
    assert table(lab) == table(whole)


def wait_for(process: Any, lab: Any, steps: int) -> int:
    """Until so many steps have been recorded; how many there are then."""

    def recorded() -> int:
        files = lab.path.glob("runs/*/dynamics/steps.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    wait_until(lambda: recorded() >= steps, process, every=0.003)
    return recorded()


@pytest.fixture
def decaying(recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """130 steps of the tiny recipe, half of them decay."""

    def make(**train: Any) -> Recipe:
        return recipe(schedule={"tokens": 130 * 128, "warmup": 512, "decay": 62 * 128}, train=train)

    return make


def test_recording_leaves_the_run_as_it_is_and_tells_of_its_steps(
    make_lab: Any, corpus: Corpus, decaying: Callable[..., Recipe], final_bytes: Any
) -> None:
    """Each number from the run's checkpoints: the weights of two steps, and gradients taken there
    once more.
    """
    looked_at = (20 * 128, 110 * 128)
    settings = decaying(branch_points=[at - before for at in looked_at for before in (128, 0)])
    lab, plain = make_lab().path, make_lab().path
    folder = dynamics(lab, corpus, settings, Watch())
    unwatched = create(plain, settings, corpus)
    train(unwatched, corpus)
    run, table = lab / "runs" / unwatched.id, (folder / "table.csv").read_bytes()
    dynamics(
        lab, corpus, settings, Watch(show=lambda *step: pytest.fail("a done run is not trained"))
    )
    assert (folder / "table.csv").read_bytes() == table
    assert final_bytes(run) == final_bytes(unwatched.path)

    windows = Windows(corpus, settings.data, settings.seed)

    def at(tokens: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights at a position, and there the gradient of the batch that begins at `batch`."""
        model = load_model(unwatched, tokens)
        Objective(
            model,
            Engine(device="cpu", precision="fp32", compiled=False, micro_batch=128, threads=1),
        ).add_gradient(torch.from_numpy(windows.read(batch, 128)))
        parts = [
            [p.detach().flatten(), p.grad.flatten()]
            for p in model.parameters()
            if p.grad is not None
        ]
        x, g = (np.concatenate([part[i].double().numpy() for part in parts]) for i in (0, 1))
        return x, g

    rows = {
        int(row["tokens"]): row for row in csv.DictReader((folder / "table.csv").open(newline=""))
    }
    for tokens in looked_at:
        (x, g), (next_x, next_g) = at(tokens - 128, tokens - 128), at(tokens, tokens)
        expected = measure(x, g, next_x, next_g, at(tokens, tokens - 128)[1]).model_dump()
        assert {key: float(rows[tokens][key]) for key in expected} == pytest.approx(
            expected, rel=1e-5, abs=1e-9
        )
        roles = [
            float(rows[tokens][f"max_change_{role}"]) for role in ("embedding", "matrix", "gain")
        ]
        assert max(roles) == pytest.approx(expected["max_change"])


def test_a_run_trained_without_a_record_is_refused(
    lab: Any, corpus: Corpus, decaying: Callable[..., Recipe]
) -> None:
    run = create(lab.path, decaying(), corpus)
    train(run, corpus)
    with pytest.raises(InputError, match="without its steps recorded"):
        dynamics(lab.path, corpus, decaying(), Watch())


def test_a_run_too_short_to_judge_is_refused_before_it_is_begun(lab: Any) -> None:
    done = lab.run("dynamics", "--corpus", "tiny", "--tokens", "20k", "--batch", "256", **EAGER)
    assert done.returncode == 2
    assert "at least 60 steps" in done.stderr and "Traceback" not in done.stderr
    assert not (lab.path / "runs").exists()
