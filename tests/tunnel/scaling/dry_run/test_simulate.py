"""Simulated studies: the noise that was asked for is the noise that comes out, and is found again
in a table.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.points import LossPoints
from windtunnel.tunnel.scaling.dry_run.cost import Shape, shape_of
from windtunnel.tunnel.scaling.dry_run.simulate import (
    Expectation,
    Layout,
    Noise,
    Outcome,
    Truth,
    achieved,
    determined,
    measured,
    world,
)
from windtunnel.tunnel.scaling.scaling import LAPTOP_BATCH, Design, Size, lay_out

COUPLED = Truth(
    "coupled", "params_total", LossLaw(E=0, A=2e8, alpha=0.9, B=1.3e8, beta=0.7, c=0.163), "known"
)
QUIET = Noise(0, 0, 0, "none")
LOUD = Noise(0.01, 0.02, 0.03, "loud")


@pytest.fixture(scope="module")
def shapes(corpus: Corpus) -> dict[Size, Shape]:
    return {
        size: shape_of(corpus, size)
        for size in [*Design().sizes, Size(80, 4), Size(112, 4), Size(128, 4)]
    }


def layout(shapes: dict[Size, Shape], **changes: Any) -> Layout:
    design = replace(Design(), **changes)
    return Layout.of(design, lay_out(design, LAPTOP_BATCH), shapes)


def test_without_noise_the_points_lie_on_the_law_at_exact_counts(shapes: dict[Size, Shape]) -> None:
    points = measured(layout(shapes), COUPLED, QUIET, 0)
    assert len(points) == 7 * 7
    np.testing.assert_allclose(
        points.loss, COUPLED.law.at(points.params["params_total"], points.tokens)
    )
    assert set(points.params["params"]) == {shapes[size].counts.params for size in Design().sizes}
    assert set(points.stem[points.seed == 1]) == {1, 3}


def test_what_two_designs_share_has_the_same_noise_in_the_same_draw(
    shapes: dict[Size, Shape],
) -> None:
    one = measured(layout(shapes), COUPLED, LOUD, 5)
    other = measured(
        layout(shapes, sizes=(Size(16, 2), Size(80, 4), Size(96, 4)), repeated=0), COUPLED, LOUD, 5
    )
    for size in (Size(16, 2), Size(96, 4)):
        of_one, of_other = (
            p.loss[(p.params["params_total"] == shapes[size].counts.params_total) & (p.seed == 0)]
            for p in (one, other)
        )
        np.testing.assert_array_equal(of_one, of_other)
    assert not np.array_equal(one.loss, measured(layout(shapes), COUPLED, LOUD, 6).loss)


def test_the_noise_has_the_parts_that_were_asked_for(shapes: dict[Size, Shape]) -> None:
    plan = layout(shapes, sizes=tuple(shapes), seeds=2, repeated=8)
    off = np.array(
        [
            measured(plan, COUPLED, LOUD, i).loss.reshape(16, 7) - plan.losses(COUPLED)
            for i in range(400)
        ]
    )
    assert off.mean(1).std() == pytest.approx((0.03**2 + (0.02**2 + 0.01**2) / 16) ** 0.5, rel=0.05)
    apart = off - off.mean(1, keepdims=True)
    assert apart.mean(2).std() == pytest.approx(
        (0.01**2 + 0.02**2 / 7) ** 0.5 * (15 / 16) ** 0.5, rel=0.05
    )
    assert (apart - apart.mean(2, keepdims=True)).std() == pytest.approx(
        0.02 * (6 / 7 * 15 / 16) ** 0.5, rel=0.05
    )
    again = [achieved(shapes[Size(96, 4)], 10**6, COUPLED, LOUD, i) for i in range(2000)]
    assert np.std(again) == pytest.approx((0.03**2 + 0.02**2 + 0.01**2) ** 0.5, rel=0.06)


def lab_with(path: Path, points: LossPoints, verdict: str | None = "pass") -> dict[str, Any]:
    folder = path / "studies" / "scaling"
    folder.mkdir(parents=True)
    columns = [*points.params, "tokens", "loss", "stem", "seed"]
    rows = zip(
        *points.params.values(), points.tokens, points.loss, points.stem, points.seed, strict=True
    )
    (folder / "table.csv").write_text(
        "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])
    )
    return json.loads(json.dumps({"verdict": verdict, "numbers": {"corpus": "tiny"}}))


def test_an_earlier_study_of_the_lab_gives_the_laws_and_the_noise(
    tmp_path: Path, shapes: dict[Size, Shape]
) -> None:
    noise = Noise(0.004, 0.010, 0.013, "known")
    plan = layout(shapes, sizes=tuple(shapes), seeds=3, repeated=8, points=14)
    points = measured(plan, COUPLED, noise, 1)
    found = world(tmp_path, lab_with(tmp_path, points))
    additive, coupled = found.truths
    assert (additive.form, coupled.form) == ("additive", "coupled")
    np.testing.assert_allclose(
        coupled.law.at(points.params[coupled.count], points.tokens),
        COUPLED.law.at(points.params["params_total"], points.tokens),
        rtol=0.01,
    )
    assert found.noise.own == pytest.approx(noise.own, rel=0.15)
    assert found.noise.stem == pytest.approx(noise.stem, abs=0.003)
    assert found.noise.length == pytest.approx(
        noise.length, rel=0.6
    )  # 14 lengths tell it to a fifth, the law takes two
    assert "lab" in found.noise.origin


def test_a_study_that_was_too_small_is_not_taken_for_the_truth(
    tmp_path: Path, shapes: dict[Size, Shape]
) -> None:
    points = measured(layout(shapes), COUPLED, QUIET, 1)
    small = world(tmp_path, lab_with(tmp_path, points, verdict=None))
    assert small == world(tmp_path, None)
    assert {truth.form for truth in small.truths} == {"additive", "coupled"}


def outcome(predicted: float, half: float, actual: float, law: LossLaw = COUPLED.law) -> Outcome:
    near, far = (predicted - half / 2, predicted + half / 2), (predicted - half, predicted + half)
    return Outcome(COUPLED, predicted, near, far, actual, law)


def test_an_expectation_counts_what_the_intervals_held() -> None:
    expected = Expectation.of([outcome(4.0, 0.1, actual) for actual in (4.0, 4.04, 4.08, 4.2)])
    assert (expected.coverage50, expected.coverage90) == (0.5, 0.75)
    assert (
        expected.width90
        == pytest.approx(2 * expected.width50)
        == pytest.approx(0.2 / 4.06, rel=0.01)
    )
    assert expected.error[0] < expected.error[1] < expected.error[2] <= 0


def test_what_the_fits_say_of_an_exponent() -> None:
    laws = [replace(COUPLED.law, alpha=COUPLED.law.alpha * share) for share in (0.8, 1.0, 1.2)]
    found = determined([outcome(4, 0.1, 4, law) for law in laws])
    assert found["N's exponent"].truth == pytest.approx(0.9 * 0.163)
    assert found["N's exponent"].spread == pytest.approx(
        0.18, rel=0.01
    )  # inner 90% of a fifth to either side
    assert found["D's exponent"].spread == 0
    assert "E" not in found, "the coupled law has none"
