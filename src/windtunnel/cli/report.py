"""`windtunnel report`: the lab's page."""

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Lab


@app.command()
def report(lab: Lab = DEFAULT_LAB) -> None:
    """Write the lab's page, LAB/report.html.

    It shows every run, study and plan in one file, and needs no network.
    """
    from windtunnel.report.page import write_page

    print(write_page(lab))
