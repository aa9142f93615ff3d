"""Which runs of a lab may go, and how they go.

A run stays where others begin from it, where it is the reference of one, and where a study, a plan,
a forecast, the scores of a task or an export names it.
"""

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
_ID = re.compile(rb"[0-9a-f]{12}")
_REMOVED = ".removed"  # how the hidden name of a folder ends that is on its way out


@dataclass(frozen=True, kw_only=True)
class Named:
    """Who names the runs of a lab."""

    files: Mapping[str, str]
    """By the id of a run, a file of the lab that names it, by its path in the lab."""
    runs: Mapping[str, Sequence[str]]
    """By the id of a run, those that begin from it or have it for a reference."""

    def unused(self, runs: Collection[str]) -> set[str]:
        """Of these runs, those that no file names and no run that stays."""
        going = {run for run in runs if run not in self.files}
        while staying := {run for run in going if not going.issuperset(self.runs.get(run, ()))}:
            going -= staying
        return going

    def keeps(self, run: str, going: Collection[str]) -> str | None:
        """What keeps a run where all of these are to go, in words; None where nothing does."""
        if run in self.files:
            return f"{self.files[run]} names it"
        staying = [one for one in self.runs.get(run, ()) if one not in going]
        if not staying:
            return None
        more = f" and {len(staying) - 1} more begin" if len(staying) > 1 else " begins"
        return f"{staying[0]}{more} from it; name those too, if they are to go"


def who_names(lab: Path, runs: Collection[Run], without: Path | None = None) -> Named:
    """Who names these runs of a lab; `without`: a folder that does not count. Raises InputError for
    a file that can't be read, since it might name any.
    """
    # a run of an earlier release is named by its present id in forecasts
    ids = {run.id.encode(): run.id for run in runs} | {
        run.present_id.encode(): run.id for run in runs
    }
    files: dict[str, str] = {}
    for file in _files(lab, without):
        for run in _ids_in(file, ids):
            files.setdefault(run, str(file.relative_to(lab)))
    named: dict[str, list[str]] = {}
    # of one that is damaged, too
    for folder in sorted((lab / "runs").glob("[!.]*")):
        for run in {run for name in _OF_RUN for run in _ids_in(folder / name, ids)}:
            if run != folder.name:
                named.setdefault(run, []).append(folder.name)
    return Named(files=files, runs=named)


def named_in(folder: Path, runs: Collection[Run]) -> set[str]:
    """The ids of those runs that a file below the folder names. Raises InputError."""
    ids = {run.id.encode(): run.id for run in runs}
    return {run for file in _texts(folder) for run in _ids_in(file, ids)}


def size_of(folder: Path) -> int:
    """Bytes of all its files."""
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
    """Remove a run's folder: it is gone at once, and then its files. Raises Busy where it is being
    trained, and InputError where it can't be removed.
    """
    with run.lock():
        gone = _hide(run.path, run.path.parent)
    _delete(gone)


def remove_study(lab: Path, folder: Path) -> None:
    """Remove a study's folder, as `remove_run` does."""
    _delete(_hide(folder, lab / "runs"))


def finish(lab: Path) -> None:
    """Delete what earlier removals left when they were interrupted."""
    for folder in (lab / "runs").glob(f".*{_REMOVED}"):
        _delete(folder)


def _hide(folder: Path, among: Path) -> Path:
    """Give a folder a name that nothing here looks at, where it can stay if we are killed."""
    gone = among / f".{folder.name}{_REMOVED}"
    if gone.exists():
        _delete(gone)
    try:
        folder.rename(gone)
    except OSError as error:
        raise InputError(f"{folder}: could not be removed: {error.strerror}") from None
    return gone


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # another process deletes it, too
        pass
    except OSError as error:
        raise InputError(f"{folder}: could not be removed: {error.strerror}") from None


def _files(lab: Path, without: Path | None) -> Iterator[Path]:
    ledger = lab / "forecasts.jsonl"
    if ledger.exists():
        yield ledger
    for name in _FOLDERS:
        for file in _texts(lab / name):
            if without is None or without not in file.parents:
                yield file


def _texts(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.suffix in _TEXT and file.is_file():
            yield file


def _ids_in(file: Path, ids: Mapping[bytes, str]) -> set[str]:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{file}: could not be read: {error.strerror}") from None
    return {ids[found] for found in _ID.findall(content) if found in ids}
