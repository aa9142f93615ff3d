"""The order of windows is a pure function of the position, and keeps what it promises of epochs
and mixtures.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.order import Order, OrderStage

bounded = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**63 - 1)
sizes = st.integers(1, 200)
weights = st.floats(0.01, 1.0)
NAMES = ("web", "code", "books", "notes")


@st.composite
def mixtures(draw: st.DrawFn, least: int = 1) -> dict[str, float]:
    names = NAMES[: draw(st.integers(least, len(NAMES)))]
    return {name: draw(weights) for name in names}


@st.composite
def orders(draw: st.DrawFn, stages: int = 2) -> Order:
    """Small sources, so that a few hundred windows are several epochs, and up to so many stages."""
    mixture = draw(mixtures())
    held = {name: draw(sizes) for name in mixture}
    first, staged = 0, [OrderStage(0, mixture)]
    for _ in range(draw(st.integers(0, stages - 1))):
        first += draw(st.integers(1, 250))
        staged.append(OrderStage(first, {name: draw(weights) for name in mixture}))
    return Order(draw(seeds), held, staged)


def test_the_order_is_the_one_that_it_always_was() -> None:
    """A run is named by its seed and its corpus, and would not be the same with another order."""
    stages = [OrderStage(0, {"a": 2, "b": 1}), OrderStage(8, {"b": 1})]
    sources, windows = Order(7, {"a": 5, "b": 3}, stages).at(0, 12)
    assert sources.tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert windows.tolist() == [2, 0, 4, 0, 1, 3, 1, 2, 1, 1, 0, 2]


def windows_of(order: Order, source: int, count: int) -> list[int]:
    """The windows of one source among the first `count`, in the order in which they are read."""
    sources, windows = order.at(0, count)
    return windows[sources == source].tolist()


@bounded
@given(orders())
def test_every_epoch_of_a_source_holds_every_window_once_whatever_the_stages(order: Order) -> None:
    for source, name in enumerate(order.sources):
        size, read = order.windows[name], windows_of(order, source, 800)
        for epoch in range(len(read) // size):
            assert sorted(read[epoch * size : (epoch + 1) * size]) == list(range(size))
        begun = read[len(read) // size * size :]
        assert len(set(begun)) == len(begun) and all(0 <= window < size for window in begun)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000])
def test_sizes_from_one_on_are_permuted(size: int) -> None:
    read = windows_of(Order(5, {"only": size}, [OrderStage(0, {"only": 1.0})]), 0, 3 * size)
    assert [sorted(read[i * size : (i + 1) * size]) for i in range(3)] == [list(range(size))] * 3


def test_a_large_source_is_read_far_from_its_beginning_at_once() -> None:
    size = 10**9
    order = Order(0, {"only": size}, [OrderStage(0, {"only": 1.0})])
    _, windows = order.at(7 * size + 12345, 20_000)
    assert len(np.unique(windows)) == 20_000
    assert 0 <= windows.min() < size // 100 and size - size // 100 < windows.max() < size


@bounded
@given(mixtures(), seeds, st.integers(0, 2**40), st.integers(16_384, 40_000))
def test_the_mixture_is_met_to_a_thousandth_from_any_start(
    mixture: dict[str, float], seed: int, first: int, count: int
) -> None:
    order = Order(seed, dict.fromkeys(mixture, 977), [OrderStage(0, mixture)])
    read = np.bincount(order.at(first, count)[0], minlength=len(mixture)) / count
    asked = np.array(list(mixture.values())) / sum(mixture.values())
    assert np.abs(read - asked).max() <= 1e-3


@bounded
@given(mixtures(), seeds, st.integers(0, 10**6))
def test_from_the_beginning_of_a_stage_the_mixture_is_met_within_three_windows(
    mixture: dict[str, float], seed: int, begin: int
) -> None:
    """The sequence strays by a third of a window each time that the stretch doubles: three at 64,
    four at 512.
    """
    stages = [OrderStage(0, {"web": 1.0}), OrderStage(begin + 1, mixture)]
    sources, _ = Order(seed, dict.fromkeys(mixture, 977), stages).at(begin + 1, 512)
    read = np.cumsum(sources[:, None] == np.arange(len(mixture)), axis=0)
    asked = np.arange(1, 513)[:, None] * np.array(list(mixture.values())) / sum(mixture.values())
    assert np.abs(read - asked)[:64].max() <= 3
    assert np.abs(read - asked).max() <= 4


@bounded
@given(orders(stages=3), st.integers(0, 1500), st.integers(1, 64), st.integers(1, 8))
def test_the_batch_and_the_start_do_not_change_what_stands_at_a_position(
    order: Order, first: int, batch: int, batches: int
) -> None:
    whole = np.stack(order.at(0, first + batch * batches))[:, first:]
    parts = [np.stack(order.at(first + i * batch, batch)) for i in range(batches)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


@bounded
@given(orders(stages=3), st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6))
def test_ranks_that_each_read_their_stride_of_a_batch_read_the_batch(
    order: Order, first: int, ranks: int, each: int
) -> None:
    batch = np.stack(order.at(first, ranks * each))
    together = np.empty_like(batch)
    for rank in range(ranks):
        own = [np.stack(order.at(first + i, 1)) for i in range(rank, ranks * each, ranks)]
        together[:, rank::ranks] = np.concatenate(own, axis=1)
    assert np.array_equal(together, batch)


@bounded
@given(mixtures(least=2), mixtures(least=2), seeds, st.integers(1, 500))
def test_after_a_stage_change_each_source_goes_on_where_it_was(
    before: dict[str, float], after: dict[str, float], seed: int, change: int
) -> None:
    held = dict.fromkeys(NAMES, 150)
    staged = Order(seed, held, [OrderStage(0, before), OrderStage(change, after)])
    for source, name in enumerate(NAMES):
        alone = Order(seed, {name: 150}, [OrderStage(0, {name: 1.0})])
        read = windows_of(staged, source, 1500)
        assert read == windows_of(alone, 0, len(read))


@bounded
@given(mixtures(), seeds, st.integers(1, 1000), st.sampled_from(["first", "last"]))
def test_a_source_that_joins_later_does_not_change_what_was_read_before(
    mixture: dict[str, float], seed: int, change: int, place: str
) -> None:
    held, new = dict.fromkeys(mixture, 211), {"new": 50}
    more = new | held if place == "first" else held | new
    staged = Order(seed, more, [OrderStage(0, mixture), OrderStage(change, {"new": 1.0} | mixture)])
    without = Order(seed, held, [OrderStage(0, mixture)])
    (sources, windows), (expected_sources, expected_windows) = (
        staged.at(0, change),
        without.at(0, change),
    )
    assert [staged.sources[i] for i in sources] == [without.sources[i] for i in expected_sources]
    assert np.array_equal(windows, expected_windows)
    assert staged.sources.index("new") in staged.at(change, 1000)[0]


@bounded
@given(st.lists(seeds, min_size=2, max_size=5, unique=True))
def test_seeds_differ_in_the_order_of_windows(different: list[int]) -> None:
    orders = [Order(seed, {"only": 100}, [OrderStage(0, {"only": 1.0})]) for seed in different]
    assert len({tuple(windows_of(order, 0, 100)) for order in orders}) == len(different)


def test_epochs_and_sources_differ_in_the_order_of_windows() -> None:
    order = Order(0, {"a": 100, "b": 100}, [OrderStage(0, {"a": 1.0, "b": 1.0})])
    read = [windows_of(order, source, 1000) for source in (0, 1)]
    epochs = {tuple(windows[i * 100 : (i + 1) * 100]) for windows in read for i in range(4)}
    assert len(epochs) == 8


def test_the_order_looks_random() -> None:
    """Windows that follow each other are not near each other, nor are they of a pattern: as in a
    random permutation, the rank correlation of neighbours is about 0 +- 1 / sqrt(size).
    """
    size = 10_000
    for seed in range(5):
        read = np.array(
            windows_of(Order(seed, {"only": size}, [OrderStage(0, {"only": 1.0})]), 0, size)
        )
        for lag in (1, 2, 100):
            assert abs(np.corrcoef(read[:-lag], read[lag:])[0, 1]) < 5 / size**0.5
        assert abs(np.corrcoef(read, np.arange(size))[0, 1]) < 5 / size**0.5


@bounded
@given(orders(stages=3), st.integers(0, 3000))
def test_epochs_count_the_windows_that_were_read(order: Order, count: int) -> None:
    sources, _ = order.at(0, count)
    read = {
        name: int((sources == i).sum()) / order.windows[name]
        for i, name in enumerate(order.sources)
    }
    assert order.epochs(count) == read


def test_a_source_of_no_windows_may_stand_by_without_weight() -> None:
    order = Order(0, {"a": 10, "empty": 0}, [OrderStage(0, {"a": 1.0, "empty": 0.0})])
    assert set(order.at(0, 100)[0]) == {0}
    assert order.epochs(100) == {"a": 10.0}
