"""`windtunnel check`."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, Parametrization, numbers_of, word_of
from windtunnel.cli.study import watched
from windtunnel.errors import InputError
from windtunnel.recipe import PARAMETRIZATIONS

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus


@app.command()
def check(
    parametrization: Parametrization = "minicpm",
    widths: Annotated[
        str, typer.Option(help="Widths to compare, multiples of 16.")
    ] = "64,128,256,512",
    depths: Annotated[str, typer.Option(help="Depths to compare, at width 64.")] = "4,8,16",
    seeds: Annotated[
        int, typer.Option(help="Models of each size; the intervals come from them.")
    ] = 4,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="A corpus of the lab; by default core if it is there, else generated tokens."
        ),
    ] = None,
    embedding_as: Annotated[
        str, typer.Option(help="vector, or matrix: its init and rate shrink too.")
    ] = "vector",
    untied: Annotated[bool, typer.Option("--untied", help="With a head of its own.")] = False,
    lr: Annotated[float, typer.Option(help="The base rate, constant over the steps.")] = 0.003,
    eps: Annotated[float, typer.Option(help="Adam's eps.")] = 1e-8,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """The coordinate check: does everything that a model computes and learns keep its size as the
    model grows?
    """

    word_of("--parametrization", parametrization, PARAMETRIZATIONS)
    word_of("--embedding-as", embedding_as, Literal["vector", "matrix"])
    sizes = {"widths": numbers_of("--widths", widths), "depths": numbers_of("--depths", depths)}
    for option, value in (("--lr", lr), ("--eps", eps)):
        if not value > 0:
            raise InputError(f"{option} {value}: expected a number above zero")
    opened = _corpus(lab, corpus)
    from windtunnel.results.check import CHECK
    from windtunnel.tunnel.check.check import Design
    from windtunnel.tunnel.check.check import check as study

    chosen = {
        "parametrization": parametrization,
        "embedding_as": embedding_as,
        "tied": not untied,
        "lr": lr,
    }
    # pyright: ignore
    design = Design(**{k: tuple(v) for k, v in sizes.items()}, **chosen, seeds=seeds, eps=eps)
    if not as_json:
        source = (
            f"corpus '{opened.folder.name}'"
            if opened
            else "generated tokens: this lab has no corpus to read"
        )
        print(f"one window of {design.context} tokens, {source}")
    watched(
        lab,
        as_json,
        CHECK,
        lambda watch: study(lab, opened, design, watch),
        lambda result: _print(result.model_dump(mode="json")),
    )


def _corpus(lab: Path, name: str | None) -> "Corpus | None":
    from windtunnel.data.shards import Corpus

    folder = lab / "corpora" / (name or "core")
    return Corpus.open(folder) if name or (folder / "manifest.json").exists() else None


def _print(result: dict[str, Any]) -> None:
    steps = result["numbers"]["design"]["steps"]
    for axis, slopes in groupby(result["numbers"]["quantities"], key=lambda s: s["axis"]):
        print(
            f"\nslope of log2 on log2 of the {axis}, after steps; ! is out of what the theory allows"
        )
        print(f"{'':26}" + "".join(f"{t:>8}" for t in steps))
        table: dict[str, dict[int, dict[str, Any]]] = {}
        for slope in slopes:
            table.setdefault(f"{slope['quantity']} {slope['statistic']}", {})[slope["t"]] = slope
        for name, by_step in table.items():
            print(f"{name:26}" + "".join(_cell(by_step.get(t)) for t in steps))
        for cause in result["numbers"]["causes"][axis]:
            print(f"probable cause: {cause}")


def _cell(slope: dict[str, Any] | None) -> str:
    if slope is None:
        return " " * 8
    number = "none" if slope["slope"] is None else f"{slope['slope']:+.2f}"
    return f"{number:>7}{'!' if slope['verdict'] == 'fail' else ' '}"
