"""Checkpoints: safetensors and JSON, checksummed, in a folder that appears by atomic rename. No
pickle is ever read.

    TOKENS/  checkpoint.json  weights.safetensors  moments.safetensors      of one process
    TOKENS/  checkpoint.json  weights/*.safetensors  moments/*.safetensors  of several, a file each

Whoever reads one need not know how many wrote it.

torch is imported where tensors are read or written, so that listing runs does not wait for it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from windtunnel.errors import InputError
from windtunnel.files import sha256_of
from windtunnel.results.run import CheckpointContent

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("weights", "moments")
_PINNED = "kept"  # a file that marks a checkpoint as a branch point


@dataclass(frozen=True)
class Checkpoint:
    """Weights and optimiser moments after `tokens` tokens and `steps` updates."""

    tokens: int
    steps: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def copied(checkpoint: Checkpoint) -> Checkpoint:
    """The same in the memory of the host, which stays as it is while training goes on."""
    return Checkpoint(
        checkpoint.tokens,
        checkpoint.steps,
        *(
            {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            for tensors in (checkpoint.weights, checkpoint.moments)
        ),
    )


def save(folder: Path, checkpoint: Checkpoint, wanted: Callable[[], bool] = lambda: True) -> Path:
    """Write `folder/TOKENS/`, if it is still `wanted` once its files are there. After a crash at
    any moment the checkpoint is there whole, or not at all.
    """
    from safetensors.torch import save_file

    final = path_of(folder, checkpoint.tokens)
    with being_written(final, part_of(final, secrets.randbits(32))) as part:
        folder.mkdir(exist_ok=True)
        part.mkdir()
        digests = {}
        for name in PARTS:
            file = part / f"{name}.safetensors"
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in getattr(checkpoint, name).items()},
                file,
            )
            digests[file.name] = digest_of(file)
        if wanted():
            appear(part, final, checkpoint, digests)
    return final


def part_of(final: Path, number: int) -> Path:
    """The folder in which a checkpoint is written; `number`: by chance. Whoever was killed, or was
    taken for dead, may still be writing to another one.
    """
    return final.with_suffix(f".{number:08x}.part")


@contextmanager
def being_written(final: Path, part: Path) -> Iterator[Path]:
    """The folder `part`, in which the checkpoint `final` is written, and which is gone afterwards.
    Raises InputError for what went wrong.
    """
    try:
        yield part
    except (OSError, SafetensorError) as error:
        raise InputError(f"{final}: the checkpoint could not be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def digest_of(file: Path) -> str:
    """sha256 of a file that was written, once it is safe on the disk."""
    _flush(file)
    return sha256_of(file)


def appear(part: Path, final: Path, checkpoint: Checkpoint, digests: dict[str, str]) -> None:
    """Give what was written its place; `digests`: of its files, by their paths in it."""
    content = CheckpointContent(tokens=checkpoint.tokens, steps=checkpoint.steps, sha256=digests)
    content.write(part / "checkpoint.json")
    _flush(part)
    part.rename(final)
    _flush(final.parent)


def load(folder: Path, tokens: int) -> Checkpoint:
    """Read one back whole into the memory of the host, so that no device has to hold it beside a
    model. Raises InputError for a missing or damaged file, naming it.
    """
    path = path_of(folder, tokens)
    content = content_of(path)
    for file in content.sha256:
        check(path, content, file)
    return Checkpoint(tokens, content.steps, *(_read(path, content, name) for name in PARTS))


def content_of(path: Path) -> CheckpointContent:
    """What a checkpoint's folder should hold. Raises InputError where a part of it is missing."""
    content = CheckpointContent.read(path / "checkpoint.json")
    for name in PARTS:
        if not any(_belongs(file, name) for file in content.sha256):
            raise InputError(f"{path / 'checkpoint.json'}: damaged: it names no file of {name}")
    return content


def weights_of(content: CheckpointContent) -> str:
    """Names the weights: the digest of their file, or of the digests of several."""
    files = sorted(file for file in content.sha256 if _belongs(file, "weights"))
    if len(files) == 1:
        return content.sha256[files[0]]
    return hashlib.sha256("".join(content.sha256[file] for file in files).encode()).hexdigest()


def check(path: Path, content: CheckpointContent, name: str) -> None:
    """Raises InputError where a file is missing or damaged."""
    file = path / name
    if not file.exists() or sha256_of(file) != content.sha256[name]:
        raise InputError(
            f"{file}: damaged: its sha256 is not the one in checkpoint.json; "
            f"remove {path} to go back to the checkpoint before it"
        )


class Weights(Mapping[str, "Tensor"]):
    """The weights of a checkpoint, each read whole when it is asked for. Raises InputError for a
    missing or damaged file.
    """

    def __init__(self, folder: Path, tokens: int) -> None:
        path = path_of(folder, tokens)
        content = content_of(path)
        files = [file for file in content.sha256 if _belongs(file, "weights")]
        self._folder, self._names = (path / files[0]).parent, set[str]()
        for file in files:
            check(path, content, file)
            with safe_open(path / file, "pt") as opened:
                self._names.update(opened.keys())

    def __getitem__(self, name: str) -> Tensor:
        return _joined(self._folder, {name})[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _belongs(file: str, part: str) -> bool:
    return file == f"{part}.safetensors" or file.startswith(f"{part}/")


def _read(path: Path, content: CheckpointContent, part: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    file, whole = path / f"{part}.safetensors", f"{part}.safetensors" in content.sha256
    try:
        return load_file(file) if whole else _joined(path / part)
    except SafetensorError as error:
        where = file if whole else path / part
        raise InputError(f"{where}: not a safetensors file: {error}") from None


def _joined(folder: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors in a folder's files, all or these, of which each file has one or a share."""
    import torch
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    found = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(found[name].size) for name in names or found}  # type: ignore
    with warnings.catch_warnings():
        # that no other process takes part is what is wanted here
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors


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
    clear(folder)
    for tokens in positions(folder)[:-newest]:
        if not (path_of(folder, tokens) / _PINNED).exists():
            remove(folder, tokens)


def clear(folder: Path) -> None:
    """Remove what a crash left of checkpoints. None may be being written."""
    for leftover in [*folder.glob("*.gone"), *folder.glob("*.part")]:
        shutil.rmtree(leftover, ignore_errors=True)


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
