"""`windtunnel ui`: the lab's page, live, with a planner."""

from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Lab


@app.command()
def ui(
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The address to bind. Any other than this machine's own needs the token that is "
            "printed.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", help="The port; 0 takes a free one.", min=0, max=65535)
    ] = 8420,
    lab: Lab = DEFAULT_LAB,
) -> None:
    """Show the lab live in a browser, and plan in it.

    It shows what trains now with curves that move, the whole report, and a planner that answers
    as `windtunnel plan` does. It only reads: nothing in the lab is changed. Ctrl-C ends it.
    """
    from windtunnel.errors import InputError
    from windtunnel.report.app import address, serve

    if not lab.is_dir():
        raise InputError(f"{lab}: there is no such lab; `windtunnel tour --lab {lab}` makes one")
    server = serve(lab, host, port)
    print(f"{address(server)}  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
