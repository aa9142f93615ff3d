"""The decay-stage study upon steps that are known: what it asks of a run, which runs are too short
for it, and what it says.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import count, flops_per_token
from windtunnel.quantities import Length
from windtunnel.results.dynamics import DYNAMICS, StepRecord
from windtunnel.results.run import StepLine
from windtunnel.results.study import read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.dynamics import dynamics as study
from windtunnel.tunnel.dynamics.design import Design
from windtunnel.tunnel.dynamics.dynamics import _refuse, dynamics, recipe_of
from windtunnel.tunnel.dynamics.recorder import Recorder
from windtunnel.tunnel.fleet.fleet import Interrupted


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


SHORT = Design(width=16, depth=1, tokens=124 * STEP, decay=Length(tokens=61 * STEP), batch=STEP)


def record(tokens: int) -> StepRecord:
    """Steps whose gradient norm falls to a half in the decay."""
    numbers: dict[str, Any] = dict.fromkeys(StepRecord.model_fields, 1.0)
    norm = 1.0 if tokens <= 63 * STEP else 0.5
    cosine = 1.0 if tokens > 63 * STEP else -1.0
    return StepRecord.model_validate(
        numbers | {"tokens": tokens, "grad_norm": norm, "cosine": cosine, "max_changes": {}}
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the run end with this status, every step recorded."""

    def set_up(status: str) -> None:
        def train(run: Run, corpus: Corpus, watch: Watch) -> Any:
            lines = []
            for step in range(1, 125):
                lr = 0.01 if step <= 63 else 0.01 * 0.1 ** ((step - 63) / 61)
                line = StepLine(
                    tokens=step * STEP,
                    loss=4 - step / 1000,
                    lr=lr,
                    grad_norm=1.0,
                    tokens_per_s=1000,
                    peak_share=0.5,
                )
                lines.append(line.to_json() + "\n")
            (run.path / "metrics.jsonl").write_text("".join(lines))
            return SimpleNamespace(status=status, reason="loss is nan")

        class Known(Recorder):
            def records(self, until: int) -> list[StepRecord]:
                return [record(tokens) for tokens in range(STEP, until, STEP)]

        monkeypatch.setattr(study, "train", train)
        monkeypatch.setattr(study, "Recorder", Known)

    return set_up


def test_every_step_but_the_last_has_a_row(
    lab: Any, corpus: Corpus, trained: Callable[..., None]
) -> None:
    trained("done")
    recipe = recipe_of(corpus, SHORT)
    dynamics(lab.path, corpus, recipe, Watch())
    result, rows = read_study(lab.path, DYNAMICS), read_table(lab.path, DYNAMICS)
    assert [row.tokens for row in rows] == list(range(STEP, 124 * STEP, STEP))
    each = flops_per_token(recipe.model, recipe.data.context)
    counts = count(recipe.model)
    for row in rows:
        step = row.tokens // STEP
        assert (row.flops, row.loss) == (each * row.tokens, pytest.approx(4 - step / 1000))
        assert row.lr == pytest.approx(0.01 if step <= 63 else 0.01 * 0.1 ** ((step - 63) / 61))
        assert (row.params, row.params_total) == (counts.params, counts.params_total)
        assert (row.source, row.kind, row.seed) == ("train", "step", 0)
    numbers = result.numbers
    assert (numbers.decay_begins, numbers.warmup, numbers.block) == (
        63 * STEP,
        recipe.warmup_tokens,
        10,
    )
    claims = {claim.name: claim for claim in numbers.claims}
    assert claims["gradient norm"].effect == (0.5, 0.5, 0.5) and claims["gradient norm"].shown
    assert claims["cosine > 0"].decay[0] == 1.0 and claims["cosine > 0"].stable[0] == 0.0
    assert result.verdict is None and len(result.runs) == 1


def test_a_run_that_stops_or_fails_gives_no_study(
    lab: Any, corpus: Corpus, trained: Callable[..., None]
) -> None:
    recipe = recipe_of(corpus, SHORT)
    trained("interrupted")
    with pytest.raises(Interrupted):
        dynamics(lab.path, corpus, recipe, Watch())
    trained("failed")
    with pytest.raises(InputError, match="the run failed: loss is nan"):
        dynamics(lab.path, corpus, recipe, Watch())
    (wanted,) = (lab.path / "studies").rglob("*.*")
    assert wanted.name == "runs.json"
