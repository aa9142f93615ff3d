"""`windtunnel tour`: the whole chain at a laptop's scale."""

from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, typed
from windtunnel.cli.study import HERE, On, following
from windtunnel.tunnel.design import NUMBER
from windtunnel.tunnel.fleet.where import train_on

if TYPE_CHECKING:
    from windtunnel.results.tour import TourNumbers


@app.command()
def tour(
    minutes: Annotated[
        float,
        typed(
            "--minutes",
            NUMBER,
            "About how long the tour may take. The lengths of its runs follow from it.",
        ),
    ] = 11.0,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="A corpus of the lab to use in place of the core corpus.", metavar="NAME"
        ),
    ] = None,
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Go through the whole chain at a laptop's scale.

    A corpus, the studies check, search, transfer, batch and scaling, a plan and its run, and a page
    that shows it all.
    """
    from windtunnel.report.page import write_page
    from windtunnel.results.study import read_study
    from windtunnel.results.tour import TOUR
    from windtunnel.tour import tour as take_tour

    train_on(on)
    with following() as watch:
        take_tour(lab, minutes, corpus, watch)
    page = write_page(lab)
    result = read_study(lab, TOUR)
    if as_json:
        print(result.to_json())
        return
    _print(result.numbers)
    print(f"{result.summary}\n{page} shows it all; `windtunnel runs --lab {lab}` lists the runs.")


def _print(numbers: "TourNumbers") -> None:
    for step in numbers.steps:
        verdict = step.verdict or "no verdict"
        print(f"\n{step.study.upper()} ({verdict}, {step.minutes} minutes)\n  {step.summary}")
    print(f"\nThe best model writes:\n\n{numbers.sample}\n")
