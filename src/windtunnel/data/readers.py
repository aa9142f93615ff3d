"""Documents out of what a person points to: files, folders, globs and standard input, read as a
stream.

A reader yields every document as `str` and every one that it could not read as `Malformed`;
`accepted` counts those and refuses a source in which they pass the stated share. Blank lines and
blank files hold no document and are not counted.
"""

import contextlib
import difflib
import glob
import gzip
import hashlib
import io
import json
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from windtunnel.errors import InputError

LONGEST = 64 << 20  # bytes that one line, or one document of plain text, may have
# Malformed documents before the share is looked at while a source is still being read.
ALWAYS_FORGIVEN = 100

# Called with what is being done, how much is done, and how much there is to do (None: not known).
Progress = Callable[[str, float, float | None], None]


@dataclass(frozen=True)
class Malformed:
    """A document that could not be read."""

    where: str
    why: str


@dataclass(frozen=True)
class Record:
    """What one line of JSON holds."""

    where: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class Documents:
    """One source of a corpus before it is built: how to read it, and what has to be known about
    it.
    """

    read: Callable[[], Iterator[str | Malformed]]
    origin: str
    licence: str = "unknown"
    synthetic: bool = False  # written by a model
    max_bad: float = 0.01  # share of malformed documents to put up with
    identity: str = ""  # changes whenever the content does; `origin` stands in for it


@dataclass
class Tally:
    """What `accepted` saw."""

    documents: int = 0  # the malformed ones included
    malformed: int = 0
    first: Malformed | None = None


def read_path(path: str | Path, text_field: str = "text", max_bad: float = 0.01) -> Iterator[str]:
    """The documents of a file, a folder (recursive, sorted), a glob, or `-` for standard input.

    A plain text file is one document (past 64 MiB it is cut at line ends), .jsonl holds one a
    line and .parquet one a row, in the field `text_field`. Standard input is jsonl when its first
    character is `{`, otherwise plain text. Raises InputError for what can't be read, and where
    more than the share `max_bad` is malformed.
    """
    return accepted(items(path, text_field), str(path), max_bad)


def from_paths(
    paths: str | Path | Sequence[str | Path],
    text_field: str = "text",
    licence: str = "unknown",
    synthetic: bool = False,
    max_bad: float = 0.01,
) -> Documents:
    """A source made of the person's own files. Raises InputError here, before anything is built,
    for what does not exist.
    """
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    stamps = list(chain.from_iterable(map(_stamps, named)))

    def read() -> Iterator[str | Malformed]:
        for path in named:
            yield from items(path, text_field)

    origin = ", ".join(str(path) for path in named)
    identity = hashlib.sha256(json.dumps([text_field, stamps]).encode()).hexdigest()
    return Documents(
        read=read,
        origin=origin,
        licence=licence,
        synthetic=synthetic,
        max_bad=max_bad,
        identity=identity,
    )


def accepted(
    found: Iterable[str | Malformed], name: str, max_bad: float = 0.01, tally: Tally | None = None
) -> Iterator[str]:
    """The readable documents among `found`, counted in `tally`. Raises InputError once more than
    the share `max_bad` is malformed, or where none is left; `name` says of what.
    """
    tally = tally if tally is not None else Tally()
    for item in found:
        tally.documents += 1
        if isinstance(item, str):
            if item and not item.isspace():
                yield item
                continue
            item = Malformed(f"{name}, document {tally.documents}", "the document is empty")
        tally.malformed += 1
        tally.first = tally.first or item
        # A hopeless source is refused early, and not after hours.
        if tally.malformed > max(ALWAYS_FORGIVEN, max_bad * tally.documents):
            _refuse(tally, max_bad)
    if tally.documents == 0:
        raise InputError(f"{name}: no document found; expected text in it")
    if tally.malformed > max_bad * tally.documents:
        _refuse(tally, max_bad)


def items(path: str | Path, text_field: str = "text") -> Iterator[str | Malformed]:
    """Every document under `path`, the malformed ones included. Raises InputError for what can't
    be read.
    """
    if str(path) == "-":
        yield from _standard_input(text_field)
        return
    for file in files(path):
        with _whole(file):
            yield from _reader(file).read(file, text_field)


def json_records(file: Path) -> Iterator[Record | Malformed]:
    """Every line of a .jsonl file, perhaps .gz or .zst, that is not blank. Raises InputError where
    the file can't be read to its end.
    """
    with _whole(file), _opened(file) as stream:
        yield from _json_lines(stream, str(file))


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[None]:
    """What goes wrong with a file inside is an InputError that names it."""
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{file}: cannot be read to its end ({error}); expected a whole, readable file"
        ) from error


def _refuse(tally: Tally, max_bad: float) -> None:
    assert tally.first is not None
    raise InputError(
        f"{tally.first.where}: {tally.first.why}; {tally.malformed:,} of the first "
        f"{tally.documents:,} documents are malformed ({tally.malformed / tally.documents:.1%}), "
        f"at most {max_bad:.1%} may be"
    )


def _stamps(path: str | Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file: what changes whenever the content does."""
    if str(path) == "-":
        return [(uuid.uuid4().hex, 0, 0)]  # what a pipe holds is not known before it is read
    stamps = []
    for file in files(path):
        stat = file.stat()
        stamps.append((str(file), stat.st_size, stat.st_mtime_ns))
    return stamps


def files(path: str | Path) -> list[Path]:
    """The files that a path, a folder or a glob stands for, sorted. Raises InputError where there
    is none.
    """
    path = Path(path)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return [path]
    if any(mark in str(path) for mark in "*?["):
        if files := [file for file in _matches(path) if file.is_file()]:
            return files
        raise InputError(f"{path}: no file matches this pattern")
    raise InputError(f"{path}: no such file or folder{_nearest(path)}")


def _matches(pattern: Path) -> list[Path]:
    """What a pattern matches, sorted. Folders that are there as they are spelled are no part of
    it: a name may hold brackets.
    """
    there = next(folder for folder in pattern.parents if folder.is_dir())
    below = str(pattern.relative_to(there))
    return sorted(there / match for match in glob.glob(below, root_dir=there, recursive=True))


def _in_folder(folder: Path) -> list[Path]:
    """Every file below a folder that a reader takes, but for what is hidden, sorted."""
    endings = tuple(chain.from_iterable(reader.endings for reader in READERS))
    found = []
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.name.lower().endswith(endings) and not hidden and file.is_file():
            found.append(file)
    if not found:
        raise InputError(
            f"{folder}: no document in this folder; expected files ending in {', '.join(endings)}"
        )
    return sorted(found)


def _nearest(path: Path) -> str:
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _opened(file: Path) -> BinaryIO:
    """A file's bytes, as they were before it was compressed."""
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if file.name.lower().endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise InputError(
                f"{file}: reading .zst needs `pip install 'windtunnel[corpus]'`"
            ) from None
        return io.BufferedReader(_Zstandard(file, zstandard.ZstdDecompressor()))
    return open(file, "rb")


class _Zstandard(io.RawIOBase):
    """zstandard's own reader takes a file that was cut short for one that ended; this one refuses
    it.
    """

    def __init__(self, file: Path, decompressor: Any):
        self._source = open(file, "rb")  # noqa: SIM115 - closed by close()
        self._new_frame = decompressor.decompressobj
        self._frame = None
        self._ready = b""  # decompressed, not asked for yet
        self._unread = b""  # behind the end of a frame: the next one

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, frame after frame. Raises OSError for what is no zstandard, EOFError
        where a frame does not end.
        """
        while not self._ready and (chunk := self._unread or self._source.read(1 << 17)):
            self._frame = self._frame or self._new_frame()
            try:
                self._ready = self._frame.decompress(chunk)
            except Exception as error:  # zstandard.ZstdError, which may not be imported here
                raise OSError(str(error)) from error
            self._unread = b""
            if self._frame.eof:
                self._unread, self._frame = self._frame.unused_data, None
        if not self._ready and self._frame is not None:
            raise EOFError("the compressed data ends too early")
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        """The file as well."""
        self._source.close()
        super().close()


def _standard_input(text_field: str) -> Iterator[str | Malformed]:
    stream, name = sys.stdin.buffer, "standard input"
    # Looked at without being taken: the reader still finds it.
    beginning = stream.peek(1).lstrip()[:1] if isinstance(stream, io.BufferedReader) else b""
    if beginning == b"{":
        yield from _json_texts(stream, name, text_field)
    else:
        yield from _plain(stream, name)


def _json_file(file: Path, text_field: str) -> Iterator[str | Malformed]:
    with _opened(file) as stream:
        yield from _json_texts(stream, str(file), text_field)


def _json_texts(stream: BinaryIO, name: str, text_field: str) -> Iterator[str | Malformed]:
    for line in _json_lines(stream, name):
        if isinstance(line, Malformed):
            yield line
        elif not isinstance(line.value, dict) or text_field not in line.value:
            yield Malformed(line.where, f"expected an object with the field {text_field!r}")
        else:
            yield _text(line.value[text_field], line.where, text_field)


def _plain_file(file: Path, text_field: str) -> Iterator[str | Malformed]:
    with _opened(file) as stream:
        yield from _plain(stream, str(file))


def _json_lines(stream: BinaryIO, name: str) -> Iterator[Record | Malformed]:
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        where = f"{name} line {number}"
        if len(line) > LONGEST and not line.endswith(b"\n"):
            # The rest of the line is passed over, and never held as a whole.
            while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield Malformed(where, f"the line is longer than {LONGEST >> 20} MiB")
        elif line.strip():
            yield _json_line(line, where)


def _json_line(line: bytes, where: str) -> Record | Malformed:
    try:
        return Record(where, json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return Malformed(where, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return Malformed(where, f"not JSON ({error})")


def _text(value: object, where: str, text_field: str) -> str | Malformed:
    """What a field holds, if it is text of whole characters."""
    if not isinstance(value, str) or not value.strip():
        return Malformed(where, f"the field {text_field!r} holds no text")
    try:
        # JSON may escape half of a pair, which no UTF-8 can hold.
        value.encode()
    except UnicodeEncodeError:
        return Malformed(
            where, f"the field {text_field!r} holds half of a surrogate pair, which is no character"
        )
    return value


def _plain(stream: BinaryIO, name: str) -> Iterator[str | Malformed]:
    """Plain text as one document; past LONGEST it is cut at line ends."""
    line = 1
    while block := stream.read(LONGEST):
        if len(block) == LONGEST:
            # On to the end of the line, so that no word is cut.
            block += stream.readline(LONGEST)
        try:
            # A byte order mark can only stand at the very beginning.
            text = block.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad = line + block.count(b"\n", 0, error.start)
            yield Malformed(f"{name} line {bad}", "not UTF-8")
        else:
            if text.strip():
                yield text
        line += block.count(b"\n")


def _parquet_file(file: Path, text_field: str) -> Iterator[str | Malformed]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{file}: reading .parquet needs `pip install 'windtunnel[corpus]'`"
        ) from None
    try:
        table = parquet.ParquetFile(file)
        if text_field not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise InputError(f"{file}: no column {text_field!r}; it has {names}")
        row = 0
        # Some rows at a time: a whole column may not fit into memory.
        for batch in table.iter_batches(1024, columns=[text_field]):
            for value in batch.column(0):
                row += 1
                yield _parquet_document(value, f"{file} row {row}", text_field)
    except pyarrow.ArrowException as error:
        raise InputError(
            f"{file}: not a whole parquet file ({str(error).splitlines()[0]})"
        ) from error


def _parquet_document(value: Any, where: str, text_field: str) -> str | Malformed:
    try:
        return _text(value.as_py(), where, text_field)
    except UnicodeDecodeError:
        return Malformed(where, "not UTF-8")


@dataclass(frozen=True)
class Reader:
    """How files with some endings are read: (file, text field) -> documents."""

    endings: tuple[str, ...]
    read: Callable[[Path, str], Iterator[str | Malformed]]


# What is read in a folder. A file that is named itself and has none of these endings is read as
# plain text.
READERS = [
    Reader((".txt", ".md", ".py"), _plain_file),
    Reader((".jsonl", ".jsonl.gz", ".jsonl.zst"), _json_file),
    Reader((".parquet",), _parquet_file),
]


def _reader(file: Path) -> Reader:
    name = file.name.lower()
    return next((reader for reader in READERS if name.endswith(reader.endings)), READERS[0])
