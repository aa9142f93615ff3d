"""Text of which nothing is held out, or no whole window, or which is less than a window: said
before training, never found at the first evaluation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.train.loop import Watch, train, train_together
from windtunnel.train.run import check_validated, create
from windtunnel.tunnel.fleet.tasks import Tasks

Make = Callable[..., Recipe]
STEPS = {"tokens": 1280, "warmup": 128}


def documents(texts: list[str]) -> Documents:
    return Documents(read=lambda: iter(texts), origin="a test", identity=repr(texts))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A long source, one too short to hold any of it out, and one shorter than a window."""
    long = [f"lamp {i} stands by the river and its light is {i * i}." for i in range(400)]
    short = ["stone " * 40, "bridge " * 40, "ferry " * 40]
    sources = {"long": documents(long), "short": documents(short), "note": documents(["No."])}
    return build(tmp_path_factory.mktemp("mixed") / "tiny", sources, vocab=270)


@pytest.fixture(scope="module")
def none_held(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    texts = [f"lamp {i} stands by the river and its light is {i * i}." for i in range(200)]
    folder = tmp_path_factory.mktemp("none") / "tiny"
    return build(folder, {"s": documents(texts)}, vocab=270, validation=0)


def small(recipe: Make, **sections: Any) -> Recipe:
    return recipe(model={"vocab": 270}, schedule=STEPS, **sections)


def test_a_run_without_held_out_text_is_trained_and_says_so(
    none_held: Corpus, recipe: Make, tmp_path: Path
) -> None:
    said: list[str] = []
    run = create(tmp_path, small(recipe), none_held)
    done = train(run, none_held, Watch(say=said.append))
    assert (done.status, done.tokens, done.loss) == ("done", 1280, None)
    assert run.validations() == [] and len(run.steps()) == 10
    assert any("'s' holds out no whole window of 32 tokens" in line for line in said)


def test_what_is_too_short_to_hold_out_is_left_out_of_validation(
    mixed: Corpus, recipe: Make, tmp_path: Path
) -> None:
    assert mixed.sources["short"].validation.tokens == 0
    said: list[str] = []
    both = small(recipe, data={"mixture": {"long": 1.0, "short": 1.0}})
    run = create(tmp_path, both, mixed)
    assert train(run, mixed, Watch(say=said.append)).status == "done"
    (*_, last) = run.validations()
    assert list(last.validation.sources) == ["long"]
    assert last.validation.loss == pytest.approx(last.validation.sources["long"].loss)
    assert sum("left out of validation" in line for line in said) == 1


def test_members_may_be_validated_or_not(mixed: Corpus, recipe: Make, tmp_path: Path) -> None:
    runs = []
    for source in ("long", "short"):
        mixture = small(recipe, data={"mixture": {source: 1.0}})
        runs.append(create(tmp_path, mixture, mixed))
    long, short = train_together(runs, mixed, [Watch(), Watch()])
    assert (long.status, short.status) == ("done", "done")
    assert long.loss is not None and short.loss is None


def test_a_study_is_refused_before_it_trains_anything(
    none_held: Corpus, mixed: Corpus, recipe: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds out a whole window of 32 tokens, and a study"):
        Tasks(tmp_path, none_held).add(small(recipe))
    assert not list(tmp_path.iterdir())
    tasks = Tasks(tmp_path, mixed)
    tasks.add(small(recipe, data={"mixture": {"long": 1.0, "short": 1.0}}))
    assert len(tasks.unvalidated) == 1 and "'short'" in tasks.unvalidated[0]
    check_validated(small(recipe, data={"mixture": {"long": 1.0}}), mixed)


def test_a_source_without_a_window_is_refused_in_a_mixture_and_else_not_read(
    mixed: Corpus, recipe: Make, tmp_path: Path
) -> None:
    for context in (32, 512):
        drawn = recipe(
            model={"vocab": 270},
            data={"mixture": {"long": 1.0, "note": 1.0}, "context": context},
            train={"batch": context},
        )
        with pytest.raises(InputError, match="draws on 'note', which holds less than one window"):
            create(tmp_path, drawn, mixed)
    assert train(create(tmp_path, small(recipe), mixed), mixed).status == "done"
