"""`windtunnel export` and `import`: models out to other tools, and in from them."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, word_of
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_tokens

if TYPE_CHECKING:
    from windtunnel.train.run import Run


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's id (or its beginning), name or path.")],
    to: Annotated[str | None, typer.Option(help="hf, minicpm, llama or gguf.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder to make; else one below LAB/exports.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Tokens of a checkpoint, such as 20M; else the last one.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="fp32 (if not given), bf16 or fp16; for gguf F32, F16, Q8_0, ...")
    ] = "",
    table: Annotated[
        bool, typer.Option("--table", help="Instead: GGUF in every precision, each measured.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an export that is there.")
    ] = False,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Write a run's model for other tools, and check it with the engine that reads it."""
    from windtunnel.train.run import find_run

    if (to is None) != table:
        raise InputError("expected either --to hf|minicpm|llama|gguf or --table")
    if to is None:
        _export_table(find_run(lab, run), out, overwrite, as_json)
        return
    from windtunnel.ship.export import Off, To, dtypes
    from windtunnel.ship.export import export as write

    layout = word_of("--to", to, To)
    kinds = {kind.lower(): kind for kind in dtypes(layout)}
    if dtype and dtype.lower() not in kinds:
        raise InputError(
            f"--dtype {dtype}: expected one of {', '.join(kinds.values())} for --to {to}"
        )
    position = None if at is None else parse_tokens(at)
    try:
        done = write(
            find_run(lab, run), layout, out, position, kinds.get(dtype.lower(), ""), overwrite
        )
    except Off as error:
        print(f"windtunnel: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        fields = {"path": str(done.path), "to": done.to, "dtype": done.dtype, "tokens": done.tokens}
        print(json.dumps(fields | {"agreement": dataclasses.asdict(done.agreement)}))
    else:
        print(
            f"{done.path}: {done.to} in {done.dtype}, of {about(done.tokens)} tokens\n{done.agreement}"
        )


def _export_table(run: "Run", out: Path | None, overwrite: bool, as_json: bool) -> None:
    from windtunnel.ship.export import export_table
    from windtunnel.ship.quantise import markdown

    folder, rows = export_table(run, out, overwrite)
    if as_json:
        print(
            json.dumps(
                [dataclasses.asdict(row) | {"file": str(folder / row.file.name)} for row in rows]
            )
        )
    else:
        print(f"{markdown(rows)}\n\n{folder}")


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(help="A checkpoint's folder (MiniCPM, Llama, Granite), or a GGUF file."),
    ],
    name: Annotated[
        str | None, typer.Option(help="A name for the run; else the model's own.")
    ] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Take a model from elsewhere as a stem of the lab, to branch from or to export."""
    from windtunnel.ship.import_model import import_model

    made = import_model(source, lab, name)
    if as_json:
        print(made.summary().to_json())
        return
    model = made.recipe.model
    print(
        f"{made.id} {made.recipe.name}: {model.width} wide, {model.depth} deep, vocabulary {model.vocab}, context "
        f"{made.recipe.data.context}; {made.path}"
    )
    print(
        f"its text: `windtunnel corpus build NAME SOURCE=PATH --tokenizer {made.id} --lab {lab}`\n"
        f"then: `windtunnel branch {made.id} --at 0 --decay 1M --corpus NAME --lr 3e-4 --lab {lab}`"
    )
