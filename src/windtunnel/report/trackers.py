"""Runs in the trackers that people have already. A run always writes metrics.jsonl, and nothing
else while it trains; from that file a tracker's own package writes what the tracker reads, on this
machine, without a network.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from windtunnel.choices import Table
from windtunnel.errors import InputError
from windtunnel.files import named
from windtunnel.train.run import Run

# (tokens, the numbers that were measured there by name), in order
Lines = Sequence[tuple[int, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Another program's way to keep the metrics of runs."""

    name: str
    help: str
    write: Callable[[Run, Lines, Path], None]
    """Into this folder, which is the tracker's alone. The same run again replaces itself, or stands
    beside itself where the tracker keeps every upload.
    """
    look: str
    """How a person looks at it; {folder} is where it lies."""


def track(run: Run, tracker: Tracker) -> Path:
    """Write what a run recorded for a tracker; returns the tracker's folder in the lab. Raises
    InputError where the package is missing, or the run has recorded nothing.
    """
    lines = lines_of(run)
    if not lines:
        raise InputError(f"{run.path}: it has recorded nothing yet")
    folder = run.lab / "trackers" / tracker.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tracker.write(run, lines, folder)
    except ImportError as error:
        raise InputError(
            f"--to {tracker.name}: needs {error.name}; `pip install 'windtunnel[trackers]'`"
        ) from None
    return folder


def lines_of(run: Run) -> Lines:
    """What metrics.jsonl says: every step, and every validation under its tokens."""
    found: list[tuple[int, dict[str, float]]] = []
    for step in run.steps():
        values = step.model_dump(exclude={"tokens"})
        found.append((step.tokens, {f"train/{name}": value for name, value in values.items()}))
    for line in run.validations():
        held = line.validation
        values = {"held-out/loss": held.loss, "held-out/bits_per_byte": held.bits_per_byte}
        for source, score in held.sources.items():
            values[f"held-out/{source}/bits_per_byte"] = score.bits_per_byte
        found.append((line.tokens, values))
    return sorted(found, key=lambda one: one[0])


def _to_tensorboard(run: Run, lines: Lines, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter  # imports the package tensorboard

    own = folder / run.id
    shutil.rmtree(own, ignore_errors=True)
    with SummaryWriter(str(own)) as writer:
        for tokens, values in lines:
            for name, value in values.items():
                writer.add_scalar(name, value, tokens)


def _to_wandb(run: Run, lines: Lines, folder: Path) -> None:
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
    with wandb.init(
        mode="offline",
        dir=str(folder),
        project=named(run.lab.name),
        id=run.id,
        name=run.recipe.name,
        config=run.recipe.model_dump(mode="json"),
        settings=settings,
    ) as kept:
        for tokens, values in lines:
            kept.log(values | {"tokens": tokens})


def _to_trackio(run: Run, lines: Lines, folder: Path) -> None:
    os.environ["TRACKIO_DIR"] = str(folder)  # read when the package is imported
    from trackio.sqlite_storage import SQLiteStorage

    project = named(run.lab.name)
    SQLiteStorage.delete_run(project, run.recipe.name, run_id=run.id)
    SQLiteStorage.bulk_log(
        project=project,
        run=run.recipe.name,
        run_id=run.id,
        metrics_list=[values for _, values in lines],
        steps=[tokens for tokens, _ in lines],
        config=run.recipe.model_dump(mode="json"),
    )


TRACKERS: Table[Tracker] = Table(
    "tracker",
    (
        Tracker(
            name="tensorboard",
            help="TensorBoard",
            write=_to_tensorboard,
            look="tensorboard --logdir {folder}",
        ),
        Tracker(
            name="wandb",
            help="Weights & Biases, offline until you sync it",
            write=_to_wandb,
            look="wandb sync {folder}/wandb/offline-run-*",
        ),
        Tracker(
            name="trackio",
            help="trackio",
            write=_to_trackio,
            look="TRACKIO_DIR={folder} trackio show",
        ),
    ),
)
