"""What is recorded of a step, where all is known in closed form; and that the gradient which is
taken again is the one that the step took.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import write_chats

from windtunnel.data.chat import build_chat
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.recipe import Recipe
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import create
from windtunnel.train.step import Step
from windtunnel.tunnel.dynamics.recorder import gradient_of, measure


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
        assert found.model_dump() == pytest.approx(expected, rel=1e-9)
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
    assert found.d2_same_batch == pytest.approx(true)
    assert found.d2 == pytest.approx(true + (second - first) @ v / (v @ v))


@pytest.fixture(scope="module")
def conversations(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("chats")
    files = [write_chats(folder / "chats.jsonl")]
    return build_chat(folder, files, corpus.folder / "tokenizer.json", 32)


def standing(step: Step) -> np.ndarray:
    gradients = [p.grad.flatten() for p in step.model.parameters() if p.grad is not None]
    return np.concatenate([gradient.numpy() for gradient in gradients])


@pytest.mark.parametrize("held", ["text", "conversations"])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"data": {"mask_documents": True}}, id="documents masked"),
        pytest.param(
            {"model": {"experts": 4, "ffn": 32}, "optimizer": {"balance": 0.5}}, id="experts"
        ),
    ],
)
def test_the_gradient_that_is_taken_again_is_that_of_the_training_step(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    recipe: Callable[..., Recipe],
    held: str,
    asked: dict[str, Any],
) -> None:
    """At the same parameters, to the bit, whatever the step minimises; and it leaves the step's own
    gradient as it was.
    """
    corpus = request.getfixturevalue("corpus" if held == "text" else held)
    length = {"schedule": {"tokens": 3 * 128, "warmup": 0}, "train": {"micro_batch": 64}}
    run = create(tmp_path, recipe(**length, **asked), corpus)
    windows = Windows(corpus, run.recipe.data, run.recipe.seed)
    seen = []

    def gradient(step: Step, position: int) -> None:
        taken = standing(step)
        again = gradient_of(windows.read(position, 128), step)
        np.testing.assert_array_equal(again, taken)
        np.testing.assert_array_equal(standing(step), taken)
        assert np.abs(taken).max() > 0
        seen.append(position)

    train(run, corpus, Watch(gradient=gradient))
    assert seen == [0, 128, 256]
