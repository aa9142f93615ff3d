"""What a design lacks, and what speaks against it, at the very bounds."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import Counts
from windtunnel.results.dry_run import Expectation, ParameterFound
from windtunnel.results.scaling import Segment
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import BranchPoint, Chain
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.against import doubts, shortcomings
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts, counts_of
from windtunnel.tunnel.scaling.dry_run.simulate import PointGrid

SIZES = (Size(16, 2), Size(32, 2), Size(48, 3), Size(64, 4), Size(96, 4))
LENGTHS = (204_800, 409_600, 819_200, 1_638_400)


def chain(lengths: tuple[int, ...] = LENGTHS, batch: int = 512, decay: float = 0.1) -> Chain:
    points = []
    for tokens in lengths:
        points.append(BranchPoint(0, tokens - round(decay * tokens), round(decay * tokens)))
    segment = Segment(begin=0, end=points[-1].at, batch=batch)
    return Chain(segments=(segment,), points=tuple(points), warmup=1000)


def text(tokens: int) -> Any:
    """A corpus of so many tokens."""
    return SimpleNamespace(train_tokens=tokens)


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> dict[Size, SizeCounts]:
    return {size: counts_of(corpus, size) for size in SIZES}


def lacking(
    counts: dict[Size, SizeCounts],
    chain: Chain,
    corpus: Any,
    sizes: tuple[Size, ...] = SIZES,
    **more: Any,
) -> list[str]:
    design = replace(Design(sizes=sizes, audit=False), **more)
    return shortcomings(design, chain, PointGrid.of(design, chain, counts), corpus)


def test_a_design_at_every_bound_lacks_nothing(counts: dict[Size, SizeCounts]) -> None:
    """Five sizes, 400 steps of the shortest, eight times as long, text read once."""
    # 0.9 of the longest and a tenth of each cost 0.58; ten lengths near the longest cost less
    more = tuple(sorted({*LENGTHS, *(1_638_400 - 10_240 * i for i in range(1, 10))}))
    assert lacking(counts, chain(more), text(1_638_400)) == []


@pytest.mark.parametrize(
    ("lengths", "batch", "tokens", "says"),
    [
        ((204_800, 1_500_000), 512, 10**7, "lengths over 7.32x: tokens a parameter need a spread"),
        ((204_800, 1_638_400), 513, 10**7, "399 steps at the shortest length: it needs 400"),
        ((204_800, 1_638_400), 512, 1_638_399, "the longest run reads the corpus 1.00 times"),
        ((204_800, 1_638_400), 512, 819_200, "the longest run reads the corpus 2.00 times"),
    ],
)
def test_what_a_chain_lacks_is_said(
    counts: dict[Size, SizeCounts], lengths: tuple[int, ...], batch: int, tokens: int, says: str
) -> None:
    found = lacking(counts, chain(lengths, batch), text(tokens))
    costs = [line for line in found if "of retraining every point" in line]
    assert len(costs) == 1, "two lengths make little use of a stem"
    (other,) = [line for line in found if line not in costs]
    assert other.startswith(says)


def test_whole_steps_may_miss_the_spread_of_lengths_by_a_little(
    counts: dict[Size, SizeCounts],
) -> None:
    """8 times 0.98."""
    for longest, missed in ((1_605_700, False), (1_605_500, True)):
        found = lacking(counts, chain((204_800, longest)), text(10**7))
        assert any("lengths over" in line for line in found) is missed


def test_sizes_must_be_five_and_span_sixteen_times(counts: dict[Size, SizeCounts]) -> None:
    few = lacking(counts, chain(), text(10**7), sizes=SIZES[:3])
    assert any(line.startswith("3 sizes: a law needs 5 or more") for line in few)
    totals = [counts[size].counts.params_total for size in SIZES]
    span = totals[2] / totals[0]
    assert 8 < span < 9
    (said,) = [line for line in few if line.startswith("sizes over")]
    assert said == f"sizes over {span:.3g}x in parameters: N's exponent needs 16x or more"
    exact = {
        size: SizeCounts(
            depth=2, counts=Counts(params=n, params_with_head=n, params_total=n), flops=n
        )
        for size, n in zip(SIZES, (1000, 2000, 4000, 8000, 16_000), strict=True)
    }
    assert not any(line.startswith("sizes") for line in lacking(exact, chain(), text(10**7)))


def test_one_size_lies_on_one_ray_and_so_does_one_length(counts: dict[Size, SizeCounts]) -> None:
    one_size = lacking(counts, chain(), text(10**7), sizes=SIZES[:1])
    assert any("on one ray" in line for line in one_size)
    one_length = lacking(counts, chain(LENGTHS[:1]), text(10**7))
    assert any("on one ray" in line for line in one_length)
    assert not any("on one ray" in line for line in lacking(counts, chain(), text(10**7)))


def test_the_audit_run_reads_text_too(counts: dict[Size, SizeCounts]) -> None:
    found = lacking(counts, chain(), text(2_000_000), audit=True, audit_tokens=3_000_000)
    assert any("reads the corpus 1.50 times" in line for line in found)


@pytest.mark.parametrize(("decay", "dear"), [(0.1, False), (0.2, True)])
def test_stems_and_branches_may_cost_two_fifths(
    counts: dict[Size, SizeCounts], decay: float, dear: bool
) -> None:
    lengths = tuple(round(204_800 * 8 ** (i / 7)) for i in range(8))
    laid = chain(lengths, decay=decay)
    share = laid.trained / laid.retrained
    assert (share > 0.4) is dear and abs(share - 0.4) < 0.08
    found = [line for line in lacking(counts, laid, text(10**7)) if "stems and branches" in line]
    assert [re.findall(r"cost (0\.\d\d)", line) for line in found] == [[f"{share:.2f}"]] * dear


def expectation(coverage: float = 0.9, width: float = 0.02, studies: int = 16) -> Expectation:
    return Expectation(
        studies=studies,
        width50=width / 3,
        width90=width,
        error=(-0.01, 0.0, 0.01),
        coverage50=0.5,
        coverage90=coverage,
    )


def within(spread: float, truth: float = 0.1) -> ParameterFound:
    return ParameterFound(truth=truth, low=truth * (1 - spread), high=truth * (1 + spread))


def test_an_exponent_that_may_be_half_of_itself_off_is_not_told() -> None:
    for n, d, names in ((0.49, 0.49, []), (0.51, 0.3, ["N"]), (0.3, 0.6, ["D"])):
        named = {"N's exponent": within(n), "D's exponent": within(d)}
        sure = {"N's exponent": within(0.1), "D's exponent": within(0.1)}
        # whichever of the truths tells least
        found = doubts(expectation(), {"additive": named, "coupled": sure}, 0.05)
        assert [line.split("'s exponent")[0].rsplit(" ", 1)[-1] for line in found] == names
    (line,) = doubts(
        expectation(), {"additive": {"N's exponent": within(0.8), "D's exponent": within(0)}}, 0.05
    )
    assert line.endswith("it would come out within 80% of the true one")


SURE = {"additive": {"N's exponent": within(0.1), "D's exponent": within(0.1)}}


@pytest.mark.parametrize(("width", "doubted"), [(0.05, False), (0.0501, True)])
def test_an_interval_may_be_as_wide_as_what_four_times_the_compute_gains(
    width: float, doubted: bool
) -> None:
    found = doubts(expectation(width=width), SURE, 0.05)
    assert bool(found) is doubted
    assert all("is 5.0% of the loss wide, more than the 5.0%" in line for line in found)


@pytest.mark.parametrize(
    ("coverage", "studies", "doubted"),
    [
        # 0.9 less two standard deviations of a share in so many studies: 0.75 of 16, 0.84 of 100
        (0.751, 16, False),
        (0.749, 16, True),
        (0.841, 100, False),
        (0.839, 100, True),
    ],
)
def test_intervals_may_hold_less_by_the_luck_of_the_draw(
    coverage: float, studies: int, doubted: bool
) -> None:
    assert bool(doubts(expectation(coverage, studies=studies), SURE, 0.05)) is doubted
