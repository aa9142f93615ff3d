"""`windtunnel launch`: a study or a run as a job of a cluster."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import typed
from windtunnel.errors import InputError, did_you_mean
from windtunnel.launch import LAUNCHERS, Launcher, Work
from windtunnel.tunnel.design import whole

# Those whose runs a fleet trains.
_STUDIES = ("search", "transfer", "batch", "scaling", "ablate", "tour")
# MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS and so on
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


@app.command()
def launch(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|RECIPE.toml", help=f"A study ({', '.join(_STUDIES)}) or a recipe's file."
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTION", help="Behind --: options of the study, or of `train`."),
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help=f"{LAUNCHERS['slurm'].help}.")] = False,
    torchrun: Annotated[
        bool, typer.Option("--torchrun", help=f"{LAUNCHERS['torchrun'].help}.")
    ] = False,
    sky: Annotated[bool, typer.Option("--sky", help=f"{LAUNCHERS['sky'].help}.")] = False,
    nodes: Annotated[int, typed("--nodes", whole(), "Machines.")] = 1,
    gpus: Annotated[
        int, typed("--gpus", whole(least=0), "GPUs of each machine. 0: its cores are trained on.")
    ] = 0,
    cores: Annotated[int, typed("--cores", whole(), "Cores of each machine.")] = 2,
    time: Annotated[
        str,
        typer.Option(
            "--time", metavar="TIME", help="Most time of a Slurm job, as sbatch takes it."
        ),
    ] = "24:00:00",
    go: Annotated[bool, typer.Option("--go", help="Submit the job, too.")] = False,
) -> None:
    """Print a cluster's job for a study or a run, or submit it.

    A study's runs are trained by workers of a Ray cluster that lives as long as the job, and one
    run by torchrun. The machines need the lab in a folder that all of them share.
    """
    launcher = _launcher({"slurm": slurm, "torchrun": torchrun, "sky": sky})
    if not _TIME.fullmatch(time):
        raise InputError(f"--time {time}: expected minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    study = what in _STUDIES
    if not study and not Path(what).is_file():
        raise InputError(
            f"{what}: expected a study ({', '.join(_STUDIES)}) or the file of a recipe"
            f"{did_you_mean(what, _STUDIES)}"
        )
    work = Work(
        name=what if study else Path(what).stem,
        study=study,
        arguments=(*((what,) if study else ("train", what)), *(arguments or ())),
        nodes=nodes,
        gpus=gpus,
        cores=cores,
        time=time,
        folder=Path.cwd(),
    )
    if study and "--on" in work.arguments:
        raise InputError("--on: the job has a Ray cluster of its own, and its study runs on that")
    text = launcher.text(work)
    if not go:
        print(text, end="")
        return
    _submit(launcher, work, text)


def _launcher(asked: dict[str, bool]) -> Launcher:
    chosen = [name for name, wanted in asked.items() if wanted]
    if len(chosen) != 1:
        raise InputError("windtunnel launch: expected one of --slurm, --torchrun and --sky")
    return LAUNCHERS[chosen[0]]


def _submit(launcher: Launcher, work: Work, text: str) -> None:
    """Write the job beside what it is about, and hand it over; exit with what that says."""
    if shutil.which(launcher.submit[0]) is None:
        raise InputError(f"--go: {launcher.submit[0]} is not installed on this machine")
    file = work.folder / f"windtunnel-{work.name}{launcher.suffix}"
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: could not be written: {error.strerror}") from None
    code = subprocess.run([*launcher.submit, str(file)], check=False).returncode
    if code:
        raise typer.Exit(code)
