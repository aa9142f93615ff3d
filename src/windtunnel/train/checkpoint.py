"""Checkpoints: safetensors and JSON, checksummed, in a folder that appears by atomic rename. No
pickle is ever read.

torch is imported where tensors are read or written, so that listing runs does not wait for it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from windtunnel.errors import InputError
from windtunnel.files import sha256_of
from windtunnel.results.run import CheckpointContent

if TYPE_CHECKING:
    from torch import Tensor

_PINNED = "kept"  # a file that marks a checkpoint as a branch point


@dataclass(frozen=True)
class Checkpoint:
    """Weights and optimiser moments after `tokens` tokens and `steps` updates."""

    tokens: int
    steps: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder/TOKENS/`. After a crash at any moment the checkpoint is there whole, or not
    at all.
    """
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    final = path_of(folder, checkpoint.tokens)
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        digests = {}
        for name in ("weights", "moments"):
            file = part / f"{name}.safetensors"
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in getattr(checkpoint, name).items()},
                file,
            )
            _flush(file)
            digests[file.name] = sha256_of(file)
        content = CheckpointContent(
            tokens=checkpoint.tokens, steps=checkpoint.steps, sha256=digests
        )
        content.write(part / "checkpoint.json")
        _flush(part)
        part.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{final}: the checkpoint could not be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


def load(folder: Path, tokens: int) -> Checkpoint:
    """Read one back into the memory of the host, so that no device has to hold it beside a model.
    Raises InputError for a missing or damaged file, naming it.
    """
    from safetensors.torch import load_file

    path = path_of(folder, tokens)
    content = CheckpointContent.read(path / "checkpoint.json")
    tensors = {}
    for name in ("weights", "moments"):
        file = path / f"{name}.safetensors"
        if not file.exists() or sha256_of(file) != content.sha256.get(file.name):
            raise InputError(
                f"{file}: damaged: its sha256 is not the one in checkpoint.json; "
                f"remove {path} to go back to the checkpoint before it"
            )
        try:
            tensors[name] = load_file(file)
        except SafetensorError as error:
            raise InputError(f"{file}: not a safetensors file: {error}") from None
    return Checkpoint(tokens, content.steps, tensors["weights"], tensors["moments"])


def positions(folder: Path) -> list[int]:
    """Token positions of the checkpoints that are there, in order."""
    return sorted(int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdigit())


def path_of(folder: Path, tokens: int) -> Path:
    return folder / f"{tokens:015d}"


def pin(folder: Path, tokens: int) -> bool:
    """Keep this checkpoint whatever the policy: something branches from it. False when a run that
    trains at this moment has just removed it.
    """
    mark = path_of(folder, tokens) / _PINNED
    try:
        mark.touch()
    except FileNotFoundError:
        return False
    return mark.exists()


def prune(folder: Path, newest: int) -> None:
    """Remove all but the `newest` last ones and the pinned ones, and what a crash left of
    others.
    """
    for leftover in [*folder.glob("*.gone"), *folder.glob("*.part")]:
        shutil.rmtree(leftover)
    for tokens in positions(folder)[:-newest]:
        if not (path_of(folder, tokens) / _PINNED).exists():
            remove(folder, tokens)


def remove(folder: Path, tokens: int) -> None:
    """Remove one, pinned or not."""
    path = path_of(folder, tokens)
    # renamed first: a crash in the middle leaves nothing that looks like a checkpoint
    path.rename(path.with_suffix(".gone"))
    shutil.rmtree(path.with_suffix(".gone"))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
