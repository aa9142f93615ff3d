"""Other designs for the same money: all of them keep to the limits, and the first order orders
them rightly.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.laws.fit import LossData, fit_loss
from windtunnel.results.dry_run import StudyNoise
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import LAPTOP_BATCH, Chain, lay_out
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.alternatives import alternatives, spread, varied
from windtunnel.tunnel.scaling.dry_run.assumptions import LAPTOP_NOISE, LAPTOP_TRUTHS, Assumptions
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.design import Target
from windtunnel.tunnel.scaling.dry_run.simulate import PointGrid, measured

ADDITIVE, _ = LAPTOP_TRUTHS
ASSUMED = Assumptions(LAPTOP_TRUTHS, LAPTOP_NOISE)
TARGET = Target(Size(256, 3), 3_840_000)


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> dict[Size, SizeCounts]:
    return {size: counts_of(corpus, size) for size in [*Design().sizes, TARGET.size]}


def spread_of(
    counts: dict[Size, SizeCounts], assumed: Assumptions = ASSUMED, **changes: object
) -> float:
    design = replace(Design(), **changes)  # type: ignore[arg-type]
    grid = PointGrid.of(design, lay_out(design, LAPTOP_BATCH), counts)
    return spread(grid, assumed, counts[TARGET.size], TARGET.tokens)


def test_more_points_a_wider_span_and_less_noise_tell_more(counts: dict[Size, SizeCounts]) -> None:
    usual = spread_of(counts)
    assert spread_of(counts, points=14) < usual < spread_of(counts, points=4)
    assert spread_of(counts, shortest=480_000, longest=960_000, points=4) > 2 * usual
    assert spread_of(counts, sizes=(Size(16, 2), Size(32, 2), Size(48, 3), Size(64, 4))) > usual
    half = Assumptions(
        LAPTOP_TRUTHS, StudyNoise(stem=0.002, own=0.0047, length=0.0065, origin="half")
    )
    assert spread_of(counts, half) == pytest.approx(usual / 2)


def test_the_first_order_is_what_fits_to_noisy_points_show(counts: dict[Size, SizeCounts]) -> None:
    """Of the additive law with little noise, where the fits stay in the straight part."""
    small = StudyNoise(stem=0.001, own=0.001, length=0.002, origin="small")
    assumed = Assumptions((ADDITIVE,), small)
    design = Design()
    grid = PointGrid.of(design, lay_out(design, LAPTOP_BATCH), counts)
    size = counts[TARGET.size].counts.params_total
    predicted = []
    for draw in range(16):
        points = measured(grid, ADDITIVE, small, draw)
        law = fit_loss(
            "coupled+floor", LossData.of(points.params["params_total"], points.tokens, points.loss)
        ).law
        predicted.append(float(law.at(size, TARGET.tokens)))
    expected = spread_of(counts, assumed) * ADDITIVE.loss(counts[TARGET.size].counts, TARGET.tokens)
    assert np.std(predicted) == pytest.approx(expected, rel=0.5)  # 16 draws tell it to 18%


def test_alternatives_keep_to_the_audit_run_and_to_what_is_allowed(
    corpus: Corpus, counts: dict[Size, SizeCounts]
) -> None:
    def allowed(design: Design, chain: Chain, pool: Mapping[Size, SizeCounts]) -> bool:
        return (
            design.points <= 9
            and max(pool[size].counts.params_total for size in design.sizes) > 1e5
        )

    ranked = alternatives(corpus, Design(), LAPTOP_BATCH, TARGET, ASSUMED, allowed)
    assert len(ranked) > 10
    assert [each.spread for each in ranked] == sorted(each.spread for each in ranked)
    limit = counts[TARGET.size].counts.params_total / 4
    for each in ranked:
        totals = [counts_of(corpus, size).counts.params_total for size in each.design.sizes[-1:]]
        assert 1e5 < max(totals) <= limit
        assert max(point.tokens for point in each.chain.points) <= TARGET.tokens / 2 * 1.01
        assert each.design.points <= 9 and each.design.seeds >= 2
    finalists = varied(ranked, 3)
    assert finalists[0] is ranked[0]
    assert len({(*each.design.sizes, each.design.longest) for each in finalists}) == 3
