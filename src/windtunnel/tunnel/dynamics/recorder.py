"""What is recorded of every step of a run: how far the weights move, and the gradients at both
ends of the step.
"""

import io
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import role_of
from windtunnel.results.dynamics import StepNumbers, StepRecord
from windtunnel.train import checkpoint
from windtunnel.train.run import Run
from windtunnel.train.step import Step

Vector = NDArray[np.float64]

_DIGITS = 9  # of a recorded number
_MATRICES = ("query", "gate")  # whose largest change the paper shows


def measure(x: Vector, g: Vector, next_x: Vector, next_g: Vector, again: Vector) -> StepNumbers:
    """One step's numbers from the parameters and gradients at its two ends, all (n,).

    `next_g`: the next batch's gradient at next_x. `again`: this step's own batch's gradient at
    next_x.
    """
    v = next_x - x
    norm, next_norm, moved = (math.sqrt(_dot(a, a)) for a in (g, next_g, v))
    inner = _dot(next_g, g)
    d1 = _dot(next_g, v) / moved
    d2 = _dot(next_g - g, v) / moved**2
    return StepNumbers(
        max_change=float(np.abs(v).max()),
        step_norm=moved,
        grad_norm=norm,
        max_gradient=float(np.abs(g).max()),
        inner_product=inner,
        cosine=inner / (norm * next_norm),
        d1=d1,
        d2=d2,
        curvature=abs(d2) / (1 + d1**2) ** 1.5,
        d2_same_batch=_dot(again - g, v) / moved**2,
    )


class Recorder:
    """Every step's numbers, in `RUN/dynamics/steps.jsonl`, and beside them x and g of the last
    step before each checkpoint: the first step after a resume needs them.
    """

    def __init__(self, run: Run, corpus: Corpus) -> None:
        self.run = run
        self.corpus = corpus
        self.batch = run.recipe.train.batch
        self.folder = run.path / "dynamics"
        self.file = self.folder / "steps.jsonl"
        self._last: tuple[Vector, Vector] | None = None  # x and g before the present step
        self._saving = 0  # position of the last checkpoint, which may not be on the disk yet
        self._waiting: list[StepRecord] = []
        self._windows: Windows | None = None

    def gradient(self, step: Step, position: int) -> None:
        """For `Watch.gradient`: completes the step that ended at this position."""
        model = step.model
        # not before: until now another process may have been training the run
        if self._windows is None:
            self._windows = self._begin(position)
        next_x, next_g = _flat(model.parameters()), _flat(map(_gradient, model.parameters()))
        if self._last:
            x, g = self._last
            batch = self._windows.read(position - self.batch, self.batch)
            again = gradient_of(batch, step)
            numbers = measure(x, g, next_x, next_g, again).model_dump()
            numbers |= _largest_changes(model, next_x - x)
            rounded = {name: float(f"{number:.{_DIGITS}g}") for name, number in numbers.items()}
            self._waiting.append(StepRecord.model_validate({"tokens": position} | rounded))
        self._last = next_x, next_g

    def keep(self, tokens: int) -> None:
        """For `Watch.step`, which the loop calls before it saves a checkpoint at `tokens`. Raises
        InputError where it can't be written.
        """
        assert self._last
        # a run may go on from any checkpoint that it keeps, and needs x and g of the step before
        needed = {*checkpoint.positions(self.run.checkpoints), self._saving, tokens}
        stream = io.BytesIO()
        np.save(stream, np.stack(self._last).astype(np.float32))
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(record.model_dump_json() + "\n" for record in self._waiting)
                # on the disk before the checkpoint: else a resumed run would lack these steps
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.folder}: could not be written: {error.strerror}") from None
        write_whole(self._vectors(tokens), stream.getvalue())
        self._waiting.clear()
        self._forget_all_but(needed)

    def saving(self, tokens: int) -> None:
        """For `Watch.saving`."""
        self._saving = tokens

    def saved(self, tokens: int) -> None:
        """For `Watch.saved`: nothing goes on from the end."""
        if tokens >= self.run.recipe.total_tokens:
            self._forget_all_but(())

    def records(self, until: int) -> list[StepRecord]:
        """Those of the steps that end before `until`. Raises InputError unless all are there."""
        found = [record for record in self._all() if record.tokens < until]
        if [record.tokens for record in found] != list(range(self.batch, until, self.batch)):
            raise InputError(
                f"{self.run.path}: was trained without its steps recorded: take another --seed, "
                "for a run of its own"
            )
        return found

    def _all(self) -> Iterator[StepRecord]:
        """Every record in the file. A process that was killed may have left a part of a line."""
        lines = (
            self.file.read_text(encoding="utf-8").splitlines(keepends=True)
            if self.file.exists()
            else []
        )
        for number, line in enumerate(lines, 1):
            if line.endswith("\n"):
                yield StepRecord.parse(line, f"{self.file}: line {number}")

    def _begin(self, position: int) -> Windows:
        """Drop what was recorded after the checkpoint that the run goes on from; take up the step
        before it.
        """
        kept = self.records(position)
        try:
            self.folder.mkdir(exist_ok=True)
            write_whole(self.file, "".join(record.model_dump_json() + "\n" for record in kept))
            if position:
                x, g = np.load(self._vectors(position), allow_pickle=False)
                self._last = x.astype(np.float64), g.astype(np.float64)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder}: could not be read or written: {error}") from None
        return Windows(self.corpus, self.run.recipe.data, self.run.recipe.seed)

    def _forget_all_but(self, positions: Iterable[int]) -> None:
        kept = {self._vectors(position) for position in positions}
        for path in self.folder.glob("*.npy"):
            if path not in kept:
                path.unlink()

    def _vectors(self, tokens: int) -> Path:
        return self.folder / f"{tokens:015d}.npy"


def gradient_of(batch: NDArray[np.int64], step: Step) -> Vector:
    """The gradient of a batch, (windows, context + 1), at the present parameters, as a training
    step takes it; leaves the gradients that stand in them as they were.
    """
    gradients = [_gradient(p) for p in step.model.parameters()]
    held = [gradient.clone() for gradient in gradients]
    for gradient in gradients:
        gradient.zero_()
    step.gradient(batch)
    found = _flat(gradients)
    for gradient, before in zip(gradients, held, strict=True):
        gradient.copy_(before)
    return found


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _flat(tensors: Iterable[torch.Tensor]) -> Vector:
    """All of them as one vector, in their order."""
    joined = torch.cat([tensor.detach().flatten() for tensor in tensors])
    return joined.cpu().numpy().astype(np.float64)


def _largest_changes(model: Decoder, v: Vector) -> dict[str, float]:
    """The largest change by role, and that of the matrices that the paper shows, over all layers.
    `v`: the change of all parameters as one vector.
    """
    largest: dict[str, float] = {}
    start = 0
    for name, p in model.named_parameters():
        change = float(np.abs(v[start : start + p.numel()]).max())
        start += p.numel()
        kind = name.rsplit(".", 1)[-1]
        keys = [role_of(name), kind] if kind in _MATRICES else [role_of(name)]
        for key in keys:
            column = f"max_change_{key}"
            largest[column] = max(change, largest.get(column, 0.0))
    return largest


def _dot(a: Vector, b: Vector) -> float:
    # numpy's own sum gives the same bits wherever the arrays lie in memory and however many
    # threads there are
    return float((a * b).sum())
