"""The command line: one function a command; it parses, calls and prints. torch is imported where
a command needs it.
"""

import errno
import importlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from windtunnel import __version__
from windtunnel.errors import InputError, Lost

# of a group, the command behind which it is listed
_PLACES = {"corpus": "track", "runs": "branch"}


class _Commands(TyperGroup):
    """In the order in which they are needed. Typer alone would put groups of them last."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        for group, after in _PLACES.items():
            if group in names and after in names:
                names.remove(group)
                names.insert(names.index(after) + 1, group)
        return names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        _name_no_types(command)
        return command


def _name_no_types(command: Any) -> None:
    """Typer alone would name a type of Python beside each argument, as in `MODEL <str>`."""
    for each in getattr(command, "params", ()):
        if each.param_type_name == "argument":
            each.display_type_rich = lambda ctx: None
    for below in getattr(command, "commands", {}).values():
        _name_no_types(below)


app = typer.Typer(
    cls=_Commands,
    help="Measure tiny language models, fit laws to them, predict a larger one, and train it.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# Loops that an idle OpenMP thread spins before it sleeps. By default of libgomp, two trainings on
# the same cores ran twenty times slower each: their threads spun on the cores that the others
# needed (docs/LOG.md).
_SPINS = "3000"
# What may be wrong with a file that a person names, and with no line of ours.
_OF_THE_MACHINE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
)
# each adds its commands to `app`, which lists them in this order
_COMMANDS = (
    "tour",
    "report",
    "ui",
    "track",
    "corpus",
    "train",
    "runs",
    "check",
    "search",
    "transfer",
    "batch",
    "scaling",
    "dynamics",
    "ablate",
    "launch",
    "plan",
    "record",
    "sft",
    "longer",
    "dpo",
    "pairs",
    "upcycle",
    "evaluate",
    "ship",
    "talk",
)


def main() -> None:
    """Run a command. Exit code 0: success; 1: a failed verdict or run, or a lost process of it; 2:
    bad input. One line says what.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8, or a file name that is not, ends no command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    # CUDA's products then give the same bits each time; its library reads this but once.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch's compiler leaves semaphores to be cleaned up, which they are, and a line that says so
    # appears seconds after the command has ended.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    # Else it looks for plugins in the metadata of every package that is installed: 50 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache() / "compiled"))
    for module in _COMMANDS:
        importlib.import_module(f"windtunnel.cli.{module}")

    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        _fail(str(error))
    except Lost as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        # Who read it has seen enough, such as `head`; what Python still holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}")
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # click's own errors of usage: a wrong option, a missing argument
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message().rstrip('.')} (see `{_help_for(error)}`)")  # type: ignore[attr-defined]
    sys.exit(code)


def _help_for(error: Exception) -> str:
    """The command that explains the command in which an error of usage was made."""
    names = ["--help"]
    context = getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["windtunnel", *names])


def _cache() -> Path:
    """What outlives a reboot, unlike torch's own choice, and any lab: a shape is compiled once.
    For a person who has no home, or may not write there, a folder among the temporary files.
    """
    asked = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(asked) if asked else Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an account
        folder = None
    if folder and _may_be_written(folder):
        return folder / "windtunnel"
    return Path(tempfile.gettempdir()) / f"windtunnel-{os.getuid()}"


def _may_be_written(folder: Path) -> bool:
    """Whether it, or the nearest one above that is there, takes new files."""
    there = next(one for one in (folder, *folder.parents) if os.path.exists(one))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def _fail(message: str, code: int = 2) -> NoReturn:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from windtunnel.train.parallel import first_to_say

        if not first_to_say():
            sys.exit(code)
    print(f"windtunnel: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _windtunnel(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
    lab: Annotated[
        Path | None,
        typer.Option(
            "--lab",
            help="Without a command: the lab of which to say where it stands.",
            metavar="DIR",
        ),
    ] = None,
    as_json: bool = typer.Option(
        False, "--json", help="Without a command: say where the lab stands as JSON."
    ),
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        from windtunnel.cli.standing import say_where_it_stands

        say_where_it_stands(lab or Path("lab"), as_json)
    elif as_json or lab:
        which = "--json" if as_json else "--lab"
        raise InputError(
            f"{which} stands behind the command: `windtunnel {context.invoked_subcommand} {which}`"
        )
