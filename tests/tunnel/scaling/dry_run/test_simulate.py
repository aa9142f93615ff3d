"""Simulated studies: the noise that was asked for is the noise that comes out, and is found again
in a table.
"""

from dataclasses import replace

import numpy as np
import pytest
from dry_runs import COUPLED, SIZES, grid_of

from windtunnel.data.shards import Corpus
from windtunnel.laws.loss import LossLaw
from windtunnel.results.dry_run import StudyNoise, Transient
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.assumptions import Assumptions
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.simulate import (
    SimulatedStudy,
    achieved,
    determined,
    expectation_of,
    measured,
    simulate,
)

QUIET = StudyNoise(stem=0, own=0, length=0, origin="none")
LOUD = StudyNoise(stem=0.01, own=0.02, length=0.03, origin="loud")


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> dict[Size, SizeCounts]:
    return {size: counts_of(corpus, size) for size in SIZES}


def test_without_noise_the_points_lie_on_the_law_at_exact_counts(
    counts: dict[Size, SizeCounts],
) -> None:
    points = measured(grid_of(counts), COUPLED, QUIET, 0)
    assert len(points) == 7 * 7
    np.testing.assert_allclose(
        points.loss, COUPLED.law.at(points.params["params_total"], points.tokens)
    )
    assert set(points.params["params"]) == {counts[size].counts.params for size in Design().sizes}
    assert set(points.stem[points.seed % 10 == 1]) == {1, 3}


def test_a_transient_lifts_short_runs_in_every_second_study(
    counts: dict[Size, SizeCounts],
) -> None:
    grid, transient = grid_of(counts), Transient(nats=0.4, tokens=240_000)
    lifted = (
        measured(grid, COUPLED, LOUD, 0, transient).loss - measured(grid, COUPLED, LOUD, 0).loss
    )
    tokens = measured(grid, COUPLED, LOUD, 0).tokens
    np.testing.assert_allclose(lifted, 0.4 * (240_000 / tokens) ** 2, rtol=1e-9)
    assumed = Assumptions((COUPLED,), QUIET, transient)
    target = counts[Size(96, 4)]
    plain, bent = simulate(grid, assumed, target, 4_000_000, range(2), lambda: None)
    assert abs(plain.error) < 1e-3
    assert bent.error > 3e-3, "short runs that lie high bend the law up"


def test_smaller_sizes_have_points_at_further_lengths(counts: dict[Size, SizeCounts]) -> None:
    sizes = (Size(16, 2), Size(48, 3), Size(96, 4))
    plain = measured(grid_of(counts, sizes=sizes, repeated=0), COUPLED, LOUD, 3)
    grid = grid_of(counts, sizes=sizes, repeated=0, further=4)
    points = measured(grid, COUPLED, LOUD, 3)
    numbers = [int((points.stem == stem).sum()) for stem in range(3)]
    assert numbers == [11, 9, 7] and len(plain) == 21
    longest = [points.tokens[points.stem == stem].max() for stem in range(3)]
    assert longest[0] == pytest.approx(4 * longest[2], rel=0.01), "four lengths of root two"
    assert longest[0] == pytest.approx(2 * longest[1], rel=0.01)
    shared = points.tokens <= plain.tokens.max()
    np.testing.assert_allclose(points.loss[shared], plain.loss, rtol=0.005)


def test_what_two_designs_share_has_the_same_noise_in_the_same_draw(
    counts: dict[Size, SizeCounts],
) -> None:
    one = measured(grid_of(counts), COUPLED, LOUD, 5)
    other = measured(
        grid_of(counts, sizes=(Size(16, 2), Size(80, 4), Size(96, 4)), repeated=0), COUPLED, LOUD, 5
    )
    for size in (Size(16, 2), Size(96, 4)):
        of_one, of_other = (
            p.loss[
                (p.params["params_total"] == counts[size].counts.params_total) & (p.seed % 10 == 0)
            ]
            for p in (one, other)
        )
        np.testing.assert_array_equal(of_one, of_other)
    assert not np.array_equal(one.loss, measured(grid_of(counts), COUPLED, LOUD, 6).loss)


def test_the_noise_has_the_parts_that_were_asked_for(counts: dict[Size, SizeCounts]) -> None:
    grid = grid_of(counts, sizes=tuple(counts), seeds=2, repeated=8)
    off = np.array(
        [
            measured(grid, COUPLED, LOUD, i).loss.reshape(16, 7) - grid.losses(COUPLED)
            for i in range(400)
        ]
    )
    # what a length has in common is of a text, and every stem reads its own
    alone = (0.03**2 + 0.02**2) ** 0.5
    assert off.mean(1).std() == pytest.approx(((alone**2 + 0.01**2) / 16) ** 0.5, rel=0.05)
    apart = off - off.mean(1, keepdims=True)
    assert apart.mean(2).std() == pytest.approx(
        (0.01**2 + alone**2 / 7) ** 0.5 * (15 / 16) ** 0.5, rel=0.05
    )
    assert (apart - apart.mean(2, keepdims=True)).std() == pytest.approx(
        alone * (6 / 7 * 15 / 16) ** 0.5, rel=0.05
    )
    again = [achieved(counts[Size(96, 4)], 10**6, COUPLED, LOUD, i) for i in range(2000)]
    assert np.std(again) == pytest.approx((0.03**2 + 0.02**2 + 0.01**2) ** 0.5, rel=0.06)


def simulated(
    predicted: float, half: float, actual: float, law: LossLaw = COUPLED.law
) -> SimulatedStudy:
    return SimulatedStudy(
        truth=COUPLED,
        predicted=predicted,
        interval50=(predicted - half / 2, predicted + half / 2),
        interval90=(predicted - half, predicted + half),
        actual=actual,
        law=law,
    )


def test_an_expectation_counts_what_the_intervals_held() -> None:
    expected = expectation_of([simulated(4.0, 0.1, actual) for actual in (4.0, 4.04, 4.08, 4.2)])
    assert (expected.coverage50, expected.coverage90) == (0.5, 0.75)
    assert (
        expected.width90
        == pytest.approx(2 * expected.width50)
        == pytest.approx(0.2 / 4.06, rel=0.01)
    )
    assert expected.error[0] < expected.error[1] < expected.error[2] <= 0


def test_what_the_fits_say_of_an_exponent() -> None:
    laws = [replace(COUPLED.law, alpha=COUPLED.law.alpha * share) for share in (0.8, 1.0, 1.2)]
    found = determined([simulated(4, 0.1, 4, law) for law in laws])
    assert found["N's exponent"].truth == pytest.approx(0.9 * 0.163)
    assert found["N's exponent"].spread == pytest.approx(
        0.18, rel=0.01
    )  # inner 90% of a fifth to either side
    assert found["D's exponent"].spread == 0
    assert "E" not in found, "the coupled law has none"


def test_every_point_has_its_stem_its_seed_and_its_flops(counts: dict[Size, SizeCounts]) -> None:
    grid = grid_of(counts)
    losses = np.arange(49.0).reshape(7, 7)
    points = grid.points(losses)
    assert points.loss.tolist() == list(range(49))
    assert points.stem.tolist() == [i for i in range(7) for _ in range(7)]
    seeds = [seed for _, seed in Design().stems]
    assert points.seed.tolist() == [seed for seed in seeds for _ in range(7)]
    assert points.tokens.tolist() == list(grid.tokens) * 7
    for at, (size, _) in enumerate(Design().stems):
        each = counts[size]
        assert points.flops[7 * at + 3] == each.flops * grid.tokens[3]
        assert points.params["params"][7 * at] == each.counts.params
    assert grid.totals == [counts[size].counts.params_total for size, _ in Design().stems]


def test_quantiles_and_medians_of_an_expectation() -> None:
    """Relative errors of -10 to 10 percent, and widths whose mean is not their median."""
    studies = [simulated(4 * (1 + e / 100), 0.2, 4.0) for e in range(-10, 11)]
    studies[0] = replace(studies[0], interval50=(0.0, 8.0), interval90=(0.0, 8.0))
    found = expectation_of(studies)
    assert found.error == pytest.approx((-0.09, 0.0, 0.09))
    assert (found.width50, found.width90) == pytest.approx((0.05, 0.1))
    assert found.studies == 21
    # within 0.1 of 4: 2.5 percent or less, five of them, and the one that holds everything
    assert found.coverage50 == pytest.approx(6 / 21)
    assert found.coverage90 == pytest.approx(12 / 21)


def test_an_interval_holds_its_ends() -> None:
    ends = [simulated(4.0, 0.5, actual) for actual in (3.5, 4.5, 3.49, 4.51)]
    assert expectation_of(ends).coverage90 == 0.5


def test_what_is_told_of_a_law() -> None:
    """alpha c and beta c are the exponents of the loss, beta / (alpha + beta) of the best N."""
    law = LossLaw.of(E=1.5, A=1.0, alpha=0.6, B=1.0, beta=0.3, c=0.5)
    floored = replace(COUPLED, form="additive", law=law)
    study = replace(simulated(4.0, 0.1, 4.0, law), truth=floored)
    found = {name: one.truth for name, one in determined([study]).items()}
    assert found == pytest.approx(
        {"N's exponent": 0.3, "D's exponent": 0.15, "exponent of the best N": 1 / 3, "E": 1.5}
    )


def test_the_same_draw_has_other_noise_for_another_stem_length_and_part(
    counts: dict[Size, SizeCounts],
) -> None:
    """Each part alone moves a table by its own standard deviation, and what is told of a target is
    drawn apart from all tables.
    """
    grid = grid_of(counts)
    true = grid.losses(COUPLED)
    moved = {}
    for part in ("stem", "own", "length"):
        noise = quiet_but(**{part: 1.0})
        moved[part] = measured(grid, COUPLED, noise, 3).loss.reshape(7, 7) - true
    assert np.ptp(moved["stem"], axis=1) == pytest.approx(0, abs=1e-9)
    assert len(np.unique(moved["stem"][:, 0].round(9))) == 7
    assert len(np.unique(moved["length"].round(9))) == 49, "every stem reads a text of its own"
    alike = replace(grid, stems=[(size, 0) for size, _ in grid.stems])
    by_text = measured(alike, COUPLED, quiet_but(length=1.0), 3).loss.reshape(7, 7) - true
    assert np.ptp(by_text, axis=0) == pytest.approx(0, abs=1e-9)
    assert len(np.unique(by_text[0].round(9))) == 7
    assert len(np.unique(moved["own"].round(9))) == 49
    target = counts[Size(96, 4)]
    parts = [
        achieved(target, 10**6, COUPLED, quiet_but(**{part: 1.0}), 3)
        - COUPLED.loss(target.counts, 10**6)
        for part in ("stem", "own", "length")
    ]
    every = [*np.concatenate([table.ravel() for table in moved.values()]), *parts]
    assert len(set(np.round(parts, 9))) == 3 and not set(parts) & set(every[:-3])


def quiet_but(**parts: float) -> StudyNoise:
    return QUIET.model_copy(update=parts)
