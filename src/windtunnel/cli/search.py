"""`windtunnel search`: the best learning rate, scale_depth, scale_emb and init_std, jointly, on a
small shape.
"""

from typing import Annotated, Any

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab, words_of
from windtunnel.cli.study import carry_out
from windtunnel.quantities import parse_tokens


@app.command()
def search(
    corpus: Corpora = "core",
    width: Annotated[int, typer.Option(help="Of the small shape.", min=16)] = 32,
    depth: Annotated[int, typer.Option(help="Of the small shape.", min=1)] = 3,
    tokens: Annotated[
        str,
        typer.Option(
            help="Of each run; 0: ten a parameter without embeddings, at least 400 steps."
        ),
    ] = "0",
    batch: Annotated[str, typer.Option(help="Tokens a step.")] = "2048",
    trials: Annotated[
        int, typer.Option(help="In all; the same command with more goes on.", min=2)
    ] = 48,
    start: Annotated[
        int, typer.Option(help="Of the trials: the paper's point, then a Sobol sequence.", min=2)
    ] = 16,
    batch_trials: Annotated[
        int, typer.Option(help="Asked for at once after the start.", min=1)
    ] = 8,
    candidates: Annotated[
        int, typer.Option(help="Best trials that run again with fresh seeds.", min=1)
    ] = 4,
    fresh_seeds: Annotated[
        int, typer.Option(help="For the choice, and as many more for the comparison.", min=2)
    ] = 3,
    also: Annotated[
        str, typer.Option(help="Search weight_decay, beta2, warmup too; any of them.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the trials and of what is asked.", min=0)] = 0,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Any Optuna storage URL, for its dashboard; by default the study's SQLite file."
        ),
    ] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Search lr, scale_depth, scale_emb and init_std, and compare the chosen point with the
    paper's.
    """
    from windtunnel.results.search import SEARCH
    from windtunnel.tunnel.search.search import Design
    from windtunnel.tunnel.search.search import search as run_search
    from windtunnel.tunnel.search.space import Also

    more = tuple(dict.fromkeys(words_of("--also", also, Also))) if also else ()
    design = Design(
        width,
        depth,
        parse_tokens(tokens),
        parse_tokens(batch),
        trials,
        start,
        batch_trials,
        candidates,
        fresh_seeds,
        seed,
        more,
    )
    carry_out(
        lab,
        corpus,
        as_json,
        SEARCH,
        lambda opened, watch: run_search(lab, opened, design, watch, storage),
        lambda result: _print(result.model_dump(mode="json")),
    )


def _print(result: dict[str, Any]) -> None:
    numbers = result["numbers"]
    chosen, paper = numbers["chosen"], numbers["defaults"]
    print(f"{'':12} {'chosen':>8} {'paper':>8}  {'best is in (90%)':20} {'explains alone':>14}")
    for name in numbers["settings"]:
        low, high = numbers["bowls"][name]["best"]
        print(
            f"{name:12} {chosen[name]:8.4g} {paper[name]:8.4g}  {f'{low:.3g} to {high:.3g}':20} "
            f"{numbers['importances'][name]:14.0%}"
        )
    print(f"\n{'candidate':>9} {'its trial':>9} {'posterior':>9}  with fresh seeds")
    for one in numbers["candidates"]:
        fresh = "  ".join("diverged" if loss is None else f"{loss:.4f}" for loss in one["losses"])
        print(f"{one['trial']:9} {one['trial_loss']:9.4f} {one['posterior_mean']:9.4f}  {fresh}")
    noise = numbers["noise"]
    print(
        f"\n{numbers['failed']} of {numbers['trials']} trials diverged; noise of a seed {noise['seed']:.4f}, "
        f"of a point with a seed {noise['run']:.4f} nats/token"
    )
