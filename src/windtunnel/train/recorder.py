"""What a run records while it trains: metrics.jsonl, a line a step and one a validation; and
whether it diverges.
"""

import math
from collections import deque
from collections.abc import Sequence

from windtunnel.errors import InputError
from windtunnel.results.run import MetricsLine, StepLine, ValidationLine
from windtunnel.train.run import Run

_WATCHED = 20  # steps whose mean loss tells a diverged run
_DIVERGED = 1.5  # times the loss of a uniform guess, or of the first step if that was worse


class Diverged(Exception):
    """The run's loss is not a number any more, or far above that of a uniform guess."""


class Recorder:
    """Of one run. `writes`: whether this process is the one that records; another one of the same
    run only looks whether it diverges.
    """

    def __init__(self, run: Run, writes: bool = True) -> None:
        self._run = run
        self._file = (run.path / "metrics.jsonl").open("a", encoding="utf-8") if writes else None
        self._recent: deque[float] = deque(maxlen=_WATCHED)
        self._first_loss: float | None = None

    def steps(self, lines: Sequence[StepLine]) -> None:
        """Write steps. Raises Diverged, with nothing written."""
        for line in lines:
            self._check(line)
        self._write(lines)

    def validation(self, line: ValidationLine) -> None:
        """Write a validation. Raises Diverged, with nothing written, where its loss is not a
        number: the step before it ruined the weights.
        """
        loss = line.validation.loss
        if not math.isfinite(loss):
            raise Diverged(f"validation loss {loss} at {self._at(line)}")
        self._write([line])

    def _write(self, lines: Sequence[MetricsLine]) -> None:
        if self._file is None:
            return
        try:
            self._file.write("".join(line.to_json() + "\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self._file.name}: could not be written: {error.strerror}") from None

    def _check(self, line: StepLine) -> None:
        if not (math.isfinite(line.loss) and math.isfinite(line.grad_norm)):
            raise Diverged(
                f"loss {line.loss} and gradient norm {line.grad_norm} at {self._at(line)}"
            )
        self._first_loss = self._first_loss or line.loss
        self._recent.append(line.loss)
        limit = _DIVERGED * max(self._first_loss, math.log(self._run.recipe.model.vocab))
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == _WATCHED and mean > limit:
            raise Diverged(
                f"mean loss {mean:.3f} of {_WATCHED} steps is over {limit:.3f} at {self._at(line)}"
            )

    def _at(self, line: MetricsLine) -> str:
        return f"step {self._run.recipe.steps_in(line.tokens)}, token {line.tokens}"
