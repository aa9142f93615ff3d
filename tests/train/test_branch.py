"""A branch leaves its parent's stable phase at a whole step and has a decay and a mixture of its
own.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.branch import branch
from windtunnel.train.run import Run, create, keep_branch_start, list_runs

Make = Callable[..., Recipe]
BATCH = 128


@pytest.fixture
def parent(tmp_path: Path, stem: Make, corpus: Corpus) -> Run:
    """A stem of 40 steps with checkpoints at 10, 20 and 30; warm-up over 4 steps."""
    run = create(tmp_path, stem(40 * BATCH), corpus)
    run.write_status("done", 40 * BATCH)
    for step in (10, 20, 30):
        checkpoint.save(run.checkpoints, checkpoint.Checkpoint(step * BATCH, step, {}, {}))
    return run


def test_a_branch_is_its_parents_recipe_with_a_decay(parent: Run, corpus: Corpus) -> None:
    made = branch(parent, corpus, 25 * BATCH, 5 * BATCH, "1-sqrt", 0.1, {"notes": 1})
    assert (made.kind, made.parent, made.at_tokens) == ("branch", parent.id, 25 * BATCH)
    assert (made.recipe.total_tokens, made.recipe.decay_tokens) == (30 * BATCH, 5 * BATCH)
    assert (made.recipe.schedule.decay_shape, made.recipe.schedule.floor) == ("1-sqrt", 0.1)
    (stage,) = made.recipe.data.stages
    assert (stage.at, stage.mixture) == (25 * BATCH, {"notes": 1})
    same = {"seed", "model", "optimizer"}
    assert made.recipe.model_dump(include=same) == parent.recipe.model_dump(include=same)
    checkpoint.prune(parent.checkpoints, 1)
    assert checkpoint.positions(parent.checkpoints) == [20 * BATCH, 30 * BATCH], (
        "where it begins is kept"
    )


def test_a_branch_begins_and_decays_over_whole_steps(parent: Run, corpus: Corpus) -> None:
    made = branch(parent, corpus, 25 * BATCH + 5, 5 * BATCH + 127)
    assert made == branch(parent, corpus, 25 * BATCH, 5 * BATCH)
    assert branch(parent, corpus, 25 * BATCH, 1).recipe.decay_tokens == BATCH


def test_a_branch_from_before_the_oldest_checkpoint_begins_at_the_beginning(
    parent: Run, corpus: Corpus
) -> None:
    made = branch(parent, corpus, 9 * BATCH, 5 * BATCH)
    assert made.at_tokens == 9 * BATCH
    assert keep_branch_start(parent, 9 * BATCH) == 0


def test_a_checkpoint_can_be_left_before_its_run_says_so(parent: Run, corpus: Corpus) -> None:
    parent.write_status("running", 0)
    assert branch(parent, corpus, 30 * BATCH, 5 * BATCH, "linear", 0.0, {}).at_tokens == 30 * BATCH
    with pytest.raises(InputError, match=r"trained to 3\.84k tokens only"):
        branch(parent, corpus, 31 * BATCH, 5 * BATCH, "linear", 0.0, {})


@pytest.mark.parametrize("step", [3, 41])
def test_a_branch_outside_the_stable_phase_is_refused(
    parent: Run, corpus: Corpus, step: int
) -> None:
    with pytest.raises(InputError, match="--at"):
        branch(parent, corpus, step * BATCH, 5 * BATCH)
    assert list_runs(parent.lab) == [parent]
