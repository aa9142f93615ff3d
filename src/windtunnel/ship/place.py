"""Where an export goes: a folder that appears whole, and that may take the place of an earlier
export but of nothing else.

An export lists its files in `windtunnel-export.json` beside them. Only files that are listed there
are ever removed; whatever else is in the folder is somebody's own.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from windtunnel import __version__
from windtunnel.errors import InputError
from windtunnel.results.export import ExportedFiles

MARKER = "windtunnel-export.json"
_LISTED = 8  # names in an error, at most


@contextmanager
def appearing(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end, with a list of its files. Nothing is
    left of it where an error comes first. Raises InputError where it cannot be written, or where
    something else is in its place.
    """
    # A link to a folder stays, and what it points to is replaced.
    place = _resolved(out)
    _refuse_taken(out, place, overwrite)
    # Hidden, and this process's own: exports that run beside each other do not meet here.
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        names = sorted(file.name for file in part.iterdir())
        ExportedFiles(version=__version__, files=[*names, MARKER]).write(part / MARKER)
        # What was not there when the export began may be there now.
        _refuse_taken(out, place, overwrite)
        _put(part, place)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{out}: could not be written: {reason}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _resolved(out: Path) -> Path:
    """The folder itself. Raises InputError for the folder that one is in, or one around it."""
    try:
        place, here = out.resolve(), Path.cwd()
    except (OSError, RuntimeError) as error:  # a loop of links is either, by Python's version
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--out {out}: cannot be used: {reason}") from None
    if here.is_relative_to(place):
        raise InputError(
            f"--out {out}: the folder that you are in, or one around it; expected a new folder, "
            f"such as {out / 'model'}"
        )
    return place


def _refuse_taken(out: Path, place: Path, overwrite: bool) -> None:
    """Raises InputError unless the place is free, or holds an export and nothing else and may be
    overwritten.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not place.is_dir():
        raise InputError(f"{out}: exists and is not an export, but a file; choose another --out")
    foreign = _foreign(place)
    if foreign:
        more = f" and {len(foreign) - _LISTED} more" if len(foreign) > _LISTED else ""
        marked = (place / MARKER).exists()
        known = "holds something that no export wrote" if marked else "exists and is not an export"
        raise InputError(
            f"{out}: {known}: {', '.join(foreign[:_LISTED])}{more}; move it, or choose another "
            "--out"
        )
    if not overwrite:
        raise InputError(
            f"{out}: there is an export here already; replace it with --overwrite, or choose "
            "another --out"
        )


def _foreign(place: Path) -> list[str]:
    """The names in a folder that no export wrote there, in order; a folder ends in a slash."""
    written = _written(place)
    foreign = []
    for entry in sorted(place.iterdir()):
        its_own = entry.name in written and entry.is_file() and not entry.is_symlink()
        if not its_own:
            foreign.append(f"{entry.name}/" if entry.is_dir() else entry.name)
    return foreign


def _written(place: Path) -> set[str]:
    """The names that the list of an export holds; none where there is no such list, or where it
    cannot be read.
    """
    marker = place / MARKER
    if not marker.is_file():
        return set()
    try:
        return set(ExportedFiles.read(marker).files)
    except InputError:
        # without a list that can be read, nothing is known to be an export's
        return set()


def _put(part: Path, place: Path) -> None:
    """Move the new export to its place, and then remove the files of the one that was there."""
    if not place.exists():
        part.rename(place)
        return
    before = place.with_name(f".{place.name}.{os.getpid()}.before")
    place.rename(before)
    try:
        part.rename(place)
    except OSError:
        before.rename(place)
        raise
    written = _written(before)
    # By what is in the folder, never by what the list says: a list could name files elsewhere.
    for entry in [*before.iterdir()]:
        if entry.name in written:
            entry.unlink()
    # Fails, and keeps it, where somebody has put a file there in this very moment.
    before.rmdir()
