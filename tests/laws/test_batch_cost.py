"""What any batch costs: the three-term law found again."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.laws.batch_cost import ThreeTerm

TRUTH = ThreeTerm(E=1.5, A=40, a=0.3, B=5, b=0.2, C=4, c=0.15, rmse=0)


def grid(params: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, batch) of every point."""
    n, d, batch = np.meshgrid(params, np.geomspace(1e9, 3e10, 4), np.geomspace(6e4, 1e6, 5))
    return n.ravel(), d.ravel(), batch.ravel()


def test_the_three_term_law_is_found_again() -> None:
    points = grid([1e8, 3e8, 1e9])
    found = ThreeTerm.fit(*points, TRUTH.loss(*points))
    assert vars(found) == pytest.approx(vars(TRUTH), rel=2e-3, abs=1e-6)
    points = grid([1e8])
    one_size = ThreeTerm.fit(*points, TRUTH.loss(*points))
    floor = TRUTH.E + TRUTH.A * 1e8**-TRUTH.a
    assert one_size.A == 0
    assert abs(one_size.E - floor) < 1e-3
    assert one_size.predict(1e11) == pytest.approx(TRUTH.predict(1e11), rel=0.01), (
        "the best batch needs no second size"
    )


@given(
    st.floats(0.05, 1),
    st.floats(0.05, 1),
    st.floats(1, 100),
    st.floats(1, 100),
    st.floats(1e6, 1e12),
)
def test_no_other_batch_is_better_than_the_three_term_laws(
    b: float, c: float, B: float, C: float, d: float
) -> None:
    law = replace(TRUTH, b=b, c=c, B=B, C=C)
    best = law.predict(d)
    assert (law.loss(1e8, d, best * np.array([0.5, 0.9, 1.1, 2])) >= law.loss(1e8, d, best)).all()
    assert law.predict(10 * d) / best == pytest.approx(10**law.exponent)


def test_eight_points_are_enough_for_the_three_terms() -> None:
    """Two lengths, two batches and two sizes."""
    params, tokens, batch = (
        axis.ravel() for axis in np.meshgrid([1e8, 1e9], [1e9, 3e10], [6e4, 1e6])
    )
    loss = TRUTH.loss(params, tokens, batch)
    assert ThreeTerm.fit(params, tokens, batch, loss).rmse < 1e-3
    with pytest.raises(ValueError, match="8 or more"):
        ThreeTerm.fit(params[:7], tokens[:7], batch[:7], loss[:7])


def test_the_error_of_a_fit_is_the_root_of_its_mean_square() -> None:
    points = grid([1e8, 3e8, 1e9])
    off = np.where(np.arange(len(points[0])) % 2, 0.02, -0.02)
    found = ThreeTerm.fit(*points, TRUTH.loss(*points) + off)
    left = found.loss(*points) - TRUTH.loss(*points) - off
    assert found.rmse == pytest.approx(float(np.sqrt((left**2).mean())))


def test_runs_that_cannot_tell_the_three_terms_are_refused() -> None:
    params, tokens, batch = grid([1e8, 3e8])
    for wrong in (0.0, np.inf):
        with pytest.raises(ValueError, match="tokens: expected positive"):
            ThreeTerm.fit(
                params, np.where(params > 2e8, wrong, tokens), batch, np.full(len(params), 3.0)
            )
    loss = TRUTH.loss(params, tokens, batch)
    for kept, said in (
        (batch == batch[0], "1 batches"),
        (tokens == tokens[0], "1 lengths"),
        (batch < 0, "8 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            ThreeTerm.fit(params[kept], tokens[kept], batch[kept], loss[kept])
    with pytest.raises(ValueError, match="loss: expected positive"):
        ThreeTerm.fit(params, tokens, batch, loss * np.nan)
    for gone, off, said in (
        ({"C": 0.0}, batch, "only rise"),
        ({"B": 0.0}, tokens / batch, "only fall"),
    ):
        opposite = replace(TRUTH, **gone).loss(params, tokens, batch) + 0.02 * np.log(off)
        with pytest.raises(ValueError, match=said):
            ThreeTerm.fit(params, tokens, batch, opposite)
