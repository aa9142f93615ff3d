"""`windtunnel report`: the lab's page."""

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Lab


@app.command()
def report(lab: Lab = DEFAULT_LAB) -> None:
    """Write the lab's page: every run and study in one file that needs no network."""
    from windtunnel.report.page import write_page

    print(write_page(lab))
