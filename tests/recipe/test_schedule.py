"""Schedules are a table of records: how the rate goes once the warm-up is over."""

from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import SCHEDULES, Recipe, ScheduleKind, dump, load
from windtunnel.recipe.__main__ import page
from windtunnel.train.branch import branch
from windtunnel.train.loop import train
from windtunnel.train.run import create

Make = Callable[..., Recipe]
BATCH = 128


def test_an_unknown_schedule_is_refused_with_the_known_ones(recipe: Make) -> None:
    known = r"schedule\.kind: 'cosin': expected one of wsd, cosine; did you mean 'cosine'"
    with pytest.raises(InputError, match=known):
        recipe(schedule={"kind": "cosin"})


def test_every_schedule_says_what_it_is() -> None:
    for name, kind in SCHEDULES.items():
        assert kind.name == name and kind.help and not kind.help.endswith(".")


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_rate_is_at_its_peak_where_the_warm_up_ends(recipe: Make, kind: str) -> None:
    asked = recipe(schedule={"kind": kind, "warmup": 0})
    assert SCHEDULES[kind].share(asked, 0) == 1.0


def test_a_cosine_has_no_stable_phase(recipe: Make) -> None:
    """Whatever decay it is told, it has none; so it is no stem either."""
    for decay in (0, "10%"):
        asked = recipe(schedule={"kind": "cosine", "decay": decay})
        assert asked.decay_tokens == 0 and not asked.is_stem
    assert recipe(schedule={"decay": 0}).is_stem


@pytest.fixture(params=[False, True], ids=["no stable phase", "a stable phase"])
def added(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ScheduleKind:
    """One schedule more: as the inverse root of the position, as Transformers first had it."""
    kind = ScheduleKind(
        name="inverse-sqrt",
        help="for this test",
        stable=request.param,
        share=lambda recipe, position: (recipe.warmup_tokens / position) ** 0.5,
    )
    monkeypatch.setitem(SCHEDULES, kind.name, kind)
    return kind


def test_an_added_schedule_trains(
    added: ScheduleKind, recipe: Make, corpus: Corpus, tmp_path: Path
) -> None:
    """One record is enough: recipes take it, runs are trained by it, and branches leave from it if
    it has a stable phase.
    """
    asked = recipe(
        schedule={"tokens": 8 * BATCH, "warmup": 2 * BATCH, "decay": 0, "kind": added.name}
    )
    (tmp_path / "recipe.toml").write_text(dump(asked))
    assert load(tmp_path / "recipe.toml") == asked
    assert f"| `{added.name}` | for this test |" in page()

    run = create(tmp_path / "lab", asked, corpus)
    train(run, corpus)
    shares = [step.lr / asked.optimizer.lr for step in run.steps()]
    after = [(2 / (step + 0.5)) ** 0.5 for step in range(2, 8)]
    assert shares == pytest.approx([0.25, 0.75, *after])

    assert run.kind == ("stem" if added.stable else "run")
    if added.stable:
        assert branch(run, corpus, 4 * BATCH, 2 * BATCH).recipe.decay_tokens == 2 * BATCH
    else:
        with pytest.raises(InputError, match=r"must leave .* in its stable phase"):
            branch(run, corpus, 4 * BATCH, 2 * BATCH)
