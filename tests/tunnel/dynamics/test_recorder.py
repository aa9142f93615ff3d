"""What is recorded of a step, where all is known in closed form."""

import numpy as np
import pytest

from windtunnel.tunnel.dynamics.recorder import measure


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
