"""`windtunnel dynamics`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab, Shape, word_of
from windtunnel.cli.study import carry_out
from windtunnel.recipe import DECAY_SHAPES

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.train.loop import Watch


@app.command()
def dynamics(
    corpus: Corpora = "core",
    width: Annotated[int, typer.Option(help="Of the model.")] = 64,
    depth: Annotated[int, typer.Option(help="Of the model.")] = 3,
    tokens: Annotated[str, typer.Option(help="Length of the run, its decay included.")] = "1.5M",
    decay: Annotated[
        str, typer.Option(help="Length of the decay: tokens, or a share of --tokens.")
    ] = "25%",
    shape: Shape = "exponential",
    floor: Annotated[float, typer.Option(help="Share of the peak rate at the end.")] = 0.1,
    batch: Annotated[
        str, typer.Option(help="Tokens a step. A larger one shows gradients with less noise.")
    ] = "2048",
    seed: Annotated[int, typer.Option(help="Of the run.")] = 0,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """What the decay does, step by step: weight change, gradients, and the curvature along the
    path.
    """
    from windtunnel.quantities import parse_length, parse_tokens
    from windtunnel.results.dynamics import DYNAMICS

    chosen = word_of("--shape", shape, DECAY_SHAPES)
    length, share, step = parse_tokens(tokens), parse_length(decay), parse_tokens(batch)

    def study(opened: "Corpus", watch: "Watch") -> Path:
        from windtunnel.tunnel.dynamics import dynamics, recipe_of

        recipe = recipe_of(opened, width, depth, length, share, chosen, floor, step, seed)
        return dynamics(lab, opened, recipe, watch)

    carry_out(
        lab,
        corpus,
        as_json,
        DYNAMICS,
        study,
        lambda result: _print(result.model_dump(mode="json")),
    )


def _print(result: dict[str, Any]) -> None:
    print(
        f"\n{'':15} {'stable':>9} {'decayed':>9}   {'effect, 95% interval':40} shown  the paper's claim"
    )
    for claim in result["numbers"]["claims"]:
        value, low, high = claim["effect"]
        effect = f"{claim['effect_is']} {value:.3g} [{low:.3g}, {high:.3g}]"
        print(
            f"{claim['name']:15} {claim['stable'][0]:9.3g} {claim['decay'][0]:9.3g}   {effect:40} "
            f"{'yes' if claim['shown'] else 'no':6} {claim['says']}"
        )
