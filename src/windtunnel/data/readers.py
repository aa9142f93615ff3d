"""Documents out of what a person points to: files, folders, globs and standard input, read as a
stream.

A reader yields what each file is taken for, every document as `str`, and every one that it could
not read as `Malformed`; `accepted` counts those and refuses a source in which they pass the stated
share. Blank lines and blank files hold no document and are not counted.
"""

import difflib
import glob
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from windtunnel.data.formats import FORMATS, Format, Malformed, Record, format_of
from windtunnel.data.opened import opened
from windtunnel.errors import InputError
from windtunnel.files import named

# Malformed documents before the share is looked at while a source is still being read.
ALWAYS_FORGIVEN = 100

# Called with what is being done, how much is done, and how much there is to do (None: not known).
Progress = Callable[[str, float, float | None], None]


@dataclass(frozen=True)
class Taken:
    """A file was opened, and is read as this."""

    name: str
    format: Format


# What is found where documents are read.
Found = str | Malformed | Taken


@dataclass(frozen=True, kw_only=True)
class Documents:
    """One source of a corpus before it is built: how to read it, and what has to be known about
    it.
    """

    read: Callable[[], Iterator[Found]]
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
    first_of: Format | None = None  # what the file of `first` was taken for
    taken: dict[str, list[str]] = field(default_factory=dict)  # names of files by format


def read_path(
    path: str | Path, text_field: str = "text", max_bad: float = 0.01, format: str | None = None
) -> Iterator[str]:
    """The documents of a file, a folder (recursive, sorted), a glob, or `-` for standard input.

    A plain text file is one document (past 64 MiB it is cut at line ends); JSON lines, JSON and
    parquet hold one in the field `text_field` of each value. What a file is, and how it is
    compressed and encoded, is decided by what it holds, unless `format` says it. Raises InputError
    for what can't be read, and where more than the share `max_bad` is malformed.
    """
    return accepted(items(path, text_field, format), str(path), max_bad)


def from_paths(
    paths: str | Path | Sequence[str | Path],
    text_field: str = "text",
    licence: str = "unknown",
    synthetic: bool = False,
    max_bad: float = 0.01,
    format: str | None = None,
) -> Documents:
    """A source made of the person's own files. Raises InputError here, before anything is built,
    for what does not exist.
    """
    if format:
        FORMATS.choose(format, f"--format {format}")
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    stamps = list(chain.from_iterable(map(_stamps, paths)))

    def read() -> Iterator[Found]:
        for path in paths:
            yield from items(path, text_field, format)

    # a folder is the same with a slash behind it
    origin = ", ".join(named(Path(path)) for path in paths)
    # A format that nobody asked for follows from the content.
    settings = [text_field, stamps, format] if format else [text_field, stamps]
    identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    return Documents(
        read=read,
        origin=origin,
        licence=licence,
        synthetic=synthetic,
        max_bad=max_bad,
        identity=identity,
    )


def accepted(
    found: Iterable[Found], name: str, max_bad: float = 0.01, tally: Tally | None = None
) -> Iterator[str]:
    """The readable documents among `found`, counted in `tally`. Raises InputError once more than
    the share `max_bad` is malformed, or where none is left; `name` says of what.
    """
    tally = tally if tally is not None else Tally()
    format = None
    for item in found:
        if isinstance(item, Taken):
            format = item.format
            tally.taken.setdefault(format.name, []).append(item.name)
            continue
        tally.documents += 1
        if isinstance(item, str):
            if item and not item.isspace():
                yield item
                continue
            item = Malformed(f"{name}, document {tally.documents}", "the document is empty")
        tally.malformed += 1
        if tally.first is None:
            tally.first, tally.first_of = item, format
        # A hopeless source is refused early, and not after hours.
        if tally.malformed > max(ALWAYS_FORGIVEN, max_bad * tally.documents):
            _refuse(tally, tally.first, max_bad)
    if tally.documents == 0:
        raise InputError(f"{name}: no document found; expected text in it")
    if tally.first and tally.malformed > max_bad * tally.documents:
        _refuse(tally, tally.first, max_bad)


def items(path: str | Path, text_field: str = "text", format: str | None = None) -> Iterator[Found]:
    """Every document under `path`, the malformed ones included, and before those of a file what it
    is taken for. Raises InputError for what can't be read.
    """
    for file in [Path("-")] if str(path) == "-" else files(path):
        with opened(file) as stream:
            taken = format_of(stream, format)
            if stream.head:
                yield Taken(stream.name, taken)
            yield from taken.texts(stream, text_field)


def records(file: Path, format: str | None = None) -> Iterator[Record | Malformed | Taken]:
    """Every value in a file of JSON or a table, and before them what it is taken for. Raises
    InputError where it holds none, or can't be read to its end.
    """
    with opened(file) as stream:
        taken = format_of(stream, format)
        if stream.head and taken.records is None:
            known = [one.help for one in FORMATS.values() if one.records]
            raise InputError(
                f"{stream.name}: this is {taken.help}; expected conversations in {', '.join(known)}"
            )
        if stream.head and taken.records:
            yield Taken(stream.name, taken)
            yield from taken.records(stream)


def _refuse(tally: Tally, first: Malformed, max_bad: float) -> None:
    taken = f" (taken for {tally.first_of.help})" if tally.first_of else ""
    count = ""
    if tally.documents > 1:
        count = (
            f"; {tally.malformed:,} of the first {tally.documents:,} documents are malformed "
            f"({tally.malformed / tally.documents:.1%}), at most {max_bad:.1%} may be (--max-bad)"
        )
    raise InputError(f"{first.where}: {first.why}{taken}{count}")


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


def left_out(path: str | Path) -> str | None:
    """What to say of the files of a folder that are not read, for their names; None where all are,
    and where `path` is no folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    there = _shown(folder)
    others = [file for file in there if not _is_named(file)]
    if not others:
        return None
    names = sorted(file.name for file in others)[:3]
    more = ["..."] if len(others) > len(names) else []
    return (
        f"{len(others):,} of the {len(there):,} files in {named(folder)} are left out, since their "
        f"names end in none of {_endings()}: {', '.join(map(named, [*names, *more]))}; a glob such "
        f"as '{named(folder / '**' / '*')}' reads all"
    )


def _in_folder(folder: Path) -> list[Path]:
    """Every file below a folder whose name is that of a format, but for what is hidden, sorted."""
    found = [file for file in _shown(folder) if _is_named(file)]
    if not found:
        raise InputError(
            f"{folder}: no document in this folder; expected files ending in {_endings()}, or a "
            f"glob such as '{folder / '**' / '*'}'"
        )
    return sorted(found)


def _shown(folder: Path) -> list[Path]:
    """Every file below a folder but for what is hidden."""
    found = []
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and file.is_file():
            found.append(file)
    return found


def _is_named(file: Path) -> bool:
    """Whether its name is that of a format."""
    return any(one.is_named(file.name) for one in FORMATS.values())


def _endings() -> str:
    return ", ".join(chain.from_iterable(one.endings for one in FORMATS.values()))


def _nearest(path: Path) -> str:
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
