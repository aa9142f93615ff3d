"""Which runs of a lab may go, and how they go.

A run stays where others begin from it, where it is the reference of one, and where a study, a plan,
a forecast, the scores of a task or an export names it. A study names its runs before they are
trained.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.train.run import Run

# Of a lab, what may name runs: folders, and what their files are called that have text in them.
_FOLDERS = ("studies", "plans", "scores", "exports")
_TEXT = {".json", ".jsonl", ".csv", ".toml", ".md", ".db"}
_OF_RUN = ("run.json", "recipe.toml")
_ID = re.compile(rb"(?=([0-9a-f]{12}))")  # also one that begins within other hex digits
_REMOVED = ".removed"  # how the hidden name of a folder ends that is on its way out


@dataclass(frozen=True, kw_only=True)
class NamedIn:
    """A run stays, since a file names it."""

    file: Path
    """Relative to the lab."""

    @property
    def study(self) -> str | None:
        """The study that the file is of."""
        above = self.file.parts
        return above[1] if above[0] == "studies" and len(above) > 2 else None

    def __str__(self) -> str:
        return f"{self.file} names it"


@dataclass(frozen=True, kw_only=True)
class BegunFrom:
    """A run stays, since others begin from it, or have it for a reference, that stay."""

    runs: Sequence[str]

    def __str__(self) -> str:
        more = len(self.runs) - 1
        begin = f" and {more} more begin" if more else " begins"
        return f"{self.runs[0]}{begin} from it; name those too, if they are to go"


@dataclass(frozen=True, kw_only=True)
class Named:
    """Who names the runs of a lab."""

    files: Mapping[str, Path]
    """By the id of a run, a file that names it, relative to the lab."""
    runs: Mapping[str, Sequence[str]]
    """By the id of a run, those that begin from it or have it for a reference."""
    evaluated: Collection[str]
    """Ids of runs with evaluations of their own: they go only where a person names them."""

    def unused(self, runs: Collection[str]) -> set[str]:
        """Of these runs, those that no file names and no run that stays, and that were not
        evaluated.
        """
        going = {run for run in runs if run not in self.files and run not in self.evaluated}
        while staying := {run for run in going if not going.issuperset(self.runs.get(run, ()))}:
            going -= staying
        return going

    def keeps(self, run: str, going: Collection[str]) -> NamedIn | BegunFrom | None:
        """What keeps a run where a person names all of these; None where nothing does."""
        if run in self.files:
            return NamedIn(file=self.files[run])
        staying = [one for one in self.runs.get(run, ()) if one not in going]
        return BegunFrom(runs=staying) if staying else None


def who_names(lab: Path, runs: Collection[Run], without: Path | None = None) -> Named:
    """Who names these runs of a lab; `without`: a folder that does not count. Raises InputError for
    a file that can't be read, since it might name any.
    """
    own = _by_id(runs)
    # a run of an earlier release is named by its present id in forecasts, which may be that of
    # another run
    ids = {name: set(found) for name, found in own.items()}
    for run in runs:
        ids.setdefault(run.present_id.encode(), set()).add(run.id)
    files: dict[str, Path] = {}
    for file in _files(lab, without):
        for run in _ids_in(file, ids):
            files.setdefault(run, file.relative_to(lab))
    named: dict[str, list[str]] = {}
    # of one that is damaged, too
    for folder in sorted((lab / "runs").glob("[!.]*")):
        begun_from: set[str] = set()
        for name in _OF_RUN:
            begun_from |= _ids_in(folder / name, own)
        for run in begun_from - {folder.name}:
            named.setdefault(run, []).append(folder.name)
    evaluated = {run.id for run in runs if (run.path / "evaluations").exists()}
    return Named(files=files, runs=named, evaluated=evaluated)


def named_in(folder: Path, runs: Collection[Run]) -> set[str]:
    """The ids of those runs that a file below the folder names. Raises InputError."""
    ids, found = _by_id(runs), set[str]()
    for file in _texts(folder):
        found |= _ids_in(file, ids)
    return found


def size_of(folder: Path) -> int:
    """Bytes of all its files; none where it is a link, since what that leads to stays."""
    if folder.is_symlink():
        return 0
    found = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # another process may have removed it
            found += file.lstat().st_size if file.is_file() else 0
    return found


def leaves_first(runs: Sequence[Run], named: Named) -> list[Run]:
    """So that no run ever lies there without the one that it begins from."""
    left, found = {run.id: run for run in runs}, list[Run]()

    def add(run: Run) -> None:
        for child in named.runs.get(run.id, ()):
            if child in left:
                add(left.pop(child))
        found.append(run)

    while left:
        add(left.pop(next(iter(left))))
    return found


def remove_run(run: Run) -> None:
    """Remove a run's folder, or the link to one: it is gone at once, and then its files. Raises
    Busy where it is being trained, and InputError where it can't be removed.
    """
    with run.lock():
        gone = _hide(run.path)
    _delete(gone)


def remove_study(folder: Path) -> None:
    """Remove a study's folder, as `remove_run` does."""
    _delete(_hide(folder))


def finish(lab: Path) -> None:
    """Delete what earlier removals left when they were interrupted."""
    for among in ("runs", "studies"):
        for left in sorted((lab / among).glob(f".*{_REMOVED}")):
            if left.is_dir() or left.is_symlink():
                _delete(left)


def _hide(folder: Path) -> Path:
    """Give a folder a name that nothing here looks at, where it can stay if we are killed."""
    gone = folder.with_name(f".{folder.name}{_REMOVED}")
    if os.path.lexists(gone):
        _delete(gone)
    try:
        folder.rename(gone)
    except OSError as error:
        raise _not_removed(folder, error) from None
    return gone


def _delete(folder: Path) -> None:
    """What a link leads to stays."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except FileNotFoundError:  # another process deletes it, too
        pass
    except OSError as error:
        raise _not_removed(folder, error) from None


def _not_removed(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: could not be removed: {error.strerror or error}")


def _files(lab: Path, without: Path | None) -> Iterator[Path]:
    ledger = lab / "forecasts.jsonl"
    if ledger.exists():
        yield ledger
    for name in _FOLDERS:
        for file in _texts(lab / name):
            if without is None or without not in file.parents:
                yield file


def _texts(folder: Path, above: Collection[str] = ()) -> Iterator[Path]:
    """The files with text in them below a folder, through links, too. `above`: the folders that led
    here, to which a link may lead back.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    for one in _entries(folder):
        if one.is_dir():
            yield from _texts(one, {real, *above})
        elif one.suffix in _TEXT and one.is_file():
            yield one


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, but for what is on its way out. Raises InputError."""
    try:
        found = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: could not be read: {error.strerror}") from None
    return [one for one in found if not (one.name[0] == "." and one.name.endswith(_REMOVED))]


def _by_id(runs: Collection[Run]) -> dict[bytes, set[str]]:
    return {run.id.encode(): {run.id} for run in runs}


def _ids_in(file: Path, ids: Mapping[bytes, Collection[str]]) -> set[str]:
    """The ids of the runs that a file names; `ids`: those by what names them."""
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise InputError(f"{file}: could not be read: {error.strerror}") from None
    found: set[str] = set()
    for name in ids.keys() & _ID.findall(content):
        found.update(ids[name])
    return found
