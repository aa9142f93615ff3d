"""A corpus on disk: its manifest, its shards of tokens, and the reading of many windows at once.

    CORPUS/manifest.json                     what is here, with the sha256 of every file
    CORPUS/tokenizer.json
    CORPUS/SOURCE/train-00000.bin            little-endian uint16 (uint32 past 65,536 tokens of
                                             vocabulary)
    CORPUS/SOURCE/train-00000.offsets.npy    int64: where the documents begin that begin in this
                                             shard
    CORPUS/SOURCE/train-00000.learnt.bin     a byte a token, of conversations alone: 0 where it is
                                             read, else it is learnt: 1, or in preferences what its
                                             answer is (`recipe.preference`)

Documents stand one behind the other, each with the end token behind it. A shard ends at exactly
its token limit, so a document may go on in the next one. `verified.json` remembers which files
were hashed already.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import sha256_of, write_whole
from windtunnel.recipe import Answers, DataKind

FORMAT = 1
# Of a token in a window: from here on stands the number of its document, see `TokenStream.marked`.
NUMBER_BIT = 32

_FILES_NAMED = 3  # of those that were read alike

SplitName = Literal["train", "validation"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of tokens and what lies beside it; files by their place in the corpus."""

    file: str
    tokens: int
    documents: int  # that begin in it
    bytes: int  # of the UTF-8 text of those documents
    sha256: str
    offsets: str
    offsets_sha256: str
    learnt: str | None = None
    learnt_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """The training or the validation documents of a source."""

    documents: int
    tokens: int
    bytes: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class TakenFor:
    """Files of a source that were read alike."""

    format: str  # by its name
    files: int
    names: tuple[str, ...]  # of the first few


def taken_for(names: Mapping[str, Sequence[str]]) -> tuple[TakenFor, ...]:
    """From the names of files by format."""
    return tuple(
        TakenFor(format=format, files=len(files), names=tuple(files[:_FILES_NAMED]))
        for format, files in names.items()
    )


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """A source, as the manifest has it."""

    origin: str
    licence: str
    synthetic: bool
    read: int  # documents that the source holds, the next two included
    malformed: int
    duplicates: int
    cut: bool  # whether its few documents were cut into pieces, which then count as documents
    train: Split
    validation: Split
    taken: tuple[TakenFor, ...] = ()  # what a person's own files were taken for


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Conversations, or documents, that lie whole in windows of `context` tokens."""

    context: int
    template: str  # by which conversations were written; empty for documents
    cut: int  # conversations that were longer, of which the beginning is here
    dropped: int  # of those, what had nothing to learn in their beginning
    answers: Answers | None = None  # of preferences: two documents each, one behind the other


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a corpus holds, and what it was built from."""

    format: int
    fingerprint: str  # of the settings of the build
    tokenizer_sha256: str
    vocab: int
    dtype: str
    eos: int
    sources: dict[str, SourceEntry]
    encoded_by: str = "tokenizers"  # whatever it was, the ids are the same
    packing: Packing | None = None  # of what lies whole in windows

    def to_json(self) -> bytes:
        """The file's content. What is None is left out."""
        fields = _without_none(dataclasses.asdict(self))
        return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> "Manifest":
        """From the file's content; `name` is what errors call it. Raises InputError."""
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise InputError(
                    f"{name}: format {fields['format']}; this version of windtunnel reads {FORMAT}"
                )
            entries = fields.pop("sources")
            sources = {source: source_entry(entry) for source, entry in entries.items()}
            packing = Packing(**fields.pop("packing")) if "packing" in fields else None
            return cls(sources=sources, packing=packing, **fields)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{name}: not a manifest of a corpus ({error}); build the corpus again"
            ) from error


def source_entry(fields: dict) -> SourceEntry:
    """The entry that `dataclasses.asdict` took apart. Raises TypeError or KeyError where it is
    none.
    """
    splits = {split: _split(fields[split]) for split in get_args(SplitName)}
    taken = []
    for found in fields.get("taken", ()):
        taken.append(TakenFor(**{**found, "names": tuple(found["names"])}))
    return SourceEntry(**{**fields, **splits, "taken": tuple(taken)})


def _split(fields: dict) -> Split:
    shards = tuple(Shard(**shard) for shard in fields["shards"])
    return Split(**{**fields, "shards": shards})


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_none(value) for key, value in values.items() if value is not None}
    if isinstance(values, list | tuple):
        return [_without_none(value) for value in values]
    return values


class Corpus:
    """An opened corpus; every file in it is what its manifest says."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self.sources = {
            name: Source(name, folder, entry, manifest.dtype, bool(manifest.packing))
            for name, entry in manifest.sources.items()
        }

    @classmethod
    def open(cls, folder: str | Path, rehash: bool = False) -> "Corpus":
        """Checks every file; those that were hashed before and have not been touched since are
        not hashed again, unless `rehash` asks for it. Raises InputError where there is no corpus,
        or a file is not what the manifest says.
        """
        folder = Path(folder)
        try:
            data = (folder / "manifest.json").read_bytes()
        except OSError:
            raise InputError(_missing(folder)) from None
        manifest = Manifest.from_json(data, str(folder / "manifest.json"))
        _verify(folder, manifest, rehash)
        return cls(folder, manifest)

    @cached_property
    def digest(self) -> str:
        """Names the content, in 16 hexadecimal digits: the tokenizer and the tokens of every
        source, wherever they came from.
        """
        # By name and content, whatever order the sources were given in.
        files = sorted((file, sha256) for file, sha256, _ in _files(self.manifest))
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its tokens."""
        return Tokenizer.load(self.folder / "tokenizer.json")

    @property
    def holds(self) -> DataKind:
        """What it was built from: conversations say which of their tokens are to be learnt, as does
        whatever else is packed into windows.
        """
        packing = self.manifest.packing
        if packing is None:
            return "text"
        return "preferences" if packing.answers else "conversations"

    @property
    def is_chat(self) -> bool:
        """Whether a model learns to answer from it."""
        return bool(self.manifest.packing and self.manifest.packing.template)

    @property
    def train_tokens(self) -> int:
        """Tokens to be trained on, of all sources."""
        return sum(source.train.tokens for source in self.sources.values())

    @property
    def document_end(self) -> int:
        """The token that ends every document; no token, -1, where each message of a conversation
        may end with it: there the windows number the documents.
        """
        return -1 if self.manifest.packing else self.manifest.eos


class Source:
    """One source of a corpus and its two streams of tokens."""

    def __init__(
        self, name: str, folder: Path, entry: SourceEntry, dtype: str, numbered: bool = False
    ):
        self.name = name
        self.train = TokenStream(folder, entry.train, dtype, numbered)
        self.validation = TokenStream(folder, entry.validation, dtype, numbered)


class TokenStream:
    """All tokens of one split of one source, end to end, whatever shards they lie in. `numbered`:
    windows number their documents, as all of a corpus with conversations do.
    """

    def __init__(self, folder: Path, split: Split, dtype: str, numbered: bool = False):
        self.tokens = split.tokens
        self.bytes = split.bytes
        self.documents = split.documents
        self._folder, self._shards, self._dtype = folder, split.shards, np.dtype(dtype)
        self._begins = np.cumsum([0, *(shard.tokens for shard in split.shards)], dtype=np.int64)
        self._learnt = _learnt(folder, split)
        self._numbered = numbered or self._learnt is not None
        self._maps: dict[int, np.ndarray] = {}

    def read(self, start: np.ndarray, length: int) -> np.ndarray:
        """The windows of `length` tokens that begin at each of `start`: int64 (len(start),
        length). Raises IndexError where one reaches beyond the stream.
        """
        start = np.asarray(start, np.int64)
        outside = start.size and (start.min() < 0 or int(start.max()) + length > self.tokens)
        if length < 0 or outside:
            raise IndexError(
                f"windows of {length} tokens from {start.min()} to {start.max()} in "
                f"{self.tokens} tokens"
            )
        windows = np.empty((len(start), length), np.int64)
        shards = np.searchsorted(self._begins, start, side="right") - 1
        # Windows that lie in one shard are taken at once, those across two one by one.
        whole = start + length <= self._begins[shards + 1]
        for shard in set(shards[whole].tolist()):
            rows = whole & (shards == shard)
            inside = start[rows] - self._begins[shard]
            windows[rows] = self._map(shard)[inside[:, None] + np.arange(length)]
        for row in np.flatnonzero(~whole):
            self._copy(int(start[row]), windows[row])
        return windows

    def marked(self, start: np.ndarray, length: int) -> np.ndarray:
        """Windows as `read` gives them. In a corpus with conversations, each token t of document
        n of the stream, counted from 0, is t + (n << NUMBER_BIT), and ~ of that (below 0) where
        it is read but not learnt.
        """
        windows = self.read(start, length)
        if not self._numbered:
            return windows
        positions = np.asarray(start)[:, None] + np.arange(length)
        documents = np.searchsorted(self.starts, positions, side="right") - 1
        # The number in the upper half leaves the token in the lower one.
        windows += documents << NUMBER_BIT
        if self._learnt is None:
            return windows
        return np.where(self._learnt.read(start, length), windows, ~windows)

    @cached_property
    def roles(self) -> np.ndarray:
        """What the learnt tokens of each document are, as the corpus marks them: uint8
        (documents,), and 1 where every token is learnt.
        """
        if self._learnt is None:
            return np.ones(self.documents, np.uint8)
        marks = self._learnt.read(np.zeros(1, np.int64), self.tokens)[0].astype(np.uint8)
        return np.maximum.reduceat(marks, self.starts)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each document begins, int64 (documents,)."""
        parts = [np.zeros(0, np.int64)]
        for begin, shard in zip(self._begins, self._shards, strict=False):
            offsets = np.load(self._folder / shard.offsets, allow_pickle=False)
            parts.append(begin + offsets)
        return np.concatenate(parts)

    def _copy(self, begin: int, window: np.ndarray) -> None:
        """Fills a window (length,) that lies across shards."""
        done = 0
        while done < len(window):
            shard = int(np.searchsorted(self._begins, begin + done, side="right")) - 1
            inside = begin + done - int(self._begins[shard])
            part = self._map(shard)[inside : inside + len(window) - done]
            window[done : done + len(part)] = part
            done += len(part)

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            # A plain view on the mapped file: slicing np.memmap itself costs several times more.
            mapped = np.memmap(self._folder / self._shards[shard].file, self._dtype, mode="r")
            self._maps[shard] = mapped.view(np.ndarray)
        return self._maps[shard]


def _learnt(folder: Path, split: Split) -> TokenStream | None:
    """Which tokens of a split are learnt, as a stream of bytes; None where all are."""
    shards = tuple(
        dataclasses.replace(shard, file=shard.learnt, learnt=None)
        for shard in split.shards
        if shard.learnt
    )
    if not shards:
        return None
    return TokenStream(folder, dataclasses.replace(split, shards=shards), "u1")


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A new folder in which a corpus is written, and which becomes `folder` once all of it is
    there. Another process may build the same meanwhile: what came first stays. Raises InputError
    where it can't be written.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(folder)
    except OSError as error:
        if not (folder / "manifest.json").exists():
            raise InputError(f"{folder}: could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


class ShardWriter:
    """Writes one split of one source as shards of at most `limit` tokens below `folder`."""

    def __init__(
        self,
        folder: Path,
        source: str,
        split: SplitName,
        dtype: np.dtype,
        limit: int,
    ):
        self._folder, self._stem = folder, f"{source}/{split}"
        self._dtype, self._limit = dtype, limit
        self._shards: list[Shard] = []
        self._stream: BinaryIO | None = None

    def add(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        sizes: np.ndarray,
        learnt: np.ndarray | None = None,
    ) -> None:
        """Appends documents: all their tokens `ids` (tokens,), the number of tokens of each in
        `lengths` and its bytes of text in `sizes` (documents,), and what is learnt, uint8
        (tokens,), 0 where nothing is, if not all. They go on in the next shard where this one is
        full.
        """
        begins = np.cumsum(lengths) - lengths
        done = 0
        while done < len(ids):
            if self._stream is None:
                self._begin()
            assert self._stream is not None
            # A shard ends at exactly its limit; the rest of a document opens the next.
            part = ids[done : done + self._limit - self._tokens].astype(self._dtype, copy=False)
            inside = (begins >= done) & (begins < done + len(part))
            self._offsets.append(begins[inside] - done + self._tokens)
            self._bytes += int(sizes[inside].sum())
            if learnt is not None:
                self._learnt.append(learnt[done : done + len(part)].astype(np.uint8))
            self._stream.write(data := part.tobytes())
            self._hash.update(data)
            self._tokens += len(part)
            done += len(part)
            if self._tokens == self._limit:
                self._end()

    def finish(self) -> Split:
        """What was written, whole and on the disk."""
        if self._stream is not None:
            self._end()
        return Split(
            documents=sum(shard.documents for shard in self._shards),
            tokens=sum(shard.tokens for shard in self._shards),
            bytes=sum(shard.bytes for shard in self._shards),
            shards=tuple(self._shards),
        )

    def abandon(self) -> None:
        """Closes what is open, after an error; nothing where it was finished."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _begin(self) -> None:
        self._name = f"{self._stem}-{len(self._shards):05d}"
        self._stream = open(self._folder / f"{self._name}.bin", "wb")  # noqa: SIM115 - closed by _end()
        self._hash, self._tokens, self._bytes = hashlib.sha256(), 0, 0
        self._offsets: list[np.ndarray] = []
        self._learnt: list[np.ndarray] = []

    def _end(self) -> None:
        assert self._stream is not None
        self._stream.flush()
        # Before its hash is written down, its bytes are on the disk.
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        offsets = array_bytes(np.concatenate(self._offsets).astype(np.int64))
        write_whole(self._folder / f"{self._name}.offsets.npy", offsets)
        learnt = np.concatenate(self._learnt).tobytes() if self._learnt else None
        if learnt is not None:
            write_whole(self._folder / f"{self._name}.learnt.bin", learnt)
        self._shards.append(
            Shard(
                file=f"{self._name}.bin",
                tokens=self._tokens,
                documents=sum(map(len, self._offsets)),
                bytes=self._bytes,
                sha256=self._hash.hexdigest(),
                offsets=f"{self._name}.offsets.npy",
                offsets_sha256=hashlib.sha256(offsets).hexdigest(),
                learnt=None if learnt is None else f"{self._name}.learnt.bin",
                learnt_sha256=None if learnt is None else hashlib.sha256(learnt).hexdigest(),
            )
        )


def array_bytes(array: np.ndarray) -> bytes:
    """An .npy file in memory. (np.save straight into a file loses the reason when the disk is
    full.)
    """
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _missing(folder: Path) -> str:
    """What to say where there is no corpus: how to go on, or which one was meant."""
    if folder.with_name(f".{folder.name}.building").exists():
        return (
            f"{folder}: this corpus is not finished; run the same "
            f"`windtunnel corpus build {folder.name} ...` again"
        )
    hint = f"build it with `windtunnel corpus build {folder.name} SOURCE=PATH... --vocab V`"
    siblings = [path.parent.name for path in folder.parent.glob("*/manifest.json")]
    if near := difflib.get_close_matches(folder.name, siblings, 1):
        hint = f"did you mean {folder.with_name(near[0])}? Or {hint}"
    return f"{folder}: no corpus here; {hint}"


def _verify(folder: Path, manifest: Manifest, rehash: bool) -> None:
    """Raises InputError for a file that is not what the manifest says. `verified.json` remembers
    size, time and sha256 of those that were hashed.
    """
    record = folder / "verified.json"
    known: object = None
    if not rehash:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(record.read_bytes())
    # A record that is damaged counts as none.
    verified = known if isinstance(known, dict) else {}
    seen = {}
    for file, sha256, size in _files(manifest):
        path = folder / file
        try:
            stat = path.stat()
            if size is not None and stat.st_size != size:
                raise InputError(
                    f"{path}: {stat.st_size:,} bytes; the manifest says {size:,}: it was cut or "
                    "changed"
                )
            # Time and size: a file that was touched is hashed again.
            seen[file] = [stat.st_size, stat.st_mtime_ns, sha256]
            if verified.get(file) == seen[file]:
                continue
            found = sha256_of(path)
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; the manifest says that it is part of the corpus"
            ) from error
        if found != sha256:
            raise InputError(
                f"{path}: its sha256 is not the one in the manifest: its content was changed"
            )
    if seen != verified:
        # A corpus may lie where nothing can be written: then it is hashed each time.
        with contextlib.suppress(InputError):
            write_whole(record, json.dumps(seen).encode())


def _files(manifest: Manifest) -> list[tuple[str, str, int | None]]:
    """Every file of a corpus: its name, its sha256, and its size where the manifest knows it."""
    width = np.dtype(manifest.dtype).itemsize
    shards: list[Shard] = []
    for entry in manifest.sources.values():
        shards += (*entry.train.shards, *entry.validation.shards)
    files: list[tuple[str, str, int | None]] = [("tokenizer.json", manifest.tokenizer_sha256, None)]
    for shard in shards:
        files.append((shard.file, shard.sha256, shard.tokens * width))
        files.append((shard.offsets, shard.offsets_sha256, None))
        if shard.learnt and shard.learnt_sha256:
            files.append((shard.learnt, shard.learnt_sha256, shard.tokens))
    return files
