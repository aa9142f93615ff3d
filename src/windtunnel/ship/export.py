"""`windtunnel export`: a run's model in a form that other tools read. It is written beside its
place, checked with a real engine, and then put there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from windtunnel.errors import InputError
from windtunnel.quantities import format_tokens
from windtunnel.results.export import Exported, Precision
from windtunnel.ship.card import card
from windtunnel.ship.layouts import LAYOUTS, plain_name
from windtunnel.ship.precisions import precisions
from windtunnel.ship.subject import Subject
from windtunnel.ship.verify import verify
from windtunnel.train.run import Run


class Disagreement(Exception):
    """What was written is not the model: an engine gives other probabilities, or other ids."""


def export(
    run: Run,
    to: str,
    out: Path | None = None,
    at: int | None = None,
    dtype: str = "",
    overwrite: bool = False,
) -> Exported:
    """Write the run's model, at `at` tokens or at its last checkpoint, into the folder `out`, in
    the layout `to`. `dtype`: one of the layout's types, or its usual one.

    Raises InputError for what cannot be written so, and Disagreement where the engine that reads
    it does not agree; nothing is left then.
    """
    layout = LAYOUTS.choose(to, f"--to {to}")
    dtype = layout.dtype_of(dtype)
    layout.check(run.recipe.model)
    subject = Subject.of(run, at)
    # Every choice that changes the files is in the folder's name.
    if out is None:
        checkpoint = [format_tokens(subject.tokens)] if at is not None else []
        parts = [plain_name(run.recipe.name), run.id, *checkpoint, to, dtype.lower()]
        out = run.lab / "exports" / "-".join(parts)
    with _appearing(out, overwrite) as part:
        written = layout.write(part, subject.portable, dtype)
        agreement = verify(layout, dtype, written, subject.portable, subject.held_out)
        if not agreement.good:
            raise Disagreement(
                f"{out} was not written, because the model would be off: {agreement}"
            )
        text = card(subject, layout, dtype, agreement)
        (part / "README.md").write_text(text, encoding="utf-8")
    return Exported(path=out, to=to, dtype=dtype, tokens=subject.tokens, agreement=agreement)


def export_table(run: Run, out: Path | None = None, overwrite: bool = False) -> list[Precision]:
    """Write the run's last checkpoint as GGUF in every precision into the folder `out`, and
    measure what each file is worth. Raises InputError.
    """
    out = out or run.lab / "exports" / f"{plain_name(run.recipe.name)}-{run.id}-table"
    subject = Subject.of(run)
    with _appearing(out, overwrite) as part:
        rows = precisions(subject, part)
    return [row.model_copy(update={"file": out / row.file.name}) for row in rows]


@contextmanager
def _appearing(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end. Nothing is left of it where an error
    comes first. Raises InputError where it cannot be written.
    """
    _refuse_taken(out, overwrite)
    # Hidden, and this process's own: exports that run beside each other do not meet here.
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{out}: could not be written: {reason}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_taken(out: Path, overwrite: bool) -> None:
    """Raises InputError unless the place is empty, or holds an export that may be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    # An export is known by what every layout writes; anything else is somebody's own folder.
    if not out.is_dir() or not (any(out.glob("*.gguf")) or (out / "config.json").exists()):
        raise InputError(f"{out}: exists and is not an export; choose another --out")
    if not overwrite:
        raise InputError(
            f"{out}: there is an export here already; replace it with --overwrite, or choose "
            "another --out"
        )
