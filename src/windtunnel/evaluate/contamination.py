"""How much of an evaluation's items a model may have read: n-grams of words that stand in the text
that it was trained on, source by source (13 words, as Brown et al. 2020, appendix C).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.data.shards import Corpus, TokenStream
from windtunnel.evaluate.model import Show
from windtunnel.results.evaluation import Overlap

WORDS = 13
_TOKENS = 1 << 18  # of a source at a time
# Words in lower case; of languages without spaces between words, each character.
_HAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Items:
    """The items of a task, as text: questions with their right answers."""

    task: str
    texts: Sequence[str]


def overlaps(
    items: Sequence[Items], corpora: Mapping[str, Corpus], show: Show, words: int = WORDS
) -> list[Overlap]:
    """Of each task with each source of the corpora, in the text that is trained on."""
    grams = [[_grams(text, words) for text in one.texts] for one in items]
    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *(g for of in grams for g in of)]))
    found = []
    for name, corpus in corpora.items():
        for source in corpus.sources.values():
            seen = _seen(known, corpus, source.train, f"{name}/{source.name}", show, words)
            for one, of_items in zip(items, grams, strict=True):
                found.append(_overlap(one.task, f"{name}/{source.name}", of_items, seen, words))
    return found


def _overlap(
    task: str, source: str, grams: Sequence[np.ndarray], seen: np.ndarray, words: int
) -> Overlap:
    long_enough = [one for one in grams if len(one)]
    hits = [int(np.isin(one, seen).sum()) for one in long_enough]
    total = sum(map(len, long_enough))
    return Overlap(
        task=task,
        source=source,
        items=len(long_enough),
        touched=sum(hit > 0 for hit in hits),
        share=sum(hits) / total if total else 0.0,
        words=words,
    )


def _seen(
    known: np.ndarray, corpus: Corpus, stream: TokenStream, name: str, show: Show, words: int
) -> np.ndarray:
    """Which of the known n-grams stand in a stream."""
    met = np.zeros(len(known), bool)
    for done, text in _texts(corpus, stream):
        grams = _grams(text, words)
        inside = np.isin(grams, known)
        met[np.searchsorted(known, grams[inside])] = True
        show(f"looking through {name}", done, stream.tokens)
    return known[met]


def _texts(corpus: Corpus, stream: TokenStream) -> Iterator[tuple[int, str]]:
    """How far the stream was read, and the text up to there: whole documents, many together."""
    starts = [*stream.starts.tolist(), stream.tokens]
    begin = 0
    for end in starts[1:]:
        if end - begin < _TOKENS and end < stream.tokens:
            continue
        ids = stream.read(np.array([begin]), end - begin)[0]
        # the end of a document is a word of no text: no n-gram reaches over it
        parts = np.split(ids, np.flatnonzero(ids == corpus.document_end) + 1)
        texts = [corpus.tokenizer.decode(part[part != corpus.document_end]) for part in parts]
        yield end, " windtunnelendofdocument ".join(texts)
        begin = end


def _grams(text: str, words: int) -> np.ndarray:
    """A number for each n-gram of a text, in order: uint64 (n-grams,)."""
    numbers = np.array([hash(word) for word in _WORD.findall(text.lower())], np.int64)
    numbers = numbers.astype(np.uint64)
    count = len(numbers) - words + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    mixed = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for at in range(words):
            mixed = mixed * _FACTOR + numbers[at : at + count]
    return mixed
