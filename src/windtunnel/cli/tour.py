"""`windtunnel tour`: the whole chain at a laptop's scale."""

from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import paragraph
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, typed
from windtunnel.cli.study import HERE, On, following
from windtunnel.quantities import about
from windtunnel.tunnel.design import NUMBER
from windtunnel.tunnel.fleet.where import train_on

if TYPE_CHECKING:
    from windtunnel.results.tour import TourNumbers

# The chain again, on a folder of files.
ON_ONE_S_OWN_TEXT = (
    "windtunnel corpus build mine text=FOLDER/ --vocab 4096",
    "windtunnel scaling --corpus mine",
    "windtunnel plan --corpus mine --hours 1 --device cpu",
)


@app.command()
def tour(
    minutes: Annotated[
        float,
        typed(
            "--minutes",
            NUMBER,
            "About how long the tour may take. The lengths of its runs follow from it.",
        ),
    ] = 10.0,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="A corpus of the lab, or a source that can be fetched such as stdlib, to use in "
            "place of the essays.",
            metavar="NAME",
        ),
    ] = None,
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Go through the whole chain at a laptop's scale.

    A corpus, the studies check, search, transfer and scaling, a plan and its run, and a page that
    shows it all.
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
    paragraph(result.summary)
    print(f"{page} shows it all; `windtunnel runs --lab {lab}` lists the runs.")
    print("\nOn your own text, type next:\n")
    for line in ON_ONE_S_OWN_TEXT:
        print(f"    {line}")


def _print(numbers: "TourNumbers") -> None:
    for step in numbers.steps:
        verdict = step.verdict or "no verdict"
        print(f"\n{step.study.upper()} ({verdict}, {step.minutes} minutes)")
        paragraph(step.summary, "  ")
    print("\nThe same prompt, answered by three of its models:")
    for sample in numbers.samples:
        bits = f", {sample.bits_per_byte:.3f} bits/byte" if sample.bits_per_byte else ""
        size, length = about(sample.params_total), about(sample.tokens)
        print(f"\n{sample.what} ({size} parameters, {length} tokens{bits}), run {sample.run}:")
        for line in sample.text.splitlines():
            paragraph(line, "  ")
    print()
