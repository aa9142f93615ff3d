"""`windtunnel upcycle`: a run goes on as a mixture of experts."""

from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display
from windtunnel.cli.options import (
    DEFAULT_LAB,
    AtStable,
    Json,
    Lab,
    NewDecay,
    ParentCorpus,
    ParentRate,
    RunName,
    number_of,
    position_of,
    typed,
)
from windtunnel.cli.train import carry_out
from windtunnel.quantities import about
from windtunnel.tunnel.design import CONTEXT, LENGTH


@app.command()
def upcycle(
    run: RunName,
    tokens: Annotated[
        str, typer.Option(metavar="TOKENS", help="How many tokens to train it for, such as 20M.")
    ],
    experts: Annotated[
        int, typer.Option(metavar="N", min=2, help="How many experts each feed-forward becomes.")
    ] = 8,
    per_token: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="How many of the experts each token goes through. With 1, what it gives is "
            "multiplied by the router's probability, so the loss rises at first; and no layout of "
            "`export` can hold it.",
        ),
    ] = 2,
    decay: NewDecay = "10%",
    lr: ParentRate = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="TOKENS", help="Batch, in tokens per step; by default the run's."),
    ] = None,
    context: Annotated[
        int | None,
        typed(
            "--context",
            CONTEXT,
            "Tokens in a window; by default as many as the run's, and never more.",
        ),
    ] = None,
    corpus: ParentCorpus = None,
    at: AtStable = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A name for the new run; by default the run's with -experts."
        ),
    ] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Continue a run as a mixture of experts.

    Each feed-forward becomes several experts, which are copies of it at first, and training goes
    on.
    """
    from windtunnel.data.shards import Corpus
    from windtunnel.family.upcycle import Asked
    from windtunnel.family.upcycle import upcycle as begin
    from windtunnel.model.shape import active_params, count
    from windtunnel.train.run import find_run, open_corpus

    asked = Asked(
        tokens=number_of("--tokens", tokens) or 0,
        experts=experts,
        experts_per_token=per_token,
        decay=LENGTH.parse("--decay", decay),
        lr=lr,
        batch=number_of("--batch", batch),
        context=context,
        at=position_of("--at", at),
        name=name,
    )
    parent = find_run(lab, run)
    if corpus:
        text = Corpus.open(parent.lab / "corpora" / corpus)
    else:
        text = open_corpus(parent.lab, parent.recipe)
    made = begin(parent, text, asked)
    model = made.recipe.model
    with display() as shown:
        shown.say(
            f"{made.id}: {parent.id} at {about(made.at_tokens or 0)} tokens with experts, "
            f"{about(count(model).params)} parameters without embeddings, of which a token goes "
            f"through {about(active_params(model))}"
        )
    carry_out(made, text, as_json)
