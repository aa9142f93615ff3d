"""What a run records while it trains: metrics.jsonl, a line a step and one a validation; and
whether it diverges.
"""

import json
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from windtunnel.errors import InputError
from windtunnel.train.run import Run

_WATCHED = 20  # steps whose mean loss tells a diverged run
_DIVERGED = 1.5  # times the loss of a uniform guess, or of the first step if that was worse


class Diverged(Exception):
    """The run's loss is not a number any more, or far above that of a uniform guess."""


class Recorder:
    """Of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file = (run.path / "metrics.jsonl").open("a")
        self._recent: deque[float] = deque(maxlen=_WATCHED)
        self._first_loss: float | None = None

    def steps(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write steps, each with its `tokens`, `loss` and `grad_norm`. Raises Diverged, with
        nothing written.
        """
        for line in lines:
            self._check(line["tokens"], line["loss"], line["grad_norm"])
        self.write(*lines)

    def write(self, *lines: dict[str, Any]) -> None:
        try:
            self._file.write("".join(json.dumps(line) + "\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self._file.name}: could not be written: {error.strerror}") from None

    def _check(self, tokens: int, loss: float, norm: float) -> None:
        step = tokens // self._run.recipe.train.batch
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"loss {loss} and gradient norm {norm} at step {step}, token {tokens}")
        self._first_loss = self._first_loss or loss
        self._recent.append(loss)
        limit = _DIVERGED * max(self._first_loss, math.log(self._run.recipe.model.vocab))
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == _WATCHED and mean > limit:
            raise Diverged(
                f"mean loss {mean:.3f} of {_WATCHED} steps is over {limit:.3f} at step {step}, token {tokens}"
            )
