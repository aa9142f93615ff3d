"""`windtunnel tour` and `report`."""

from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display, stopping
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab
from windtunnel.errors import InputError


@app.command()
def tour(
    minutes: Annotated[
        float, typer.Option(help="How long it may take; the lengths of the runs follow.")
    ] = 11.0,
    corpus: Annotated[
        str | None, typer.Option(help="A corpus of the lab instead of the core one.")
    ] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """The whole chain at a laptop's scale: check, search, transfer, batch, scaling, a plan and
    its run, and a page.
    """
    if minutes <= 0:
        raise InputError(f"--minutes {minutes}: expected more than zero")
    from windtunnel.report.page import write_page
    from windtunnel.tour import tour as take_tour
    from windtunnel.train.loop import Watch
    from windtunnel.tunnel.fleet.fleet import Interrupted

    with display() as shown, stopping() as stop:
        try:
            done = take_tour(lab, minutes, corpus, Watch(say=shown.say, stop=stop, show=shown.show))
        except Interrupted:
            shown.say("interrupted; the same command goes on from here")
            raise typer.Exit(130) from None
    page = write_page(lab)
    if as_json:
        print((done.folder / "result.json").read_text())
        return
    for step in done.steps:
        print(
            f"\n{step.study.upper()} ({step.verdict or 'no verdict'}, {step.minutes} minutes)\n  {step.summary}"
        )
    print(f"\nThe best model writes:\n\n{done.sample}\n")
    print(f"{page} shows it all; `windtunnel runs --lab {lab}` lists the runs.")


@app.command()
def report(lab: Lab = DEFAULT_LAB) -> None:
    """Write the lab's page: every run and study in one file that needs no network."""
    from windtunnel.report.page import write_page

    print(write_page(lab))
