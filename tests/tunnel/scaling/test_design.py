"""What a design of the scaling study asks for."""

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import count
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.design import (
    FEWEST_SIZES,
    FEWEST_STEPS,
    HIGHEST_COST,
    SMALLEST_SPAN,
    Design,
)


def test_a_stem_a_size_and_more_seeds_for_the_smallest() -> None:
    design = Design(sizes=(Size(64, 4), Size(16, 2), Size(32, 2)), seeds=3, repeated=1)
    assert design.stems == [
        (Size(16, 2), 16_020),
        (Size(16, 2), 16_021),
        (Size(16, 2), 16_022),
        (Size(32, 2), 32_020),
        (Size(64, 4), 64_040),
    ]


def test_no_two_stems_read_the_same_order_of_the_text_and_more_sizes_change_no_seed() -> None:
    few = Design(sizes=(Size(32, 2), Size(64, 2)), seeds=2, repeated=2).stems
    more = Design(
        sizes=(Size(16, 2), Size(32, 2), Size(32, 4), Size(64, 2)), seeds=3, repeated=4
    ).stems
    assert set(few) < set(more)
    assert len({seed for _, seed in more}) == len(more) == 12


def test_more_seeds_than_a_digit_tells_are_refused() -> None:
    with pytest.raises(InputError, match="--seeds 11: expected at most 10"):
        Design(seeds=11)


def test_sizes_that_are_one_are_refused() -> None:
    with pytest.raises(InputError, match="--sizes 16x2,16x2: expected different sizes"):
        Design(sizes=(Size(16, 2), Size(16, 2)))


def test_only_the_smallest_sizes_are_repeated_and_by_width_and_depth() -> None:
    """By width^2 depth: 32x4 holds as much as 64x1."""
    sizes = (Size(64, 2), Size(32, 4), Size(48, 2))
    assert Design(sizes=sizes, seeds=2, repeated=2).stems == [
        (Size(32, 4), 32_040),
        (Size(32, 4), 32_041),
        (Size(48, 2), 48_020),
        (Size(48, 2), 48_021),
        (Size(64, 2), 64_020),
    ]
    assert len(Design(sizes=sizes, seeds=2, repeated=0).stems) == 3


def test_smaller_sizes_are_measured_at_further_lengths() -> None:
    sizes = (Size(64, 2), Size(16, 2), Size(48, 2), Size(32, 2))
    design = Design(sizes=sizes, points=5, further=4)
    assert [design.points_of(size) for size in sizes] == [5, 9, 6, 8]
    assert [Design(sizes=sizes).points_of(size) for size in sizes] == [7, 7, 7, 7]
    alone = Design(sizes=(Size(16, 2),), points=5, further=4)
    assert alone.points_of(Size(16, 2)) == 9


def test_the_usual_audit_run_is_larger_and_longer_than_the_fit_as_the_help_says(
    corpus: Corpus,
) -> None:
    design = Design()

    def params(size: Size) -> int:
        """With the vocabulary of the corpus that the usual designs are for."""
        recipe = proxy(corpus, size.width, size.depth)
        return count(recipe.change(model={"vocab": 2048}).model).params_total

    largest = max(map(params, design.sizes))
    assert params(design.audit_size) / largest == pytest.approx(4.5, abs=0.1)
    assert design.audit_tokens == 2 * design.longest
    assert len(design.sizes) == FEWEST_SIZES
    assert 16 < largest / min(map(params, design.sizes)) < 18
    assert design.shortest / 400 >= 512, "enough steps of the smallest batch"
    assert (design.longest, design.points, design.seeds, design.repeated) == (1_920_000, 7, 2, 2)
    assert (design.batch, design.lr, design.decay, design.floor) == (0, 0, 0.1, 0.1)


def test_what_a_law_needs() -> None:
    assert (FEWEST_SIZES, SMALLEST_SPAN, FEWEST_STEPS, HIGHEST_COST) == (5, 16, 400, 0.4)
