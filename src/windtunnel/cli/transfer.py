"""`windtunnel transfer`: does the best learning rate stay while the model grows?"""

from typing import Annotated, Any

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab, numbers_of, words_of
from windtunnel.cli.study import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import parse_tokens
from windtunnel.recipe import PARAMETRIZATIONS


@app.command()
def transfer(
    corpus: Corpora = "core",
    widths: Annotated[
        str, typer.Option(help="At the first depth; at least three, over 8x for a verdict.")
    ] = ("32,64,128,256"),
    depths: Annotated[
        str, typer.Option(help="Those after the first are measured at the first width.")
    ] = "2,8",
    parametrization: Annotated[
        str,
        typer.Option(
            help=f"Parametrizations to compare, out of {', '.join(PARAMETRIZATIONS)}; the verdict is on the first."
        ),
    ] = "minicpm,standard",
    tokens: Annotated[str, typer.Option(help="Of each run; at least 400 steps.")] = "819200",
    batch: Annotated[str, typer.Option(help="Tokens a step.")] = "2048",
    seeds: Annotated[
        str, typer.Option(help="Of the points about the best rate: one number a parametrization.")
    ] = "3,2",
    lr: Annotated[
        float,
        typer.Option(help="Where the grid of half-octaves begins; it goes where the loss falls."),
    ] = (0.01),
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Find the best learning rate at several widths and depths, by parametrization, and how it
    drifts.
    """
    from windtunnel.tunnel.transfer.transfer import Design
    from windtunnel.tunnel.transfer.transfer import transfer as run_transfer

    asked = words_of("--parametrization", parametrization, PARAMETRIZATIONS)
    repeats = numbers_of("--seeds", seeds, different=False)
    repeats = repeats * len(asked) if len(repeats) == 1 else repeats[: len(asked)]
    if len(repeats) < len(asked):
        raise InputError(
            f"--seeds {seeds}: expected one number, or one for each of {parametrization}"
        )
    design = Design(
        asked,
        numbers_of("--widths", widths),
        numbers_of("--depths", depths),
        parse_tokens(tokens),
        parse_tokens(batch),
        repeats,
        lr,
    )
    carry_out(
        lab, corpus, as_json, lambda opened, watch: run_transfer(lab, opened, design, watch), _print
    )


def _print(result: dict[str, Any]) -> None:
    print(
        f"{'':10} {'width':>5} {'depth':>5} {'best lr':>8}  {'90% interval':18} {'loss':>7} {'regret':>7} {'noise':>6}"
    )
    for name, found in result["numbers"]["parametrizations"].items():
        for size in found["sizes"]:
            if size["lr"] is None:
                print(
                    f"{name:10} {size['width']:5} {size['depth']:5} {'none':>8}  no minimum in reach"
                )
                continue
            low, high = size["interval"]
            print(
                f"{name:10} {size['width']:5} {size['depth']:5} {size['lr']:8.4f}  {f'{low:.4f} to {high:.4f}':18} "
                f"{size['best_loss']:7.4f} {size['regret']:7.4f} {size['noise']:6.4f}"
            )
