"""`windtunnel tour` and `report`."""

import json
from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display, stopping
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab
from windtunnel.errors import InputError
from windtunnel.quantities import about


@app.command()
def tour(
    minutes: Annotated[float, typer.Option(help="How long it may take; the sizes follow.")] = 8.0,
    corpus: Annotated[str | None, typer.Option(help="A corpus of the lab instead of the core one.")] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """The whole chain at a laptop's scale: text, a stem, its decayed branches, and a page that shows them."""
    if minutes <= 0:
        raise InputError(f"--minutes {minutes}: expected more than zero")
    from windtunnel.report.page import write_page
    from windtunnel.train.loop import Watch
    from windtunnel.tunnel.tour import tour as take_tour

    with display() as shown, stopping() as stop:
        done = take_tour(lab, minutes, corpus, Watch(shown.say, stop=stop), shown.show, shown.training)
    page = write_page(lab)
    if as_json:
        print((done.folder / "result.json").read_text())
        return
    print(f"\n{'tokens':>8} {'stable':>8} {'decayed':>8} {'cosine':>8}   validation loss, nats/token")
    for point in done.points:
        print(f"{about(point.tokens):>8} {point.stable:8.4f} {point.decayed:8.4f} {point.cosine:8.4f}")
    print(f"\n{json.loads((done.folder / 'result.json').read_text())['summary']}")
    print(f"\nThe longest branch writes:\n\n{done.sample}\n")
    print(f"{page} shows it all; `windtunnel runs --lab {lab}` lists the runs.")


@app.command()
def report(lab: Lab = DEFAULT_LAB) -> None:
    """Write the lab's page: every run and study in one file that needs no network."""
    from windtunnel.report.page import write_page

    print(write_page(lab))
