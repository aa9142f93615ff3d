"""`windtunnel track`: runs in the trackers that people have already."""

from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Lab, RunName


@app.command()
def track(
    run: RunName,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="WORD",
            help="Where to: tensorboard, wandb (offline, until you sync it) or trackio.",
        ),
    ] = "tensorboard",
    lab: Lab = DEFAULT_LAB,
) -> None:
    """Write what a run recorded for a tracker such as TensorBoard.

    Into LAB/trackers, on this machine and without a network. Every run has its metrics.jsonl in
    any case; the trackers' packages come with `pip install 'windtunnel[trackers]'`.
    """
    from windtunnel.report.trackers import TRACKERS
    from windtunnel.report.trackers import track as write
    from windtunnel.train.run import find_run

    tracker = TRACKERS.choose(to, f"--to {to}")
    folder = write(find_run(lab, run), tracker)
    print(f"{folder} holds it; {tracker.look.format(folder=folder)} shows it")
