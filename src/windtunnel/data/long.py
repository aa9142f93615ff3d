"""A corpus in long windows, made of one that is there: documents lie whole in windows where they
fit, long ones apart from short ones, and long questions beside them.

Of each source SOURCE there are windows that hold a long document, as `SOURCE-long`, filled up with
short ones, and windows of short documents alone, as `SOURCE`; `questions` is made by a seed. A
document that is longer than a window is cut into whole windows and a rest. Nothing crosses a
border: the first token of a document is read and not learnt, nor are the end tokens that fill a
window up.

Everything follows from the corpus and what is asked for, so the folder has a hash of these in its
name, and asking for it again finds it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from windtunnel.data.questions import QUESTIONS, Place, filler_from, shortest
from windtunnel.data.readers import Progress
from windtunnel.data.shards import (
    FORMAT,
    Corpus,
    Manifest,
    Packing,
    ShardWriter,
    SourceEntry,
    Split,
    SplitName,
    TokenStream,
    appearing,
)
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.recipe import Mixture

QUESTIONS_SOURCE = "questions"
LONG = "-long"
# Paper section 7.2: of what is read, 44% is long.
LONG_SHARE = 0.44
# Of what is read, out of the long part. The paper adds questions and does not say how many.
QUESTIONS_SHARE = 0.05
_SHARD = 128 << 20  # tokens
_MOST = 1 << 32  # tokens of a source, at most: a longer run reads them again
_OPEN = 64  # windows that may still be filled
_TRIED = 64  # short documents that are tried for the room in a window
_ORDER = 1  # raised whenever other bytes come out of the same corpus
_FILLER = 1 << 20  # tokens of text that questions stand in
_VALIDATED = 16  # windows of questions that are held out


@dataclass(frozen=True, kw_only=True)
class LongText:
    """What is made of a corpus."""

    context: int
    """Tokens of a window."""
    beyond: int
    """A document is long that has more tokens than this."""
    questions: int
    """Windows of questions to train on; 0: none."""
    seed: int
    """Of the questions, and of the order of the documents."""


@dataclass(frozen=True, kw_only=True)
class Long:
    """What a source holds of long documents."""

    documents: int
    tokens: int


def lengths(stream: TokenStream) -> np.ndarray:
    """Tokens of every document with its end token, int64 (documents,)."""
    return np.diff([*stream.starts, stream.tokens])


def longer_than(corpus: Corpus, beyond: int) -> dict[str, Long]:
    """What there is to train on of documents with more than `beyond` tokens, by source."""
    found = {}
    for name, source in corpus.sources.items():
        sizes = lengths(source.train)
        chosen = sizes[sizes > beyond]
        found[name] = Long(documents=len(chosen), tokens=int(chosen.sum()))
    return found


# Tokens beyond which documents are counted, for people to see how long a context they are worth.
LENGTHS = (1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10)


def by_length(corpus: Corpus) -> dict[str, dict[int, Long]]:
    """By source, what there is to train on of documents beyond each of `LENGTHS`, where there is
    any.
    """
    found: dict[str, dict[int, Long]] = {name: {} for name in corpus.sources}
    for beyond in LENGTHS:
        for name, long in longer_than(corpus, beyond).items():
            if long.documents:
                found[name][beyond] = long
    return found


def build_long(
    corpora: Path, corpus: Corpus, asked: LongText, progress: Progress | None = None
) -> Corpus:
    """The corpus, in the folder `corpora`, of long windows. Raises InputError where no document is
    long and there are no questions either.
    """
    there = longer_than(corpus, asked.beyond)
    if not asked.questions and not any(one.documents for one in there.values()):
        raise InputError(
            f"{corpus.folder}: no document is longer than {asked.beyond} tokens, and there are no "
            "questions to train on: expected a corpus with long documents (see `windtunnel corpus "
            "show`), a smaller --long-from, or --questions above 0"
        )
    settings = [FORMAT, _ORDER, corpus.digest, asdict(asked), list(QUESTIONS)]
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    folder = corpora / f"{corpus.folder.name}-{asked.context}-{fingerprint[:8]}"
    if not (folder / "manifest.json").exists():
        _write(folder, fingerprint, corpus, asked, progress)
    return Corpus.open(folder)


def long_mixture(made: Corpus, before: Mixture, share: float, questions: float) -> Mixture:
    """The weights of a corpus that `build_long` made: long documents by their tokens, short ones
    as they were read `before` or else by their tokens; `share` of what is read is long, and of it
    `questions` are questions, where there are any.
    """
    sizes = {name: source.train.tokens for name, source in made.sources.items()}
    asked = questions if QUESTIONS_SOURCE in sizes else 0.0
    long = {name: float(sizes[name]) for name in sizes if name.endswith(LONG)}
    short = {
        name: before.get(name, 0.0) if before else float(sizes[name])
        for name in sizes
        if name not in long and name != QUESTIONS_SOURCE
    }
    mixture = {QUESTIONS_SOURCE: asked} if asked else {}
    for part, weight in ((long, share - asked), (short, 1 - share)):
        whole = sum(part.values())
        mixture |= {name: weight * size / whole for name, size in part.items() if size}
    return {name: round(weight, 6) for name, weight in mixture.items() if weight}


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A document, or a part of one, in the stream of its source."""

    start: int
    tokens: int
    long: bool


def _pieces(stream: TokenStream, asked: LongText, key: str) -> list[_Piece]:
    """The documents in the order of a seed, those that are longer than a window in parts."""
    sizes, starts = lengths(stream), stream.starts
    rng = np.random.default_rng(_seed(f"{asked.seed}/{key}"))
    result: list[_Piece] = []
    held = 0
    for index in rng.permutation(len(sizes)).tolist():
        start, size = int(starts[index]), int(sizes[index])
        for begin in range(0, size, asked.context):
            part = min(asked.context, size - begin)
            result.append(_Piece(start=start + begin, tokens=part, long=size > asked.beyond))
        held += size
        if held > _MOST:
            break
    return result


def packed(pieces: Sequence[_Piece], context: int) -> Iterator[list[_Piece]]:
    """Windows: first those that hold a part of a long document, with short documents in the room
    that is left; then those of short ones. Each piece goes into the first window that has room for
    it, of the last `_OPEN`.
    """
    short = [piece for piece in pieces if not piece.long]
    waiting = iter(short)
    ahead: list[_Piece] = []  # of the short ones, those that are tried next
    for window in _first_fit([piece for piece in pieces if piece.long], context):
        room = context - sum(piece.tokens for piece in window)
        while len(ahead) < _TRIED and (piece := next(waiting, None)):
            ahead.append(piece)
        left = []
        for piece in ahead:
            if piece.tokens <= room:
                window.append(piece)
                room -= piece.tokens
            else:
                left.append(piece)
        ahead = left
        yield window
    yield from _first_fit([*ahead, *waiting], context)


def _first_fit(pieces: Sequence[_Piece], context: int) -> Iterator[list[_Piece]]:
    windows: list[tuple[list[_Piece], int]] = []  # what each holds, and its room; oldest first
    for piece in pieces:
        at = next((i for i, (_, room) in enumerate(windows) if room >= piece.tokens), None)
        if at is None:
            windows.append(([piece], context - piece.tokens))
            at = len(windows) - 1
        else:
            held, room = windows[at]
            held.append(piece)
            windows[at] = held, room - piece.tokens
        if not windows[at][1] or len(windows) > _OPEN:
            yield windows.pop(at if not windows[at][1] else 0)[0]
    yield from (held for held, _ in windows)


class _Windows:
    """Writes whole windows of one split, and behind the last one more token."""

    def __init__(self, folder: Path, source: str, split: SplitName, corpus: Corpus) -> None:
        (folder / source).mkdir(exist_ok=True)
        self._eos, self._dtype = corpus.manifest.eos, np.dtype(corpus.manifest.dtype)
        self._writer = ShardWriter(folder, source, split, self._dtype, _SHARD)
        self._bytes = corpus.tokenizer.token_bytes
        self.windows = 0

    def add(self, documents: Sequence[tuple[np.ndarray, np.ndarray]], context: int) -> None:
        """A window of documents, each its ids and which of them are learnt, filled up."""
        ids = np.full(context, self._eos, self._dtype)
        learnt = np.zeros(context, bool)
        counts, sizes, at = [], [], 0
        for tokens, counted in documents:
            ids[at : at + len(tokens)], learnt[at : at + len(tokens)] = tokens, counted
            at += len(tokens)
            counts.append(len(tokens))
            sizes.append(int(self._bytes[tokens].sum()))
        counts[-1] += context - at  # what fills it up belongs to the last
        self._writer.add(ids, np.array(counts), np.array(sizes), learnt)
        self.windows += 1

    def finish(self) -> Split:
        """What was written; an empty split where no window was."""
        if self.windows:
            end = np.array([self._eos], self._dtype)
            self._writer.add(end, np.array([1]), np.array([0]), np.zeros(1, bool))
        return self._writer.finish()

    def abandon(self) -> None:
        self._writer.abandon()


def _write(
    folder: Path, fingerprint: str, corpus: Corpus, asked: LongText, progress: Progress | None
) -> None:
    """Write the corpus's folder, which appears whole. Raises InputError."""
    entries: dict[str, SourceEntry] = {}
    with appearing(folder) as part:
        corpus.tokenizer.keep(part)
        for number, (name, entry) in enumerate(corpus.manifest.sources.items()):
            if progress:
                progress(f"lay out {name} in windows", number, len(corpus.manifest.sources))
            entries |= _source(part, name, entry, corpus, asked)
        if asked.questions:
            entries[QUESTIONS_SOURCE] = _questions(part, corpus, asked, progress)
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint,
            tokenizer_sha256=corpus.manifest.tokenizer_sha256,
            vocab=corpus.manifest.vocab,
            dtype=corpus.manifest.dtype,
            eos=corpus.manifest.eos,
            sources=entries,
            packing=Packing(context=asked.context, template="", cut=0, dropped=0),
        )
        write_whole(part / "manifest.json", manifest.to_json())


def _source(
    part: Path, name: str, entry: SourceEntry, corpus: Corpus, asked: LongText
) -> dict[str, SourceEntry]:
    """Both sources that one becomes; one that has no window to train on is left out."""
    splits: dict[str, dict[str, Split]] = {name: {}, f"{name}{LONG}": {}}
    streams: dict[SplitName, TokenStream] = {
        "train": corpus.sources[name].train,
        "validation": corpus.sources[name].validation,
    }
    for split, stream in streams.items():
        writers = {made: _Windows(part, made, split, corpus) for made in splits}
        try:
            for window in packed(_pieces(stream, asked, f"{name}/{split}"), asked.context):
                made = f"{name}{LONG}" if any(piece.long for piece in window) else name
                writers[made].add([_read(stream, piece) for piece in window], asked.context)
            for made, writer in writers.items():
                splits[made][split] = writer.finish()
        finally:
            for writer in writers.values():
                writer.abandon()
    return {
        made: SourceEntry(
            origin=f"{corpus.folder.name}/{name}",
            licence=entry.licence,
            synthetic=entry.synthetic,
            read=written["train"].documents + written["validation"].documents,
            malformed=0,
            duplicates=0,
            cut=False,
            train=written["train"],
            validation=written["validation"],
        )
        for made, written in splits.items()
        if written["train"].tokens
    }


def _read(stream: TokenStream, piece: _Piece) -> tuple[np.ndarray, np.ndarray]:
    """Its ids, and which of them are learnt: all but the first, which nothing of it foretells."""
    ids = stream.read(np.array([piece.start]), piece.tokens)[0]
    learnt = np.ones(len(ids), bool)
    learnt[0] = False
    return ids, learnt


def _questions(
    part: Path, corpus: Corpus, asked: LongText, progress: Progress | None
) -> SourceEntry:
    """Questions of every kind in turn, each of a whole window, at every depth; of each the answer
    alone is learnt. Text to train on lies around those to train on, and held-out text around those
    that are held out.
    """
    kinds = [
        kind
        for kind in QUESTIONS.values()
        if shortest(kind, corpus.tokenizer.encode) <= asked.context
    ]
    if not kinds:
        raise InputError(f"--questions: {asked.context} tokens have no room for a long question")
    written: dict[str, Split] = {}
    counts: dict[SplitName, int] = {"train": asked.questions, "validation": _VALIDATED}
    for split, count in counts.items():
        rng = np.random.default_rng(_seed(f"{asked.seed}/questions/{split}"))
        filler = filler_from(_some_text(corpus, split), rng)
        writer = _Windows(part, QUESTIONS_SOURCE, split, corpus)
        try:
            for number in range(count):
                place = Place(
                    encode=corpus.tokenizer.encode,
                    length=asked.context - 1,
                    depth=float(rng.random()),
                    filler=filler,
                    rng=rng,
                )
                question = kinds[number % len(kinds)].make(place)
                ids = np.append(question.ids, corpus.manifest.eos)
                learnt = np.zeros(len(ids), bool)
                learnt[-1 - question.answer : -1] = True
                writer.add([(ids, learnt)], asked.context)
                if progress and number % 64 == 0:
                    progress("make questions", number, count)
            written[split] = writer.finish()
        finally:
            writer.abandon()
    return SourceEntry(
        origin=f"made with seed {asked.seed}, in text of {corpus.folder.name}",
        licence="that of the text around",
        synthetic=True,
        read=asked.questions + _VALIDATED,
        malformed=0,
        duplicates=0,
        cut=False,
        train=written["train"],
        validation=written["validation"],
    )


def _some_text(corpus: Corpus, split: SplitName) -> np.ndarray:
    """Text of every source, without the tokens that end documents."""
    parts = []
    for source in corpus.sources.values():
        stream = (
            source.validation
            if split == "validation" and source.validation.tokens
            else source.train
        )
        count = min(stream.tokens, _FILLER // len(corpus.sources))
        parts.append(stream.read(np.array([0]), count)[0])
    ids = np.concatenate(parts)
    return ids[ids != corpus.manifest.eos]


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
