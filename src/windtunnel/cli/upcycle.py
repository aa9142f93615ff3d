"""`windtunnel upcycle`: a run goes on as a mixture of experts."""

import sys
from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, number_of
from windtunnel.cli.train import carry_out
from windtunnel.quantities import about, parse_length, parse_tokens


@app.command()
def upcycle(
    run: Annotated[
        str,
        typer.Argument(help="A run's id (or its beginning), name or path; an imported one, too."),
    ],
    tokens: Annotated[str, typer.Option(help="How many tokens to train it for, such as 20M.")],
    experts: Annotated[int, typer.Option(min=2, help="Copies of each feed-forward.")] = 8,
    per_token: Annotated[
        int, typer.Option(min=1, help="How many of them a token goes through.")
    ] = 2,
    decay: Annotated[
        str, typer.Option(help="Of --tokens, the last: tokens or a share; 0 for a stem.")
    ] = "10%",
    lr: Annotated[
        float | None, typer.Option(help="Base rate; the run's. An imported one needs it.")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Tokens a step; the run's.")] = None,
    context: Annotated[int | None, typer.Option(min=2, help="Shorter windows, tokens.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Another corpus. An imported run needs one.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Tokens of its checkpoint; else the last one, before a decay if that is kept."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the new run.")] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Make a run's feed-forwards experts, each a copy at first, and go on training."""
    from windtunnel.data.shards import Corpus
    from windtunnel.family.upcycle import Asked
    from windtunnel.family.upcycle import upcycle as begin
    from windtunnel.model.shape import active_params, count
    from windtunnel.train.run import find_run, open_corpus

    length = number_of("--tokens", tokens) or 0
    size, position = number_of("--batch", batch), None if at is None else parse_tokens(at)
    parent = find_run(lab, run)
    text = (
        Corpus.open(parent.lab / "corpora" / corpus)
        if corpus
        else open_corpus(parent.lab, parent.recipe)
    )
    asked = Asked(
        length, experts, per_token, parse_length(decay), lr, size, context, position, name
    )
    made = begin(parent, text, asked)
    model = made.recipe.model
    print(
        f"{made.id}: {parent.id} at {about(made.at_tokens or 0)} tokens, with experts {about(count(model).params)} "
        f"parameters without embeddings, {about(active_params(model))} active",
        file=sys.stderr,
    )
    carry_out(made, text, as_json)
