"""`windtunnel report`: the lab's page."""

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Lab


@app.command()
def report(
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="DIR", help="Another lab, to be shown beside this one."),
    ] = None,
    lab: Lab = DEFAULT_LAB,
) -> None:
    """Write the lab's page, LAB/report.html.

    It tells what was measured, what it means and what to do next, in one file that needs no
    network.
    """
    from windtunnel.report.page import write_comparison, write_page

    print(write_comparison(lab, against) if against else write_page(lab))
