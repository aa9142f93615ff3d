"""What the decay-stage study asks of a run, and which runs are too short for it."""

from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.quantities import Length
from windtunnel.train.loop import Watch
from windtunnel.tunnel.dynamics.design import Design
from windtunnel.tunnel.dynamics.dynamics import _refuse, dynamics, recipe_of


def test_the_run_is_the_tunnels_in_full_precision(corpus: Corpus) -> None:
    design = Design(
        width=32,
        depth=2,
        tokens=204_800,
        decay=Length(share=0.4),
        shape="linear",
        floor=0.2,
        batch=1024,
        seed=7,
    )
    recipe = recipe_of(corpus, design)
    assert (recipe.model.width, recipe.model.depth, recipe.seed) == (32, 2, 7)
    assert (recipe.total_tokens, recipe.decay_tokens) == (204_800, 81_920)
    assert (recipe.schedule.decay_shape, recipe.schedule.floor) == ("linear", 0.2)
    assert recipe.train.precision == "fp32" and recipe.train.batch == 1024
    assert recipe.train.checkpoint_every == Length(share=0.1)


def test_a_usual_run_is_long_enough_and_a_quarter_of_it_decays(corpus: Corpus) -> None:
    design = Design()
    recipe = recipe_of(corpus, design)
    _refuse(recipe)
    assert (design.width, design.depth, design.batch, design.seed) == (64, 3, 2048, 0)
    assert design.tokens == 1_500_000 and design.decay == Length(share=0.25)
    assert (design.shape, design.floor) == ("exponential", 0.1)


STEP = 1024


@pytest.mark.parametrize(
    ("steps", "decay", "fits"),
    [
        # the warm-up takes one
        (121, 60, True),
        (120, 60, False),
        (121, 59, False),
        (121, 61, False),
    ],
)
def test_stable_phase_and_decay_need_sixty_steps_each(
    corpus: Corpus, lab: Any, steps: int, decay: int, fits: bool
) -> None:
    length = Length(tokens=decay * STEP)
    design = Design(width=16, depth=1, tokens=steps * STEP, decay=length, batch=STEP)
    recipe = recipe_of(corpus, design).change(schedule={"warmup": STEP})
    if fits:
        _refuse(recipe)
    else:
        with pytest.raises(InputError, match="expected at least 60 steps each of stable phase"):
            dynamics(lab.path, corpus, recipe, Watch())
        assert not (lab.path / "runs").exists()
