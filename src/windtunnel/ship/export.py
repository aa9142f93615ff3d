"""`windtunnel export`: a run's model in a form that other tools read. It is written beside its
place, checked with a real engine, and then put there.
"""

from pathlib import Path

from windtunnel.quantities import format_tokens
from windtunnel.results.export import Exported, Precision
from windtunnel.ship.card import card
from windtunnel.ship.layouts import LAYOUTS, plain_name
from windtunnel.ship.place import appearing
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
    with appearing(out, overwrite) as part:
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
    with appearing(out, overwrite) as part:
        rows = precisions(subject, part)
    return [row.model_copy(update={"file": out / row.file.name}) for row in rows]
