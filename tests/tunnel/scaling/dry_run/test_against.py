"""What speaks against a design."""

import pytest

from windtunnel.results.dry_run import Expectation, ParameterFound
from windtunnel.tunnel.scaling.dry_run.against import doubts


@pytest.mark.parametrize(
    ("exponent", "width", "coverage", "words"),
    [
        ((0.06, 0.08), 0.02, 0.9, []),
        ((0.03, 0.12), 0.02, 0.9, ["can't tell N's exponent"]),
        ((0.06, 0.08), 0.08, 0.9, ["four times the compute"]),
        ((0.06, 0.08), 0.02, 0.7, ["only 70% of the studies"]),
    ],
)
def test_what_a_simulation_shows_is_said(
    exponent: tuple[float, float], width: float, coverage: float, words: list[str]
) -> None:
    expected = Expectation(
        studies=40,
        width50=width / 3,
        width90=width,
        error=(-0.01, 0.0, 0.01),
        coverage50=0.5,
        coverage90=coverage,
    )
    low, high = exponent
    parameters = {
        "N's exponent": ParameterFound(truth=0.07, low=low, high=high),
        "D's exponent": ParameterFound(truth=0.12, low=0.11, high=0.13),
    }
    found = doubts(expected, {"coupled": parameters}, 0.05)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))
