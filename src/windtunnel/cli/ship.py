"""`windtunnel export` and `import`: models out to other tools, and in from them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, RunName, position_of
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.ship.layouts import LAYOUTS

if TYPE_CHECKING:
    from windtunnel.train.run import Run


def _layouts_help() -> str:
    """`hf (a Granite model, ...), minicpm (...)`."""
    listed = [f"{layout.name} ({layout.help})" for layout in LAYOUTS.values()]
    return f"The layout to write: {'; '.join(listed)}."


def _dtypes_help() -> str:
    """The types of numbers, with the layouts that have the same ones named together."""
    layouts: dict[tuple[str, ...], list[str]] = {}
    for layout in LAYOUTS.values():
        layouts.setdefault(layout.dtypes, []).append(layout.name)
    listed = [f"{', '.join(dtypes)} for {', '.join(names)}" for dtypes, names in layouts.items()]
    return f"How the numbers are kept: {'; '.join(listed)}. By default the first of them."


@app.command()
def export(
    run: RunName,
    to: Annotated[str | None, typer.Option(metavar="WORD", help=_layouts_help())] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder to make; by default a new one in LAB/exports."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Export the checkpoint at this many tokens, such as 20M, instead of the last.",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="WORD", help=_dtypes_help(), show_default=False)
    ] = "",
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Instead of --to: write GGUF in every precision, and measure each."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the export that is in the folder; nothing else is ever replaced.",
        ),
    ] = False,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Write a run's model for other tools.

    The export counts only once it has been read back and agrees with the run's own forward pass.
    """
    from windtunnel.train.run import find_run

    if (to is None) != table:
        raise InputError(f"expected either --to {'|'.join(LAYOUTS)} or --table")
    if to is None:
        _export_table(find_run(lab, run), out, overwrite, as_json)
        return
    from windtunnel.ship.export import Disagreement
    from windtunnel.ship.export import export as write

    position = position_of("--at", at)
    try:
        made = write(find_run(lab, run), to, out, position, dtype, overwrite)
    except Disagreement as error:
        print(f"windtunnel: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(made.to_json())
        return
    print(f"{made.path}: {made.to} in {made.dtype}, at {about(made.tokens)} tokens")
    print(made.agreement)


def _export_table(run: "Run", out: Path | None, overwrite: bool, as_json: bool) -> None:
    from windtunnel.ship.export import export_table
    from windtunnel.ship.precisions import markdown

    rows = export_table(run, out, overwrite)
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=1))
    else:
        print(f"{markdown(rows)}\n\n{rows[0].file.parent}")


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE.gguf",
            help="A checkpoint's folder (MiniCPM, Llama or Granite), or a GGUF file.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A name for the new run; by default the model's own."),
    ] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Take a model from elsewhere as a stem of the lab.

    The stem can then be branched, fine-tuned and exported like any other.
    """
    from windtunnel.ship.import_model import import_model

    made = import_model(source, lab, name)
    if as_json:
        print(made.summary().to_json())
        return
    model = made.recipe.model
    print(
        f"{made.id} {made.recipe.name}: {model.width} wide, {model.depth} deep, vocabulary "
        f"{model.vocab}, context {made.recipe.data.context}; {made.path}"
    )
    print(
        "To train on it, build a corpus of your text with its tokenizer:\n"
        f"    windtunnel corpus build NAME SOURCE=PATH --tokenizer {made.id} --lab {lab}\n"
        "and then branch it:\n"
        f"    windtunnel branch {made.id} --at 0 --decay 1M --corpus NAME --lr 3e-4 --lab {lab}"
    )
