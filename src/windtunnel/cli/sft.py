"""`windtunnel sft`: a run's model learns to answer."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.corpus import taken
from windtunnel.cli.display import display
from windtunnel.cli.options import (
    DEFAULT_LAB,
    AtLast,
    Format,
    InsteadOfEpochs,
    Json,
    Lab,
    RunName,
    number_of,
    position_of,
    typed,
)
from windtunnel.cli.train import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.tunnel.design import CONTEXT, FRACTION, NUMBER

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.recipe import Recipe

_FEW = 50  # steps


@app.command()
def sft(
    run: RunName,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Conversations: a file of JSON lines, JSON or parquet, a folder, or a glob.",
        ),
    ],
    format: Format = None,
    epochs: Annotated[
        float | None,
        typed("--epochs", NUMBER, "How many times to read each conversation; 3 by default."),
    ] = None,
    tokens: InsteadOfEpochs = None,
    lr: Annotated[
        float | None,
        typed(
            "--lr",
            NUMBER,
            "Base learning rate; by default a tenth of the run's, or the run's own if it was "
            "fine-tuned already. An imported run has none, and needs this.",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Batch, in tokens per step; by default the run's, or a smaller one so that there "
            "are 100 steps.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typed(
            "--context",
            CONTEXT,
            "Tokens in a window; by default as many as the run's, up to 2048.",
        ),
    ] = None,
    at: AtLast = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A name for the new run; by default the run's with -sft."
        ),
    ] = None,
    max_bad: Annotated[
        float,
        typed("--max-bad", FRACTION, "The share of the conversations that may be malformed."),
    ] = 0.01,
    all_turns: Annotated[
        bool,
        typer.Option(
            "--all-turns/--answers-only",
            help="Learn all of a conversation, or what the assistant says alone.",
        ),
    ] = False,
    pretraining: Annotated[
        float,
        typed(
            "--pretraining",
            FRACTION,
            "The share of the tokens to be text of the pre-training, so that less of it is lost.",
        ),
    ] = 0.0,
    wsd: Annotated[
        bool,
        typer.Option(
            "--wsd",
            help="Keep the rate at its peak for the first half, and let it decay to a tenth, as in "
            "the paper; by default it decays to zero at once.",
        ),
    ] = False,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Fine-tune a run on conversations.

    The model learns to say what the assistant says in them. Any run will do, an imported one
    included.
    """
    from windtunnel.train.run import find_run

    length, size = number_of("--tokens", tokens), number_of("--batch", batch)
    position = position_of("--at", at)
    parent = find_run(lab, run)
    from windtunnel.family.sft import Asked
    from windtunnel.family.sft import sft as fine_tune

    asked = Asked(
        epochs=epochs,
        tokens=length,
        lr=lr,
        batch=size,
        context=context,
        at=position,
        name=name,
        max_bad=max_bad,
        format=format,
        all_turns=all_turns,
        pretraining=pretraining,
        wsd=wsd,
    )
    if pretraining == 1:
        raise InputError("--pretraining 1: nothing would be left for the conversations")
    with display() as shown:
        made, corpus = fine_tune(parent, data, asked, shown.show)
        shown.say(_what(corpus))
        if few := _few(made.recipe):
            shown.say(few)
    carry_out(made, corpus, as_json)


def _few(recipe: "Recipe") -> str:
    """What to say of a run of few steps; nothing of a longer one."""
    steps = recipe.total_tokens // recipe.train.batch
    if steps >= _FEW:
        return ""
    return (
        f"{steps} steps teach a model little; {math.ceil(_FEW / steps)} times as many --epochs "
        "read the same conversations more often"
    )


def _what(corpus: "Corpus") -> str:
    """What was found in the files, as one line."""
    # the last source, where text of the pre-training stands before it
    entry, packing = list(corpus.manifest.sources.values())[-1], corpus.manifest.packing
    counts = {"malformed": entry.malformed, "duplicates": entry.duplicates}
    if packing:
        counts["cut to the context"] = packing.cut
        counts["left out, without an answer within the context"] = packing.dropped
    files = [taken(entry)] if entry.taken else []
    notes = [f"{count:,} {what}" for what, count in counts.items() if count]
    found = (
        f"{corpus.folder.name}: {entry.train.documents:,} conversations to learn from, "
        f"{entry.validation.documents:,} held out; {about(entry.train.tokens - 1)} tokens an epoch"
    )
    return "; ".join([found, *notes, *files])
