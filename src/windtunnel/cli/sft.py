"""`windtunnel sft`: a run's model learns to answer."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, number_of
from windtunnel.cli.train import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_tokens

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus


@app.command()
def sft(
    run: Annotated[
        str,
        typer.Argument(help="A run's id (or its beginning), name or path; an imported one, too."),
    ],
    data: Annotated[
        list[str], typer.Option(help="Conversations: a .jsonl(.gz, .zst) file, a folder or a glob.")
    ],
    epochs: Annotated[
        float | None, typer.Option(help="How often each conversation is read; 3 if not given.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Or how many tokens are read.")] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Base rate; a tenth of the run's. An imported one needs it."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Tokens a step; the run's, or less for 100 steps.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a window; the run's, at most 2048.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Tokens of the run's checkpoint to begin with; else its last."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the new run.")] = None,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Share of malformed lines to put up with.")
    ] = 0.01,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Fine-tune a run on conversations: of each, what the assistant says is learnt."""
    from windtunnel.train.run import find_run

    if epochs is not None and not (math.isfinite(epochs) and epochs > 0):
        raise InputError(f"--epochs {epochs:g}: expected a number above zero")
    length, size = number_of("--tokens", tokens), number_of("--batch", batch)
    position = None if at is None else parse_tokens(at)
    parent = find_run(lab, run)
    from windtunnel.family.sft import Asked
    from windtunnel.family.sft import sft as fine_tune

    with display() as shown:
        asked = Asked(epochs, length, lr, size, context, position, name, max_bad)
        made, corpus = fine_tune(parent, data, asked, shown.show)
        shown.say(_what(corpus))
    carry_out(made, corpus, as_json)


def _what(corpus: "Corpus") -> str:
    entry, packing = corpus.manifest.sources["chat"], corpus.manifest.packing
    counts = {"malformed": entry.malformed, "double": entry.duplicates}
    if packing:
        counts |= {
            "cut to the context": packing.cut,
            "with nothing to learn before that": packing.dropped,
        }
    notes = "".join(f"; {count:,} {what}" for what, count in counts.items() if count)
    return (
        f"{corpus.folder.name}: {entry.train.documents:,} conversations, {entry.validation.documents:,} held out; "
        f"{about(entry.train.tokens - 1)} tokens an epoch{notes}"
    )
