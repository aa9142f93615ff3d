"""`windtunnel` alone: where the lab stands, and the next sensible command."""

from pathlib import Path

from windtunnel import __version__
from windtunnel.cli.display import paragraph
from windtunnel.files import named

_SHOWN = 3  # commands


def say_where_it_stands(lab: Path, as_json: bool) -> None:
    """Of this folder, which need not exist."""
    from windtunnel.report.standing import standing

    found = standing(lab)
    if as_json:
        print(found.to_json())
        return
    print(f"windtunnel {__version__}, lab {named(lab)}\n")
    for line in found.lines:
        paragraph(line)
    if not found.lines:
        print("Nothing here yet.")
    print("\nnext")
    for one in found.next[:_SHOWN]:
        print(f"  {one.command}")
        paragraph(one.why, "      ")
    print("\nwindtunnel --help lists every command.")
