"""Where the batch of a stem changes and where branches leave it."""

import math

import pytest

from windtunnel.errors import InputError
from windtunnel.laws.batch import ByTokens
from windtunnel.results.scaling import Segment
from windtunnel.scaling_recipe import LAPTOP_BATCH, BatchRule
from windtunnel.tunnel.scaling.chain import BranchPoint, lay_out, lengths_of
from windtunnel.tunnel.scaling.design import Design


def test_the_default_study_is_large_enough_and_costs_at_most_two_fifths_of_retraining() -> None:
    design = Design()
    chain = lay_out(design, LAPTOP_BATCH)
    assert chain.trained / chain.retrained <= 0.4
    assert chain.fewest_steps >= 400
    assert chain.lengths == pytest.approx(lengths_of(design), rel=0.02)
    assert design.audit_tokens >= 2 * max(chain.lengths)
    assert [point.decay / point.tokens for point in chain.points] == pytest.approx(
        [0.1] * 7, rel=0.05
    )


def test_the_cost_is_that_of_one_stem_and_every_decay() -> None:
    design = Design(shortest=256_000, longest=1_024_000, points=3, batch=2048, decay=0.2)
    chain = lay_out(design, BatchRule(ByTokens(2048, 0), "given"))
    # 0.8 of the longest on the stem; decays of 0.2 of 256k, 512k, 1024k: to whole steps of 2048
    assert chain.segments[-1].end == 819_200
    assert chain.trained == 819_200 + 51_200 + 102_400 + 204_800
    assert chain.retrained == pytest.approx(256_000 + 512_000 + 1_024_000, abs=3 * 2048)


@pytest.mark.parametrize(
    "law",
    [
        LAPTOP_BATCH,
        BatchRule(ByTokens(0.2, 0.7), "steep"),
        BatchRule(ByTokens(1e-3, 1.3), "very steep"),
    ],
)
def test_every_link_of_a_chain_stands_where_a_checkpoint_of_both_batches_can(
    law: BatchRule,
) -> None:
    chain = lay_out(Design(shortest=200_000, longest=6_400_000, points=11), law)
    for before, after in zip(chain.segments, chain.segments[1:], strict=False):
        assert before.end == after.begin
        assert after.batch == 2 * before.batch
        assert after.begin % after.batch == 0
        tie = law.border(
            before.batch
        )  # where the law's batch is as near to the one as to the other
        assert law.by_tokens.predict(tie) == pytest.approx(before.batch * 2**0.5)
        assert 0 <= tie - after.begin < after.batch
    for point in chain.points:
        segment = chain.segments[point.segment]
        assert segment.begin < point.at <= segment.end
        assert point.at % segment.batch == point.decay % segment.batch == 0
    assert chain.points[-1].at == chain.segments[-1].end, "the stem goes further than it is used"
    assert len(chain.segments) > 1


def test_one_batch_for_all_where_the_law_says_so_or_a_person() -> None:
    falling = lay_out(Design(), BatchRule(ByTokens(100_000, -0.3), "falls with the length"))
    assert len(falling.segments) == 1
    assert [
        s.batch for s in lay_out(Design(batch=3072), BatchRule(ByTokens(3072, 0), "given")).segments
    ] == [3072]


def test_lengths_that_fall_on_one_step_are_refused() -> None:
    with pytest.raises(InputError, match="differ by a step"):
        lay_out(
            Design(shortest=30_000, longest=34_000, batch=4096),
            BatchRule(ByTokens(4096, 0), "given"),
        )


GROWING = BatchRule(ByTokens(1.0, 0.5), "grows")  # 1,024 tokens a step at 2^20 tokens


def test_a_chain_by_hand() -> None:
    """Batches 512 and 1,024, with a border at 2 * 512^2 = 524,288, a whole step of both."""
    design = Design(shortest=320_000, longest=1_280_000, points=3, decay=0.2)
    chain = lay_out(design, GROWING)
    assert lengths_of(design) == [320_000, 640_000, 1_280_000]
    assert chain.segments == (
        Segment(begin=0, end=524_288, batch=512),
        # 0.8 of the longest is 1,024,000, a whole number of steps
        Segment(begin=524_288, end=1_024_000, batch=1024),
    )
    # 256,000 is 500 steps; 512,000 is still in the first segment; decays in whole steps
    assert chain.points == (
        BranchPoint(0, 256_000, 64_000),
        BranchPoint(0, 512_000, 128_000),
        BranchPoint(1, 1_024_000, 256_000),
    )
    assert chain.lengths == (320_000, 640_000, 1_280_000)
    assert chain.trained == 1_024_000 + 64_000 + 128_000 + 256_000
    assert chain.retrained == 320_000 + 640_000 + 1_280_000
    steps = 524_288 / 512 + 499_712 / 1024 + 64_000 / 512 + 128_000 / 512 + 256_000 / 1024
    assert chain.steps == pytest.approx(steps)
    assert chain.fewest_steps == 625
    assert chain.middle(0) == pytest.approx(math.sqrt(320_000 * 640_000))
    assert chain.middle(1) == pytest.approx(1_280_000)
    assert chain.warmup == round(0.02 * 640_000)


def test_a_larger_size_leaves_the_same_chain_earlier() -> None:
    """The chain of the test above, whose last length is one that the smallest size alone has."""
    design = Design(shortest=320_000, longest=640_000, points=2, further=1, decay=0.2)
    chain = lay_out(design, GROWING)
    assert lengths_of(design) == [320_000, 640_000, 1_280_000]
    assert chain.points[2] == BranchPoint(1, 1_024_000, 256_000)
    assert chain.first(3) == chain
    shorter = chain.first(2)
    assert shorter.points == chain.points[:2]
    assert shorter.segments == (Segment(begin=0, end=512_000, batch=512),)
    assert shorter.trained == 512_000 + 64_000 + 128_000
    assert shorter.retrained == 320_000 + 640_000
    assert shorter.warmup == chain.warmup, "up to there the stems are the same"


def test_a_segment_that_no_branch_leaves_has_its_own_middle() -> None:
    """524,288 to 2,097,152 with a batch of 1,024, between branches of 400k and 4M tokens."""
    chain = lay_out(Design(shortest=400_000, longest=4_000_000, points=2), GROWING)
    assert [point.segment for point in chain.points] == [0, 2]
    assert chain.middle(1) == pytest.approx(math.sqrt(524_288 * 2_097_152))


@pytest.mark.parametrize(("last", "segments"), [(525_311, 1), (525_313, 2)])
def test_a_segment_has_room_for_two_steps(last: int, segments: int) -> None:
    """Of the batch before it: 524,288 + 2 * 512."""
    design = Design(shortest=300_000, longest=round(last / 0.9), points=2, decay=0.1)
    assert round(0.9 * lengths_of(design)[-1]) == last
    assert len(lay_out(design, GROWING).segments) == segments


@pytest.mark.parametrize(
    ("leaving", "segment", "at"), [(525_311, 0, 524_288), (525_312, 1, 525_312)]
)
def test_a_branch_leaves_a_segment_only_behind_its_first_step(
    leaving: int, segment: int, at: int
) -> None:
    """Where the second has 1,023 tokens of its own, the first is left at its end."""
    middle = round(leaving / 0.9)
    design = Design(shortest=middle // 2, longest=2 * middle, points=3, decay=0.1)
    point = lay_out(design, GROWING).points[1]
    assert (point.segment, point.at) == (segment, at)


def test_a_decay_takes_a_step_at_least_and_rounds_to_the_nearest() -> None:
    law = BatchRule(ByTokens(1000, 0.0), "given")
    design = Design(shortest=30_000, longest=60_000, points=2, batch=1000, decay=0.01)
    assert [point.decay for point in lay_out(design, law).points] == [1000, 1000]
    halves = Design(shortest=30_400, longest=60_600, points=2, batch=1000, decay=0.1)
    # 27,360 and 54,540 leave at 27,000 and 54,000; 3,400 and 6,600 are 3 and 7 steps
    assert [(point.at, point.decay) for point in lay_out(halves, law).points] == [
        (27_000, 3_000),
        (54_000, 7_000),
    ]


def test_the_shortest_branch_leaves_behind_the_warm_up() -> None:
    """Which is 0.02 of the mean length: 20,000 tokens here."""
    law = BatchRule(ByTokens(1000, 0.0), "given")
    with pytest.raises(InputError, match="after 20k tokens of warm-up"):
        lay_out(Design(shortest=22_300, longest=44_843_050, points=2, batch=1000), law)
    chain = lay_out(Design(shortest=24_000, longest=41_666_667, points=2, batch=1000), law)
    assert (chain.warmup, chain.points[0].at) == (20_000, 21_000)
