"""`windtunnel longer`: a run goes on with a longer context."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.cost import print_cost
from windtunnel.cli.display import display
from windtunnel.cli.options import (
    DEFAULT_LAB,
    AtStable,
    Json,
    Lab,
    NewDecay,
    ParentCorpus,
    ParentRate,
    number_of,
    position_of,
    typed,
)
from windtunnel.cli.train import carry_out
from windtunnel.recipe import ROPE_SCALINGS
from windtunnel.tunnel.design import CONTEXT, CONTEXTS, FRACTION, LENGTH, NUMBER

if TYPE_CHECKING:
    from windtunnel.family.longer import Asked


@app.command()
def longer(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The run: its id, its name, its path, or the first digits of its id, four at "
            "least. With --dry-run also the file of a recipe.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="LENGTH,...",
            help="The new context in tokens, such as 32k (32,768), a multiple of the present one. "
            "More than eight times as much is reached in stages; several lengths say which.",
        ),
    ],
    tokens: Annotated[
        str,
        typer.Option(
            metavar="TOKENS", help="How many tokens to train it for, in each stage, such as 20M."
        ),
    ],
    scaling: Annotated[
        str,
        typer.Option(
            metavar="WORD",
            help="How RoPE is scaled. By default abf, and ntk for a run whose base was changed "
            "already. "
            + "; ".join(f"{one.name}: {one.help}" for one in ROPE_SCALINGS.values())
            + ".",
        ),
    ] = "",
    base: Annotated[
        float | None,
        typed(
            "--base",
            NUMBER,
            "RoPE's base after the first stage, with abf; by default the present one times the "
            "square of how many times longer the context is.",
        ),
    ] = None,
    long: Annotated[
        float,
        typed("--long", FRACTION, "The share of long documents and questions in what is read."),
    ] = 0.44,
    long_from: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="A document counts as long with more tokens than this; by default more than the "
            "context so far.",
        ),
    ] = None,
    questions: Annotated[
        float,
        typed(
            "--questions",
            FRACTION,
            "The share of made-up long questions in what is read, out of --long.",
        ),
    ] = 0.05,
    untie: Annotated[
        bool,
        typer.Option(
            "--untie", help="Give the head weights of its own, which begin as the embedding."
        ),
    ] = False,
    decay: NewDecay = "10%",
    lr: ParentRate = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Batch, in tokens per step; by default the run's, or one window if that is more.",
        ),
    ] = None,
    corpus: ParentCorpus = None,
    at: AtStable = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name for the new run; by default the run's with the new context.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Train nothing: say what each stage would take of memory, disk and time, and how "
            "many devices.",
        ),
    ] = False,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Continue a run with a longer context.

    RoPE is scaled, and training goes on in longer windows, on long documents, short ones and
    made-up questions about long texts.
    """
    from windtunnel.data.shards import Corpus
    from windtunnel.family.longer import Asked, planned, stages, text_of
    from windtunnel.family.longer import longer as begin
    from windtunnel.train.parallel import check_shares, started
    from windtunnel.train.run import context_of, find_run

    asked = Asked(
        to=CONTEXTS.parse("--to", to),
        tokens=number_of("--tokens", tokens) or 0,
        scaling=scaling,
        base=base,
        long=long,
        long_from=None if long_from is None else CONTEXT.parse("--long-from", long_from),
        questions=questions,
        untie=untie,
        decay=LENGTH.parse("--decay", decay),
        lr=lr,
        batch=number_of("--batch", batch),
        at=position_of("--at", at),
        name=name,
    )
    if dry_run:
        _print_costs(lab, run, asked, corpus, as_json)
        return
    parent = find_run(lab, run)
    text = Corpus.open(parent.lab / "corpora" / corpus) if corpus else text_of(parent)
    lengths = stages(context_of(parent), asked)
    for recipe in planned(parent.recipe, context_of(parent), asked, text.folder.name):
        check_shares(recipe, started())  # also of the last stage, before the first is trained
    for number, length in enumerate(lengths, 1):
        last = number == len(lengths)
        with display() as shown:
            stage = begin(parent, text, length, asked.of_stage(number, last), last, shown.show)
            made = stage.run
            shown.say(
                f"{made.id}: {parent.id} at {made.at_tokens} tokens goes on in windows of {length} "
                f"tokens (stage {number} of {len(lengths)})"
            )
            for note in stage.notes:
                shown.say(f"  {note}")
        # what a program reads is the last run
        with nullcontext() if last else redirect_stdout(sys.stderr):
            carry_out(made, stage.corpus, as_json and last)
        parent = made


def _print_costs(lab: Path, run: str, asked: "Asked", corpus: str | None, as_json: bool) -> None:
    """What each stage would take, of a run or of a recipe that was never trained."""
    from windtunnel.family.longer import planned
    from windtunnel.recipe import load
    from windtunnel.train.cost import cost_of
    from windtunnel.train.run import context_of, find_run

    if run.endswith(".toml"):
        recipe = load(Path(run))
        was = recipe.data.context
    else:
        parent = find_run(lab, run)
        recipe, was = parent.recipe, context_of(parent)
    costs = [cost_of(stage, lab) for stage in planned(recipe, was, asked, corpus)]
    if as_json:
        print(json.dumps([cost.model_dump(mode="json") for cost in costs], indent=1))
        return
    for cost in costs:
        print_cost(cost)
