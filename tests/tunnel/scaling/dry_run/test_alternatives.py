"""Other designs for the same money: all of them keep to the limits, and the first order orders
them rightly.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.laws.fit import LossData, fit_loss
from windtunnel.laws.loss import LossLaw
from windtunnel.tunnel.scaling.dry_run.alternatives import alternatives, spread, varied
from windtunnel.tunnel.scaling.dry_run.cost import Shape, shape_of
from windtunnel.tunnel.scaling.dry_run.simulate import Layout, Noise, Target, Truth, World, measured
from windtunnel.tunnel.scaling.scaling import LAPTOP_BATCH, Chain, Design, Size, lay_out

COUPLED = Truth(
    "coupled", "params_total", LossLaw(E=0, A=2e8, alpha=0.9, B=1.3e8, beta=0.7, c=0.163), "known"
)
ADDITIVE = Truth(
    "additive", "params_total", LossLaw(E=2.9, A=450, alpha=0.55, B=143, beta=0.35), "known"
)
WORLD = World((ADDITIVE, COUPLED), Noise(0.004, 0.0094, 0.013, "known"))
TARGET = Target(Size(256, 3), 3_840_000)


@pytest.fixture(scope="module")
def shapes(corpus: Corpus) -> dict[Size, Shape]:
    return {size: shape_of(corpus, size) for size in [*Design().sizes, TARGET.size]}


def spread_of(shapes: dict[Size, Shape], world: World = WORLD, **changes: object) -> float:
    design = replace(Design(), **changes)  # type: ignore[arg-type]
    return spread(
        Layout.of(design, lay_out(design, LAPTOP_BATCH), shapes),
        world,
        shapes[TARGET.size],
        TARGET.tokens,
    )


def test_more_points_a_wider_span_and_less_noise_tell_more(shapes: dict[Size, Shape]) -> None:
    usual = spread_of(shapes)
    assert spread_of(shapes, points=14) < usual < spread_of(shapes, points=4)
    assert spread_of(shapes, shortest=480_000, longest=960_000, points=4) > 2 * usual
    assert spread_of(shapes, sizes=(Size(16, 2), Size(32, 2), Size(48, 3), Size(64, 4))) > usual
    half = World(WORLD.truths, Noise(0.002, 0.0047, 0.0065, "half"))
    assert spread_of(shapes, half) == pytest.approx(usual / 2)


def test_the_first_order_is_what_fits_to_noisy_points_show(shapes: dict[Size, Shape]) -> None:
    """Of the additive law with little noise, where the fits stay in the straight part."""
    world = World((ADDITIVE,), Noise(0.001, 0.001, 0.002, "small"))
    design = Design()
    layout = Layout.of(design, lay_out(design, LAPTOP_BATCH), shapes)
    size = shapes[TARGET.size].counts.params_total
    predicted = []
    for draw in range(16):
        points = measured(layout, ADDITIVE, world.noise, draw)
        law = fit_loss(
            "coupled+floor", LossData.of(points.params["params_total"], points.tokens, points.loss)
        ).law
        predicted.append(float(law.at(size, TARGET.tokens)))
    expected = spread_of(shapes, world) * ADDITIVE.loss(shapes[TARGET.size].counts, TARGET.tokens)
    assert np.std(predicted) == pytest.approx(expected, rel=0.5)  # 16 draws tell it to 18%


def test_alternatives_keep_to_the_audit_run_and_to_what_is_allowed(
    corpus: Corpus, shapes: dict[Size, Shape]
) -> None:
    def allowed(design: Design, chain: Chain, pool: Mapping[Size, Shape]) -> bool:
        return (
            design.points <= 9
            and max(pool[size].counts.params_total for size in design.sizes) > 1e5
        )

    ranked = alternatives(corpus, Design(), LAPTOP_BATCH, TARGET, WORLD, allowed)
    assert len(ranked) > 10
    assert [each.spread for each in ranked] == sorted(each.spread for each in ranked)
    limit = shapes[TARGET.size].counts.params_total / 4
    for each in ranked:
        totals = [shape_of(corpus, size).counts.params_total for size in each.design.sizes[-1:]]
        assert 1e5 < max(totals) <= limit
        assert max(point.tokens for point in each.chain.points) <= TARGET.tokens / 2 * 1.01
        assert each.design.points <= 9 and each.design.seeds >= 2
    finalists = varied(ranked, 3)
    assert finalists[0] is ranked[0]
    assert len({(*each.design.sizes, each.design.longest) for each in finalists}) == 3
