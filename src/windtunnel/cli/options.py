"""Options that every command takes."""

from pathlib import Path
from typing import Annotated

import typer

Lab = Annotated[Path, typer.Option("--lab", help="The folder that holds corpora, runs, studies and the report.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
DEFAULT_LAB = Path("lab")
