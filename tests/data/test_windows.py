"""Windows are the corpus' own tokens in the order's order, and a mixture that the corpus can't
give is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import Data, Recipe


def windows_of(corpus: Corpus, context: int = 32, seed: int = 0, **data: Any) -> Windows:
    return Windows(corpus, Data.model_validate({"corpus": "tiny", "context": context} | data), seed)


def stream_of(corpus: Corpus, source: str, split: str = "train") -> np.ndarray:
    """All tokens of a split, from its files alone."""
    shards = getattr(corpus.manifest.sources[source], split).shards
    return np.concatenate(
        [np.fromfile(corpus.folder / shard.file, corpus.manifest.dtype) for shard in shards]
    )


@pytest.mark.parametrize("context", [1, 31, 32, 500])
def test_a_window_is_exactly_the_tokens_that_the_order_names(corpus: Corpus, context: int) -> None:
    windows = windows_of(corpus, context)
    streams = [stream_of(corpus, source) for source in corpus.sources]
    read = windows.read(3 * context, 50 * context)
    assert read.dtype == np.int64 and read.shape == (50, context + 1)
    for row, source, window in zip(read, *windows.order.at(3, 50), strict=True):
        assert (
            row.tolist() == streams[source][window * context : (window + 1) * context + 1].tolist()
        )


def test_an_epoch_has_every_token_but_the_first_as_a_target_once(corpus: Corpus) -> None:
    for source in corpus.sources:
        windows, stream = windows_of(corpus, mixture={source: 1.0}), stream_of(corpus, source)
        count = (len(stream) - 1) // 32
        read = windows.read(0, count * 32)
        in_order = read[np.argsort(windows.order.at(0, count)[1])]
        assert in_order[:, 1:].ravel().tolist() == stream[1 : count * 32 + 1].tolist()


def test_the_last_token_of_a_window_is_the_first_of_the_next(corpus: Corpus) -> None:
    windows = windows_of(corpus, mixture={"prose": 1.0})
    count = windows.order.windows["prose"]
    in_order = windows.read(0, count * 32)[np.argsort(windows.order.at(0, count)[1])]
    assert np.array_equal(in_order[:-1, -1], in_order[1:, 0])


def test_reading_in_parts_is_reading_at_once(corpus: Corpus) -> None:
    windows = windows_of(corpus, stages=[{"at": 1600, "mixture": {"code": 1.0, "notes": 3.0}}])
    parts = [windows.read(position, 320) for position in range(0, 3200, 320)]
    assert np.array_equal(np.concatenate(parts), windows.read(0, 3200))


def test_without_a_mixture_each_source_counts_by_its_size(corpus: Corpus) -> None:
    sources, _ = windows_of(corpus).order.at(0, 20_000)
    held = np.array([(len(stream_of(corpus, source)) - 1) // 32 for source in corpus.sources])
    assert np.abs(np.bincount(sources) / 20_000 - held / held.sum()).max() < 1e-3


def test_a_stage_begins_at_its_token(corpus: Corpus) -> None:
    windows = windows_of(
        corpus, mixture={"prose": 1.0}, stages=[{"at": 3200, "mixture": {"code": 1.0}}]
    )
    names = [windows.order.sources[i] for i in windows.order.at(0, 200)[0]]
    assert names == ["prose"] * 100 + ["code"] * 100


def test_the_seed_changes_what_is_read(corpus: Corpus) -> None:
    first, second = (windows_of(corpus, seed=seed).read(0, 3200) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, windows_of(corpus, seed=0).read(0, 3200))


def test_validation_reads_windows_spread_over_the_validation_split(corpus: Corpus) -> None:
    windows, stream = windows_of(corpus), stream_of(corpus, "prose", "validation")
    all_of_it = windows.validation("prose", 10**9)
    assert all_of_it[:, :-1].ravel().tolist() == stream[: 32 * len(all_of_it)].tolist()
    assert all_of_it[:, 1:].ravel().tolist() == stream[1 : 32 * len(all_of_it) + 1].tolist()
    held = windows.validation("prose", 330)
    assert held.shape == (10, 33) and len(all_of_it) > 20
    # one of each tenth, the middle one
    places = [10 * all_of_it.tolist().index(window) / len(all_of_it) for window in held.tolist()]
    assert np.abs(np.array(places) - np.arange(10) - 0.5).max() <= 10 / len(all_of_it)


def test_a_shorter_validation_reads_no_window_twice(corpus: Corpus) -> None:
    windows = windows_of(corpus)
    held = len(windows.validation("prose", 10**9))
    for count in range(1, held + 1):
        read = windows.validation("prose", 32 * count)
        assert len({tuple(window) for window in read.tolist()}) == count


def test_validation_takes_what_there_is_and_at_least_one_window(corpus: Corpus) -> None:
    windows, stream = windows_of(corpus), stream_of(corpus, "prose", "validation")
    assert len(windows.validation("prose", 10**9)) == (len(stream) - 1) // 32
    assert len(windows.validation("prose", 5)) == 1


def test_a_validation_split_shorter_than_a_window_gives_none(corpus: Corpus) -> None:
    context = len(stream_of(corpus, "notes", "validation"))
    assert windows_of(corpus, context).validation("notes", 10**6).shape == (0, context + 1)


@pytest.mark.parametrize("where", ["mixture", "stages"])
def test_a_source_that_is_not_there_is_named_with_the_nearest(corpus: Corpus, where: str) -> None:
    mixture = {"prosa": 1.0, "code": 1.0}
    data = (
        {"mixture": mixture}
        if where == "mixture"
        else {"stages": [{"at": 320, "mixture": mixture}]}
    )
    with pytest.raises(
        InputError,
        match=r"names 'prosa', not a source .*prose, code, notes.*; did you mean 'prose'\?",
    ):
        windows_of(corpus, **data)


def test_a_source_of_less_than_one_window_is_refused_unless_it_has_no_weight(
    corpus: Corpus,
) -> None:
    context = len(stream_of(corpus, "notes"))
    with pytest.raises(
        InputError, match=f"draws on 'notes', which holds less than one window of {context} tokens"
    ):
        windows_of(corpus, context, mixture={"prose": 1.0, "notes": 0.5})
    windows = windows_of(corpus, context, mixture={"prose": 1.0, "notes": 0.0})
    assert windows.read(0, context).shape == (1, context + 1)


def test_without_a_mixture_a_source_of_less_than_one_window_is_left_out(corpus: Corpus) -> None:
    windows = windows_of(corpus, len(stream_of(corpus, "notes")))
    assert "notes" not in {windows.order.sources[i] for i in windows.order.at(0, 100)[0]}


@pytest.mark.parametrize("weight", [0.0, float("inf")])
@pytest.mark.parametrize("where", ["mixture", "stages"])
def test_weights_that_are_no_shares_are_refused(
    corpus: Corpus, recipe: Callable[..., Recipe], where: str, weight: float
) -> None:
    mixture = {"prose": weight, "code": 0.0}
    with pytest.raises(InputError):
        asked = recipe(
            data={"mixture": mixture}
            if where == "mixture"
            else {"stages": [{"at": 320, "mixture": mixture}]}
        )
        Windows(corpus, asked.data, asked.seed)


def test_a_corpus_of_less_than_one_window_is_refused(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="window"):
        windows_of(corpus, 10**6)
