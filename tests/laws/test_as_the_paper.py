"""The paper's own fit, which ours is held against."""

import numpy as np
import pytest
from made_tables import TRUTH, D, N

from windtunnel.laws.as_the_paper import fit_as_the_paper


def test_the_papers_way_agrees_where_the_problem_is_easy() -> None:
    truth = TRUTH["additive"]
    law, errors = fit_as_the_paper(N, D, truth.at(N, D))
    assert law.at(N, D) == pytest.approx(truth.at(N, D), rel=1e-4)
    assert (errors >= 0).all() and len(errors) == 5


def test_the_papers_standard_errors_are_as_its_parameters_scatter() -> None:
    truth, rng = TRUTH["additive"], np.random.default_rng(8)
    found, said = [], []
    for _ in range(60):
        law, errors = fit_as_the_paper(N, D, truth.at(N, D) + 0.002 * rng.standard_normal(len(N)))
        found.append([law.E, law.A, law.alpha, law.B, law.beta])
        said.append(errors)
    assert np.median(said, axis=0) == pytest.approx(np.std(found, axis=0), rel=0.3)


def test_the_papers_way_may_come_to_what_is_no_law() -> None:
    """Losses that rise with size: its one start ends with an A below 0."""
    rising = 3.0 + 0.1 * np.log(N / N.min()) + 300 * D**-0.4
    with pytest.raises(ValueError, match="term below 0"):
        fit_as_the_paper(N, D, rising)
