"""What a simulation takes for real: the laws and the noise of a table are found again in it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dry_runs import COUPLED, SIZES, grid_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.points import LossPoints
from windtunnel.results.dry_run import StudyNoise
from windtunnel.results.scaling import ScalingNumbers
from windtunnel.results.study import StudyResult, Verdict
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.dry_run.assumptions import (
    LAPTOP_NOISE,
    LAPTOP_TRUTHS,
    Assumptions,
    assumptions_of,
    measured_noise,
)
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.simulate import measured


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> dict[Size, SizeCounts]:
    return {size: counts_of(corpus, size) for size in SIZES}


def study_in(
    lab: Path, points: LossPoints, verdict: Verdict = "pass"
) -> StudyResult[ScalingNumbers]:
    """A study with these points as its table, of which only the verdict matters beside."""
    folder = lab / "studies" / "scaling"
    folder.mkdir(parents=True)
    columns = [*points.params, "tokens", "loss", "stem", "seed"]
    values = [*points.params.values(), points.tokens, points.loss, points.stem, points.seed]
    lines = [",".join(map(str, row)) for row in zip(*values, strict=True)]
    (folder / "table.csv").write_text("\n".join([",".join(columns), *lines]))
    return StudyResult[ScalingNumbers].model_construct(study="scaling", verdict=verdict)


def test_an_earlier_study_of_the_lab_gives_the_laws_and_the_noise(
    tmp_path: Path, counts: dict[Size, SizeCounts]
) -> None:
    noise = StudyNoise(stem=0.004, own=0.010, length=0.013, origin="known")
    grid = grid_of(counts, sizes=tuple(counts), seeds=3, repeated=8, points=14)
    points = measured(grid, COUPLED, noise, 1)
    found = assumptions_of(tmp_path, study_in(tmp_path, points))
    additive, coupled = found.truths
    assert (additive.form, coupled.form) == ("additive", "coupled")
    np.testing.assert_allclose(
        coupled.law.at(points.params[coupled.count], points.tokens),
        COUPLED.law.at(points.params["params_total"], points.tokens),
        rtol=0.01,
    )
    # every stem read a text of its own: what the text does can't be told from a branch's own noise
    alone = math.hypot(noise.own, noise.length)
    assert found.noise.own == pytest.approx(alone, rel=0.15)
    assert found.noise.length < 0.4 * alone
    assert found.noise.stem == pytest.approx(noise.stem, abs=0.004)
    assert "lab" in found.noise.origin


def test_what_a_text_does_to_all_sizes_is_told_where_they_share_their_seeds(
    tmp_path: Path, counts: dict[Size, SizeCounts]
) -> None:
    """As studies of earlier versions had it."""
    noise = StudyNoise(stem=0.004, own=0.006, length=0.02, origin="known")
    every = grid_of(counts, sizes=tuple(counts), seeds=3, repeated=8, points=14)
    grid = replace(every, stems=[(size, seed % 10) for size, seed in every.stems])
    found = assumptions_of(tmp_path, study_in(tmp_path, measured(grid, COUPLED, noise, 1))).noise
    # what all stems have in common is the mean of three texts, and each seed has one of its own
    assert found.length == pytest.approx(noise.length / 3**0.5, rel=0.6)
    assert found.own == pytest.approx(math.hypot(noise.own, noise.length), rel=0.2)


def test_a_study_that_was_too_small_is_not_taken_for_the_truth(
    tmp_path: Path, counts: dict[Size, SizeCounts]
) -> None:
    points = measured(grid_of(counts), COUPLED, LAPTOP_NOISE, 1)
    small = assumptions_of(tmp_path, study_in(tmp_path, points, verdict=None))
    assert small == assumptions_of(tmp_path, None) == Assumptions(LAPTOP_TRUTHS, LAPTOP_NOISE)
    assert {truth.form for truth in small.truths} == {"additive", "coupled"}


def points_of(stems: dict[str, tuple[int, list[float]]]) -> tuple[LossPoints, np.ndarray]:
    """Points at lengths of 1, 2, ... million tokens, and their residuals: a size and its residuals
    by the stem's name.
    """
    params, tokens, names, residuals = [], [], [], []
    for name, (size, values) in stems.items():
        for index, value in enumerate(values, 1):
            params.append(size)
            tokens.append(index * 1e6)
            names.append(name)
            residuals.append(value)
    points = LossPoints.of({"params_total": params}, tokens, [4.0] * len(tokens), stem=names)
    return points, np.array(residuals)


# The two stems of the first size differ by 0.02, 0.06, 0.04 and 0.08; their mean is 0.1, -0.1, ...
REPEATED = {
    "a": (1000, [0.09, -0.13, 0.08, -0.14]),
    "b": (1000, [0.11, -0.07, 0.12, -0.06]),
    "c": (5000, [0.3, -0.1, -0.1, 0.1]),
}


def test_the_parts_of_the_noise_by_hand() -> None:
    """Own: half of the variance of the differences. Stem: half of their mean's square, less what
    own noise adds to it. Length: the squares of the means over sizes, 0.2, -0.1, 0 and 0, over two
    of the four lengths, since a law takes up two; less what the other parts add to them.
    """
    found = measured_noise(*points_of(REPEATED))
    assert found
    own = np.var([0.02, 0.06, 0.04, 0.08], ddof=1) / 2
    stem = 0.05**2 / 2 - own / 4
    added = ((own + stem) / 2 + (own + stem) / 1) / 4
    assert found.own**2 == pytest.approx(own)
    assert found.stem**2 == pytest.approx(stem)
    assert found.length**2 == pytest.approx((0.2**2 + 0.1**2) / 2 - added)
    assert found.seed_sd == pytest.approx((own + stem) ** 0.5)


def test_the_noise_is_that_of_a_simulation_which_has_it() -> None:
    """On the mean of many tables, each with two sizes of three stems at six lengths."""
    rng = np.random.default_rng(1)
    stem, own, length = 0.03, 0.02, 0.05
    squares = []
    for _ in range(400):
        shared = length * rng.standard_normal(6)
        stems = {}
        for index in range(6):
            values = shared + stem * rng.standard_normal() + own * rng.standard_normal(6)
            stems[str(index)] = (1000 * (1 + index // 3), values.tolist())
        found = measured_noise(*points_of(stems))
        assert found
        squares.append((found.stem**2, found.own**2, found.length**2))
    mean = np.mean(squares, axis=0)
    assert mean[0] == pytest.approx(stem**2, rel=0.15)
    assert mean[1] == pytest.approx(own**2, rel=0.05)
    # no law has taken anything up here: six lengths instead of four
    assert mean[2] == pytest.approx(length**2 * 6 / 4 + (own**2 + stem**2) / 6 * 0.5, rel=0.15)


def test_parts_that_are_less_than_nothing_are_nothing() -> None:
    """Stems whose means are equal, and lengths whose means are."""
    found = measured_noise(
        *points_of({"a": (1000, [0.1, -0.1, 0.1, -0.1]), "b": (1000, [-0.1, 0.1, -0.1, 0.1])})
    )
    assert found and (found.stem, found.length) == (0.0, 0.0) and found.own > 0.1


@pytest.mark.parametrize(
    ("stems", "told"),
    [
        ({"a": (1000, [0.1, 0.2, 0.3]), "b": (1000, [0.1, 0.3, 0.2])}, True),
        ({"a": (1000, [0.1, 0.2]), "b": (1000, [0.1, 0.3])}, False),  # lengths
        ({"a": (1000, [0.1, 0.2, 0.3]), "b": (2000, [0.1, 0.3, 0.2])}, False),  # seeds
        ({"a": (1000, [0.1, 0.2, 0.3]), "b": (1000, [0.1, 0.3])}, False),  # one is not whole
    ],
)
def test_it_takes_two_seeds_at_three_lengths(
    stems: dict[str, tuple[int, list[float]]], told: bool
) -> None:
    assert (measured_noise(*points_of(stems)) is not None) is told


def test_points_may_stand_in_any_order() -> None:
    points, residuals = points_of(REPEATED)
    shuffled = np.random.default_rng(0).permutation(len(residuals))
    assert measured_noise(points.select(shuffled), residuals[shuffled]) == measured_noise(
        points, residuals
    )


def test_a_truth_is_a_law_by_the_count_that_it_means(counts: dict[Size, SizeCounts]) -> None:
    truth = LAPTOP_TRUTHS[0]
    size = counts[SIZES[0]].counts
    assert truth.loss(size, 1e6) == float(truth.law.at(size.params_total, 1e6))
    record = truth.as_record()
    assert (record.form, record.count, record.law.E) == ("additive", "params_total", truth.law.E)
    beyond = replace(truth, law=replace(truth.law, log_B=800.0)).as_record().law
    assert pytest.approx(truth.law.A) == beyond.A and (beyond.B, beyond.log_B) == (None, 800.0)
    assert [one.form for one in LAPTOP_TRUTHS] == ["additive", "coupled"]


def test_a_damaged_table_is_one_line(tmp_path: Path, counts: dict[Size, SizeCounts]) -> None:
    study = study_in(tmp_path, measured(grid_of(counts), COUPLED, LAPTOP_NOISE, 1))
    (tmp_path / "studies" / "scaling" / "table.csv").write_text("tokens,loss\n1,2\n")
    with pytest.raises(InputError, match=r"table\.csv"):
        assumptions_of(tmp_path, study)
