"""The command line: one function a command; it parses, calls and prints. torch is imported where
a command needs it.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from windtunnel import __version__
from windtunnel.errors import InputError

app = typer.Typer(
    help="Measure tiny language models, fit laws to them, predict a larger one, and train it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# Loops that an idle OpenMP thread spins before it sleeps. By default of libgomp, two trainings on
# the same cores ran twenty times slower each: their threads spun on the cores that the others
# needed (docs/LOG.md).
_SPINS = "3000"
# each adds its commands to `app`, which lists them in this order
_COMMANDS = (
    "tour",
    "report",
    "corpus",
    "train",
    "check",
    "search",
    "transfer",
    "batch",
    "scaling",
    "dynamics",
    "ablate",
    "plan",
    "sft",
    "upcycle",
    "ship",
    "talk",
)


def main() -> None:
    """Run a command. Exit code 0: success; 1: a failed verdict or run; 2: bad input, with one
    line that says what.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache() / "compiled"))
    for module in _COMMANDS:
        importlib.import_module(f"windtunnel.cli.{module}")

    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # click's own errors of usage: a wrong option, a missing argument
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message()} (see `windtunnel --help`)")  # type: ignore[attr-defined]
    sys.exit(code)


def _cache() -> Path:
    """What outlives a reboot, unlike torch's own choice, and any lab: a shape is compiled once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "windtunnel"


def _fail(message: str) -> NoReturn:
    print(f"windtunnel: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _windtunnel(
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
