"""The decay-stage study: its arithmetic where all is known, its record of a real run, and kills."""

import csv
import json
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from patience import PATIENCE, wait_until

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.report.experiments.dynamics import figures
from windtunnel.results.run import Engine
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.objective import Objective
from windtunnel.train.run import create
from windtunnel.tunnel.dynamics import dynamics, interval, judge, measure

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
EAGER = {"TORCHDYNAMO_DISABLE": "1"}  # compiling would take longer than the runs


class Quadratic:
    """f(x) = x'Ax/2 under gradient descent: in the eigenbasis the gradient after t steps is l (1
    - rate l)^t c.
    """

    def __init__(self, rng: np.random.Generator, rate: float, size: int = 12) -> None:
        self.basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        self.eigenvalues = rng.uniform(0.1, 5.0, size)
        self.matrix = self.basis @ np.diag(self.eigenvalues) @ self.basis.T
        self.start, self.rate = rng.normal(size=size), rate

    def spectrum(self, step: int) -> np.ndarray:
        return (
            self.eigenvalues
            * (1 - self.rate * self.eigenvalues) ** step
            * (self.basis.T @ self.start)
        )


@pytest.mark.parametrize(
    "rate", [0.05, 0.38]
)  # 0.38: the largest eigenvalues overshoot, successive gradients disagree
def test_on_a_quadratic_every_number_is_the_closed_form(
    rng: np.random.Generator, rate: float
) -> None:
    problem = Quadratic(rng, rate)
    x = problem.start
    for step in range(20):
        g = problem.matrix @ x
        next_x = x - rate * g
        found = measure(x, g, next_x, problem.matrix @ next_x, problem.matrix @ next_x)

        now, after = problem.spectrum(step), problem.spectrum(step + 1)
        d1 = -(now @ after) / np.linalg.norm(now)
        d2 = (problem.eigenvalues * now**2).sum() / (
            now**2
        ).sum()  # the Rayleigh quotient of A along the step
        expected = {
            "max_change": rate * np.abs(problem.basis @ now).max(),
            "step_norm": rate * np.linalg.norm(now),
            "grad_norm": np.linalg.norm(now),
            "max_gradient": np.abs(problem.basis @ now).max(),
            "inner_product": now @ after,
            "cosine": now @ after / np.linalg.norm(now) / np.linalg.norm(after),
            "d1": d1,
            "d2": d2,
            "curvature": d2 / (1 + d1**2) ** 1.5,
            "d2_same_batch": d2,
        }
        assert found == pytest.approx(expected, rel=1e-9)
        x = next_x


def test_noise_of_two_batches_is_in_d2_and_not_in_that_of_one(rng: np.random.Generator) -> None:
    """A batch here adds a constant to the gradient: the curvature does not know of it."""
    problem = Quadratic(rng, rate=0.1)
    x, first, second = problem.start, rng.normal(size=12), rng.normal(size=12)
    g = problem.matrix @ x + first
    v = -0.1 * g
    found = measure(
        x, g, x + v, problem.matrix @ (x + v) + second, problem.matrix @ (x + v) + first
    )
    true = v @ problem.matrix @ v / (v @ v)
    assert found["d2_same_batch"] == pytest.approx(true)
    assert found["d2"] == pytest.approx(true + (second - first) @ v / (v @ v))


def steps(rng: np.random.Generator, follows: bool) -> list[dict[str, float]]:
    """300 stable steps and 300 of a decay to a tenth: either all that the paper says, or nothing
    of it.
    """
    lr = np.concatenate([np.ones(300), 0.1 ** np.linspace(0, 1, 300)])
    fall = lr if follows else np.ones(600)
    noise = np.exp(0.3 * rng.normal(size=(600, 5)))
    return [
        {
            "tokens": i + 1,
            "lr": lr[i],
            "max_change": fall[i] * noise[i, 0],
            "grad_norm": fall[i] ** 0.2 * noise[i, 1],
            "cosine": rng.normal() + 2 * (1 - fall[i]),
            "d1": -fall[i] * noise[i, 2],
            "d2": fall[i] ** -0.2 * noise[i, 3],
            "curvature": noise[i, 4] / fall[i],
        }
        for i in range(600)
    ]


def test_claims_are_shown_where_they_hold_and_only_there(rng: np.random.Generator) -> None:
    shown = {claim.name: claim for claim in judge(steps(rng, follows=True), decay_begins=300)}
    assert all(claim.shown for claim in shown.values()), shown
    value, low, high = shown["weight change"].effect
    assert low < 1 < high and 0.9 < value < 1.1
    value, low, high = shown["curvature"].effect
    assert low < 6.9 < high, "the mean of 1 / lr over the last third of the decay"
    by_chance = [
        claim.shown
        for _ in range(5)
        for claim in judge(steps(rng, follows=False), decay_begins=300)
    ]
    assert sum(by_chance) <= 3, "of 30; one-sided, an interval of 95% errs once in 40"


def test_the_interval_holds_the_mean_of_what_is_alike_from_step_to_step(
    rng: np.random.Generator,
) -> None:
    """At about its 95%, for stretches of 5 steps that share their noise; one without blocks would
    hold it in 60%.
    """
    held = 0
    for _ in range(60):
        _, low, high = interval(
            lambda sample: float(sample.mean()), np.repeat(rng.normal(size=60), 5)
        )
        held += low < 0 < high
    assert held >= 51


def table(lab: Any) -> bytes:
    return (lab.path / "studies" / "dynamics" / "table.csv").read_bytes()


def study(lab: Any) -> None:
    done = lab.run("dynamics", *TINY, **EAGER)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(make_lab: Any) -> Any:
    """A lab with the study, never interrupted."""
    lab = make_lab()
    study(lab)
    return lab


def test_the_command_writes_a_study_that_can_be_drawn(whole: Any) -> None:
    rows = list(csv.DictReader(table(whole).decode().splitlines()))
    assert [int(row["tokens"]) for row in rows] == list(range(BATCH, BATCH * STEPS, BATCH)), (
        "all steps but the last"
    )
    result = json.loads((whole.path / "studies" / "dynamics" / "result.json").read_text())
    assert result["verdict"] is None
    assert len(result["numbers"]["claims"]) == 6
    (run,) = result["runs"]
    trained = [
        json.loads(line)
        for line in (whole.path / "runs" / run / "metrics.jsonl").read_text().splitlines()
    ]
    norms = [line["grad_norm"] for line in trained if "lr" in line]
    assert [float(row["grad_norm"]) for row in rows] == pytest.approx(norms[:-1], rel=1e-5)
    drawn = figures(result, rows)
    assert len(drawn) == 4 and all(caption and figure.data for caption, figure in drawn)


def test_kills_and_a_stop_leave_no_trace_in_the_table(make_lab: Any, whole: Any) -> None:
    lab, reached = make_lab(), 0
    for number, further in ((signal.SIGKILL, 45), (signal.SIGTERM, 25)):
        process = lab.start("dynamics", *TINY, **EAGER)
        reached = wait_for(process, lab, reached + further)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == (130 if number == signal.SIGTERM else -number), (
            "it was to end before its time"
        )
        assert not (lab.path / "studies").exists()
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
        expected = measure(x, g, next_x, next_g, at(tokens, tokens - 128)[1])
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
