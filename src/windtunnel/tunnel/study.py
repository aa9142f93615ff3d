"""What a study reads off its runs: the rows of its table, their losses, and what they cost."""

import statistics
from collections.abc import Iterable
from typing import Any

from windtunnel.errors import InputError
from windtunnel.model.shape import count, flops_per_token
from windtunnel.results.run import Score, Validation
from windtunnel.results.study import R
from windtunnel.train.run import Run

_FEWEST_LAST = 10  # steps


def rows_at_end(row: type[R], run: Run, kind: str, **columns: Any) -> list[R]:
    """The rows of a run's last validation, one a source and one for `all`; of a run that failed the
    one row of where it stopped, without a loss.
    """
    validation = final(run)
    if validation is None:
        tokens = run.status().tokens
        scores: dict[str, Score | None] = {"all": None}
    else:
        tokens = run.recipe.total_tokens
        scores = {"all": validation, **validation.sources}
    counts = count(run.recipe.model)
    return [
        row(
            run=run.id,
            params=counts.params,
            params_total=counts.params_total,
            tokens=tokens,
            flops=flops_per_token(run.recipe.model, run.recipe.data.context) * tokens,
            loss=score and score.loss,
            bits_per_byte=score and score.bits_per_byte,
            source=source,
            seed=run.recipe.seed,
            kind=kind,
            **columns,
        )
        for source, score in scores.items()
    ]


def final(run: Run) -> Validation | None:
    """The validation at a run's last token; None for one that failed."""
    if run.status().status == "failed":
        return None
    return validation_at(run, run.recipe.total_tokens)


def final_loss(run: Run) -> float | None:
    """The held-out loss at a run's last token, nats/token; None for one that failed, which is how a
    failed run's loss reads everywhere.
    """
    validation = final(run)
    return None if validation is None else validation.loss


def validation_at(run: Run, tokens: int) -> Validation:
    """What the run scored on held-out text at a position. Raises InputError when it was not
    evaluated there.
    """
    for line in run.validations():
        if line.tokens == tokens:
            return line.validation
    raise InputError(f"{run.path}: was not evaluated at {tokens} tokens")


def held_out_excess(runs: Iterable[Run]) -> float | None:
    """By how much, relative to it, the held-out loss lies above the loss of the last steps of
    training: the median of runs that came to their end. None where none did.
    """
    found = []
    for run in runs:
        held_out = final_loss(run)
        steps = [step.loss for step in run.steps()]
        # as many as make the noise of their batches small, over which the loss hardly falls
        last = steps[-max(_FEWEST_LAST, len(steps) // 20) :]
        if held_out is not None and last:
            found.append(held_out / statistics.fmean(last) - 1)
    return statistics.median(found) if found else None


def training_seconds(run: Run) -> float:
    """Seconds of training, each step counted as the median step of the run's own metrics, so that
    neither compiling nor what else the machine did for a while is in it; 0 where there is none.
    """
    steps = run.steps()
    # Of a process that was stopped for long, earlier releases recorded a speed of 0.
    each = [run.recipe.train.batch / step.tokens_per_s for step in steps if step.tokens_per_s > 0]
    return len(steps) * statistics.median(each) if each else 0.0


def core_minutes(runs: Iterable[Run]) -> float:
    """Minutes of training steps of all these runs, to a tenth."""
    return round(sum(map(training_seconds, runs)) / 60, 1)


def ids(runs: Iterable[Run]) -> list[str]:
    """The runs' ids, in their order."""
    return [run.id for run in runs]
