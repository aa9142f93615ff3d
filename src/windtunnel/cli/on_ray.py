"""`train --on ray`: the option, and what the command does around the ranks of its run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.display import stopping

if TYPE_CHECKING:
    from windtunnel.recipe import Recipe

On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="WORD|ADDRESS",
        help="Where the run is trained: here, by this process; ray, by a process for each GPU of a "
        "Ray cluster, or each core where it has none. With an address, "
        "ray://HOST:PORT, of the cluster whose Ray client server that is.",
    ),
]


def train_on_ray(
    recipe: "Recipe", lab: Path, address: str, devices: int | None, anew: bool, as_json: bool
) -> None:
    """Have a recipe trained by ranks on a Ray cluster, each of which carries out `windtunnel train`
    on the recipe that stands in the run's folder; the first one is heard.
    """
    from windtunnel.train.on_ray import carry_out, places
    from windtunnel.train.parallel import check_shares
    from windtunnel.train.run import create, open_corpus

    here = lab.absolute()
    corpus = open_corpus(here, recipe)
    there = places(address, recipe.train.device, devices)
    check_shares(recipe, there.world)
    run = create(here, recipe, corpus)
    command = ["train", str(run.path / "recipe.toml"), "--lab", str(here)]
    command += ["--engine", "anew"] if anew else []
    command += ["--json"] if as_json else []
    with stopping(quiet=True) as stop:
        ended = carry_out(there, command, run.path, _say, stop)
    print(ended.printed, end="")
    if ended.fault:
        _say(f"windtunnel: {ended.fault}")
    if ended.code:
        raise typer.Exit(ended.code)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
