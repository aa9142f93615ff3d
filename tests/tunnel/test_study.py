"""What a study reads off its runs, of those that came to their end and of those that failed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.run import Score, StepLine, Validation, ValidationLine
from windtunnel.results.study import Row
from windtunnel.train.recorder import Recorder
from windtunnel.train.run import Run, create
from windtunnel.tunnel.study import (
    core_minutes,
    final,
    final_loss,
    held_out_excess,
    ids,
    rows_at_end,
    training_seconds,
    validation_at,
)

Make = Callable[..., Recipe]
TOKENS, BATCH = 6400, 128  # of the tiny recipe
SOURCES = {"prose": 3.0, "code": 5.0}


class SizedRow(Row):
    """A row with a column of its own."""

    width: int


def validated(tokens: int, loss: float) -> ValidationLine:
    sources = {
        name: Score(loss=at, bits_per_byte=at / 2, tokens=10) for name, at in SOURCES.items()
    }
    whole = Validation(loss=loss, bits_per_byte=loss / 2, tokens=20, sources=sources)
    return ValidationLine(tokens=tokens, validation=whole)


def step(tokens: int, tokens_per_s: int) -> StepLine:
    return StepLine(
        tokens=tokens, loss=4.0, lr=0.01, grad_norm=1.0, tokens_per_s=tokens_per_s, peak_share=0.1
    )


@pytest.fixture
def begun(tmp_path: Path, recipe: Make, corpus: Corpus) -> tuple[Run, Recorder]:
    """A run that was evaluated half-way."""
    run = create(tmp_path, recipe(seed=3), corpus)
    recorder = Recorder(run)
    recorder.validation(validated(3200, 4.5))
    return run, recorder


@pytest.fixture
def finished(begun: tuple[Run, Recorder]) -> Run:
    run, recorder = begun
    recorder.validation(validated(TOKENS, 4.25))
    run.write_status("done", TOKENS)
    return run


@pytest.fixture
def failed(begun: tuple[Run, Recorder]) -> Run:
    """It was evaluated, and diverged after that."""
    run, _ = begun
    run.write_status("failed", 3328, reason="the loss is not a number")
    return run


def test_a_finished_run_has_a_row_a_source_and_one_for_all(finished: Run) -> None:
    rows = rows_at_end(SizedRow, finished, "run", width=32)
    assert {row.source: row.loss for row in rows} == {"all": 4.25} | SOURCES
    assert rows[0].source == "all", "what studies compare stands first"
    counts = count(finished.recipe.model)
    per_token = flops_per_token(finished.recipe.model, finished.recipe.data.context)
    for row in rows:
        assert row.loss is not None and row.bits_per_byte == row.loss / 2
        assert (row.run, row.seed, row.kind, row.width) == (finished.id, 3, "run", 32)
        assert (row.params, row.params_total) == (counts.params, counts.params_total)
        assert (row.tokens, row.flops) == (TOKENS, TOKENS * per_token)


def test_a_failed_run_has_one_row_of_where_it_stopped_without_a_loss(failed: Run) -> None:
    (row,) = rows_at_end(SizedRow, failed, "run", width=32)
    assert (row.source, row.loss, row.bits_per_byte) == ("all", None, None)
    per_token = flops_per_token(failed.recipe.model, failed.recipe.data.context)
    assert (row.tokens, row.flops) == (3328, 3328 * per_token)


def test_a_run_that_diverged_at_its_last_token_has_no_loss(begun: tuple[Run, Recorder]) -> None:
    """Whatever it scored there."""
    run, recorder = begun
    recorder.validation(validated(TOKENS, 9.0))
    run.write_status("failed", TOKENS, reason="the loss is not a number")
    assert final(run) is None and final_loss(run) is None
    assert [row.loss for row in rows_at_end(Row, run, "run")] == [None]


def test_the_final_loss_is_that_of_the_last_token(finished: Run) -> None:
    assert final_loss(finished) == 4.25
    found = final(finished)
    assert found is not None and {k: v.loss for k, v in found.sources.items()} == SOURCES


def test_a_failed_run_has_no_final_loss(failed: Run) -> None:
    assert final(failed) is None and final_loss(failed) is None


def test_held_out_losses_are_held_against_the_last_steps_of_training(
    begun: tuple[Run, Recorder], failed: Run
) -> None:
    assert held_out_excess([failed]) is None and held_out_excess([]) is None
    run, recorder = begun
    recorder.validation(validated(TOKENS, 4.4))
    run.write_status("done", TOKENS)
    assert held_out_excess([run]) is None, "no step was recorded"
    falling = [step(BATCH * i, 100).model_copy(update={"loss": 4.0}) for i in range(26, 51)]
    recorder.steps([one.model_copy(update={"loss": 9.0}) for one in falling[:15]])
    recorder.steps(falling[15:])
    assert held_out_excess([run]) == pytest.approx(0.1)


def test_a_validation_is_found_by_its_position(finished: Run) -> None:
    assert validation_at(finished, 3200).loss == 4.5
    assert validation_at(finished, TOKENS).loss == 4.25


@pytest.mark.parametrize("tokens", [0, 3199, 3328, TOKENS + BATCH])
def test_where_it_was_not_evaluated_is_an_error(finished: Run, tokens: int) -> None:
    with pytest.raises(InputError, match=rf"{finished.id}: was not evaluated at {tokens} tokens"):
        validation_at(finished, tokens)


def test_a_run_that_was_not_evaluated_at_its_end_is_an_error(begun: tuple[Run, Recorder]) -> None:
    run, _ = begun
    run.write_status("done", TOKENS)
    for reading in (final, final_loss, lambda run: rows_at_end(Row, run, "run")):
        with pytest.raises(InputError, match=f"was not evaluated at {TOKENS} tokens"):
            reading(run)


def test_what_training_took_is_that_of_its_steps(begun: tuple[Run, Recorder]) -> None:
    run, recorder = begun
    assert training_seconds(run) == 0 and core_minutes([run]) == 0
    recorder.steps([step(BATCH, 1), step(2 * BATCH, 2)])
    assert training_seconds(run) == BATCH + BATCH / 2
    assert core_minutes([run, run]) == round(2 * 1.5 * BATCH / 60, 1)
    assert ids([run, run]) == [run.id, run.id]


def test_a_stop_is_no_speed_of_training(begun: tuple[Run, Recorder]) -> None:
    """Neither one so long that it was recorded as 0, nor shorter ones."""
    run, recorder = begun
    recorder.steps([step(BATCH, 0)])
    assert training_seconds(run) == 0
    speeds = [64] * 6 + [1, 3, 0]
    recorder.steps([step(BATCH * (2 + i), speed) for i, speed in enumerate(speeds)])
    assert training_seconds(run) == 10 * BATCH / 64
