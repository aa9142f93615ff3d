"""Other designs for the same money: all of them keep to the limits, and the first order orders
them rightly.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.fit import LossData, fit_loss
from windtunnel.model.shape import Counts
from windtunnel.results.dry_run import StudyNoise
from windtunnel.scaling_recipe import LAPTOP_BATCH
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import Chain, lay_out
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.alternatives import (
    _WIDTHS,
    Alternative,
    _depth,
    _designs,
    _ladders,
    _pool,
    _rounded,
    _variance,
    alternatives,
    best_of,
    spread,
    varied,
)
from windtunnel.tunnel.scaling.dry_run.assumptions import LAPTOP_NOISE, LAPTOP_TRUTHS, Assumptions
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.design import Best, Target
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


def test_depths_are_those_of_the_tunnels_own_sizes() -> None:
    widths = (16, 32, 48, 64, 128, 256, 320, 384, 512, 1024)
    assert [_depth(width) for width in widths] == [2, 2, 3, 4, 4, 4, 5, 6, 8, 16]


@pytest.mark.parametrize(
    ("tokens", "rounded"),
    [(204_800, 200_000), (205_001, 210_000), (999, 1000), (15, 15), (9, 9), (1_649_999, 1_600_000)],
)
def test_lengths_have_two_digits(tokens: int, rounded: int) -> None:
    assert _rounded(tokens) == rounded


def pool_of(totals: list[int]) -> dict[Size, SizeCounts]:
    """Sizes that hold so many parameters."""
    found = {}
    for index, total in enumerate(totals):
        counts = Counts(params=total, params_with_head=total, params_total=total)
        found[Size(16 * (index + 1), 2)] = SizeCounts(depth=2, counts=counts, flops=6 * total)
    return found


def test_ladders_are_evenly_spaced_and_as_wide_as_is_asked() -> None:
    """Doublings: from each size on those that are 16 times larger are in the pool, or nearly."""
    doublings = pool_of([1000 * 2**i for i in range(6)])  # over 32
    sizes = list(doublings)
    ladders = _ladders(doublings)
    assert ladders == sorted(ladders) and len(ladders) == len(set(ladders))
    ends = {(ladder[0], ladder[-1]) for ladder in ladders}
    # spans of 16 and of 24, which ends at the nearest; 40 reaches beyond the largest
    assert ends == {(sizes[0], sizes[4]), (sizes[1], sizes[5]), (sizes[0], sizes[5])}
    assert tuple(sizes[:5]) in ladders, "every doubling"
    assert (sizes[0], sizes[1], sizes[3], sizes[4]) in ladders, "2.6 from one to the next"
    nearly, short = pool_of([1000, 14_600]), pool_of([1000, 14_500])
    assert _ladders(nearly) == [tuple(nearly)] and _ladders(short) == [], "a tenth may be missing"


def test_the_pool_ends_where_the_audit_run_and_the_target_leave_room(corpus: Corpus) -> None:
    def largest(**changes: object) -> float:
        design = replace(Design(), **changes)  # type: ignore[arg-type]
        pool = _pool(corpus, design, TARGET)
        totals = [each.counts.params_total for each in pool.values()]
        assert totals == sorted(totals)
        return totals[-1]

    target = counts_of(corpus, TARGET.size).counts.params_total
    # widths of 16 apart hold a fifth more each
    assert target / 4 / 1.4 < largest() <= target / 4, "a quarter of the audit run"
    assert target / 1.4 < largest(audit=False) <= target
    free = _pool(corpus, replace(Design(), audit=False), Target(Size(1024, 16), 10**9))
    widths = sorted({size.width for size in free})
    # multiples of 16 up to 128, and four to an octave from there on
    octaves = [octave + octave * part // 4 for octave in (128, 256, 512) for part in range(4)]
    assert widths == [*range(16, 128, 16), *octaves, 1024]
    odd = Size(48, 1)
    assert odd in _pool(corpus, replace(Design(), sizes=(odd, Size(64, 4))), TARGET)


def test_designs_reach_to_half_of_the_audit_run_or_to_the_target() -> None:
    pool = pool_of([1000 * 2**i for i in range(6)])

    def designs(**changes: object) -> list[Design]:
        given = replace(Design(), **changes)  # type: ignore[arg-type]
        return [design for design, _ in _designs(given, LAPTOP_BATCH, TARGET, pool)]

    found = designs()
    ratios = {round(design.longest / design.shortest) for design in found}
    assert ratios == {8, 12, 16}, "24 times half of the shortest is beyond"
    assert max(design.longest for design in found) == 1_900_000
    assert {design.points for design in found} == {5, 7, 9, 12, 16}
    assert {(design.seeds, design.repeated) for design in found} == {
        (seeds, most)
        for seeds in (2, 3)
        for ladder in _ladders(pool)
        for most in (seeds, min(8, len(ladder)))
    }
    shortest = {design.shortest for design in found}
    assert shortest == {120_000, 170_000, 200_000, 240_000}, "0.5 to 1 of the given one's"
    far = designs(audit=False)
    assert max(design.longest for design in far) == 3_800_000
    assert {design.shortest for design in far} == {*shortest, 340_000, 480_000}
    assert all(design.decay == 0.1 for design in far)


def test_a_spread_is_the_standard_deviation_of_a_linear_prediction(
    counts: dict[Size, SizeCounts],
) -> None:
    """Noise of one kind alone, by propagation through weights that are taken from differences."""
    pull = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    parts = {
        "stem": (-0.5) ** 2 + 4.0**2,
        "length": float((pull**2).sum()),  # every stem reads a text of its own
        "own": float((pull**2).sum()),
    }
    for name, expected in parts.items():
        none = StudyNoise(stem=0, own=0, length=0, origin="none")
        noise = none.model_copy(update={name: 0.1})
        assert _variance(pull, noise) == pytest.approx(0.01 * expected), name
    # over the truths: the root of the mean square
    both, first, second = (
        spread_of(counts, Assumptions(truths, LAPTOP_NOISE))
        for truths in (LAPTOP_TRUTHS, LAPTOP_TRUTHS[:1], LAPTOP_TRUTHS[1:])
    )
    assert both == pytest.approx(((first**2 + second**2) / 2) ** 0.5)


def test_finalists_differ_in_sizes_or_in_reach() -> None:
    base = Design()
    designs = [
        base,
        replace(base, seeds=3),
        replace(base, longest=900_000),
        replace(base, sizes=base.sizes[1:]),
    ]
    ranked = [
        Alternative(design, lay_out(base, LAPTOP_BATCH), float(i))
        for i, design in enumerate(designs)
    ]
    assert [each.spread for each in varied(ranked, 2)] == [0.0, 2.0]
    assert [each.spread for each in varied(ranked, 9)] == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("flops", [1e13, 1e15, 1e17])
def test_the_best_run_of_so_many_flops_beats_its_neighbours(corpus: Corpus, flops: float) -> None:
    best = best_of(corpus, Best(flops), [ADDITIVE])
    at = _WIDTHS.index(best.size.width)
    losses = []
    for width in _WIDTHS[at - 1 : at + 2]:
        own = counts_of(corpus, Size(width, _depth(width)))
        losses.append(ADDITIVE.loss(own.counts, flops / own.flops))
    assert min(losses) == losses[1]
    spent = best.tokens * counts_of(corpus, best.size).flops
    assert spent == pytest.approx(flops, rel=1e-3)


@pytest.mark.parametrize("flops", [1e9, 1e24])
def test_a_best_run_outside_of_the_known_sizes_is_refused(corpus: Corpus, flops: float) -> None:
    with pytest.raises(InputError, match=r"^--target .*: the best size lies beyond"):
        best_of(corpus, Best(flops), LAPTOP_TRUTHS)
