"""A corpus in long windows: documents whole, nothing across a border, questions that can be
answered.
"""

from collections.abc import Callable

import numpy as np
import pytest

from windtunnel.data.build import build
from windtunnel.data.long import (
    LONG,
    QUESTIONS_SOURCE,
    LongText,
    build_long,
    lengths,
    longer_than,
)
from windtunnel.data.questions import QUESTIONS, Place, Question, filler_from, shortest
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError

CONTEXT, BEYOND = 256, 100


def written(texts: list[str]) -> Documents:
    return Documents(read=lambda: iter(texts), origin="generated", identity=str(hash(str(texts))))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Documents of 5 to 900 words, every word of which names its document and place."""
    rng = np.random.default_rng(0)
    sizes = [*rng.integers(5, 40, 300), *rng.integers(40, 200, 60), 900, 700]
    texts = [" ".join(f"d{i}p{k}" for k in range(size // 4 + 2)) for i, size in enumerate(sizes)]
    folder = tmp_path_factory.mktemp("corpora") / "mixed"
    return build(folder, {"prose": written(texts)}, vocab=320)


@pytest.fixture(scope="module")
def long(mixed: Corpus) -> Corpus:
    asked = LongText(context=CONTEXT, beyond=BEYOND, questions=10, seed=1)
    return build_long(mixed.folder.parent, mixed, asked)


def documents_of(corpus: Corpus, source: str) -> list[np.ndarray]:
    stream = corpus.sources[source].train
    ids = stream.read(np.array([0]), stream.tokens)[0]
    return np.split(ids, stream.starts[1:])


def without_filling(ids: np.ndarray, eos: int) -> tuple[int, ...]:
    ends = np.flatnonzero(ids == eos)
    return tuple(ids[: ends[0] + 1].tolist() if len(ends) else ids.tolist())


def test_every_document_is_there_once_and_whole_where_it_fits(mixed: Corpus, long: Corpus) -> None:
    eos = mixed.manifest.eos
    found: list[tuple[int, ...]] = []
    for source in ("prose", f"prose{LONG}"):
        # the last is the one token behind the last window
        found += [without_filling(ids, eos) for ids in documents_of(long, source)[:-1]]
    pieces: list[tuple[int, ...]] = []
    for ids in documents_of(mixed, "prose"):
        pieces += [tuple(ids[i : i + CONTEXT].tolist()) for i in range(0, len(ids), CONTEXT)]
    assert sorted(found) == sorted(pieces)


def test_no_document_goes_on_in_the_next_window(long: Corpus) -> None:
    for source in long.sources.values():
        starts = source.train.starts
        assert set(range(0, source.train.tokens, CONTEXT)) <= set(starts.tolist())


def test_long_windows_hold_a_long_document_and_short_ones_none(mixed: Corpus, long: Corpus) -> None:
    sizes = {tuple(ids.tolist()): len(ids) for ids in documents_of(mixed, "prose")}
    stream = long.sources["prose"].train
    assert all(
        sizes[without_filling(ids, mixed.manifest.eos)] <= BEYOND
        for ids in documents_of(long, "prose")[:-1]
    )
    assert stream.tokens % CONTEXT == 1
    there = longer_than(mixed, BEYOND)["prose"]
    assert there.documents == sum(size > BEYOND for size in lengths(mixed.sources["prose"].train))
    held = long.sources[f"prose{LONG}"].train.tokens
    # the room beside the long documents is filled with short ones
    assert there.tokens < held < 1.6 * there.tokens


def test_what_fills_up_and_what_begins_is_read_and_not_learnt(long: Corpus) -> None:
    stream = long.sources["prose"].train
    windows = stream.marked(np.arange(stream.tokens // CONTEXT) * CONTEXT, CONTEXT + 1)
    plain = np.where(windows < 0, ~windows, windows) & 0xFFFFFFFF
    numbers = np.where(windows < 0, ~windows, windows) >> 32
    begins = np.diff(numbers, axis=1) > 0
    assert (windows[:, 1:][begins] < 0).all()
    filling = (plain[:, 1:] == long.manifest.eos) & (plain[:, :-1] == long.manifest.eos)
    assert filling.any() and (windows[:, 1:][filling] < 0).all()
    # the last target of a window is the first token of the next
    assert (windows[:, 1:-1][~(begins | filling)[:, :-1]] >= 0).all()


def test_asked_again_it_is_there_and_another_seed_is_another(mixed: Corpus, long: Corpus) -> None:
    asked = LongText(context=CONTEXT, beyond=BEYOND, questions=10, seed=1)
    again = build_long(mixed.folder.parent, mixed, asked)
    assert (again.folder, again.digest) == (long.folder, long.digest)
    other = LongText(context=CONTEXT, beyond=BEYOND, questions=10, seed=2)
    assert build_long(mixed.folder.parent, mixed, other).digest != long.digest
    assert not long.is_chat and long.document_end == -1


def test_of_questions_the_answer_alone_is_learnt(long: Corpus) -> None:
    stream = long.sources[QUESTIONS_SOURCE].train
    assert stream.tokens == 10 * CONTEXT + 1
    windows = stream.marked(np.arange(10) * CONTEXT, CONTEXT)
    for window in windows:
        said = long.tokenizer.decode((window[window >= 0] & 0xFFFFFFFF).tolist())
        text = long.tokenizer.decode((np.where(window < 0, ~window, window) & 0xFFFFFFFF).tolist())
        assert said.startswith(" ") and said.strip(" .").isdigit()
        assert text.index(said.strip(" .")) < len(text) - len(said) or "red flag" in text


def test_without_long_documents_there_is_no_such_corpus(mixed: Corpus) -> None:
    with pytest.raises(InputError, match="no document is longer than 5000 tokens"):
        build_long(
            mixed.folder.parent,
            mixed,
            LongText(context=8192, beyond=5000, questions=0, seed=1),
        )


Ask = Callable[..., Question]


@pytest.fixture
def ask(mixed: Corpus) -> Ask:
    def make(kind: str, length: int = 512, depth: float = 0.5, seed: int = 0) -> Question:
        rng = np.random.default_rng(seed)
        text = mixed.sources["prose"].train.read(np.array([0]), 4096)[0]
        place = Place(
            encode=mixed.tokenizer.encode,
            length=length,
            depth=depth,
            filler=filler_from(text, rng),
            rng=rng,
        )
        return QUESTIONS[kind].make(place)

    return make


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_question_is_as_long_as_asked_and_its_answer_stands_where_it_should(
    kind: str, ask: Ask, mixed: Corpus
) -> None:
    places = []
    for depth in (0.0, 0.5, 1.0):
        question = ask(kind, depth=depth)
        assert len(question.ids) == 512
        text = mixed.tokenizer.decode(question.ids.tolist())
        answer = mixed.tokenizer.decode(question.ids[-question.answer :].tolist()).strip(" .")
        if kind == "counting":
            assert text.count("(a red flag)") == int(answer)
            continue
        places.append(text.index(answer) / len(text))
        assert text.index(answer) < len(text) - len(answer) - 2
    if QUESTIONS[kind].anywhere:
        assert places == sorted(places) and places[0] < 0.2 and places[-1] > 0.6


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_question_follows_from_its_seed_and_needs_its_room(
    kind: str, ask: Ask, mixed: Corpus
) -> None:
    assert np.array_equal(ask(kind).ids, ask(kind).ids)
    assert not np.array_equal(ask(kind).ids, ask(kind, seed=1).ids)
    least = shortest(QUESTIONS[kind], mixed.tokenizer.encode)
    assert len(ask(kind, length=least).ids) == least
    with pytest.raises(ValueError, match="no room"):
        ask(kind, length=8)
