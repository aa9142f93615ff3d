"""`windtunnel` alone: where the lab stands, and the next sensible command; and what follows
on a run.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel import __version__
from windtunnel.cli.display import paragraph
from windtunnel.cli.options import DEFAULT_LAB
from windtunnel.files import named

if TYPE_CHECKING:
    from windtunnel.train.run import Run

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


def next_for(command: str, run: "Run") -> str:
    """A command for this run, as it can be typed."""
    from windtunnel.train.run import called

    return f"windtunnel {command} {shlex.quote(called(run))}{option_for(run.lab)}"


def option_for(lab: Path) -> str:
    """What a command has behind it to find this lab from here; nothing for the default one."""
    from windtunnel.report.standing import lab_option

    return lab_option(DEFAULT_LAB if lab.resolve() == DEFAULT_LAB.resolve() else lab)
