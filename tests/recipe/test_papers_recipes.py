"""The paper's recipes, reduced to a thousandth and less, train as they are written: on one process
and on two.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import _documents, _text
from rank_jobs import on_ranks, train_and_keep_gradients

from windtunnel.data.build import build
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.recipe import Recipe, load
from windtunnel.train.parallel import ALONE
from windtunnel.train.run import open_run

RECIPES = Path(__file__).parents[2] / "recipes"
CONTEXT, LAST_BATCH, STEPS = 32, 128, 140


def paper(name: str) -> Recipe:
    return load(RECIPES / f"minicpm-{name}.toml")


def reduced(whole: Recipe, vocab: int) -> Recipe:
    """Everything as it is, but 24 wide and 2 deep, and every length by one ratio."""
    ratio = LAST_BATCH * STEPS / whole.total_tokens

    def tokens(length: int) -> int:
        return max(CONTEXT, round(length * ratio / CONTEXT) * CONTEXT)

    def batch(length: int) -> int:
        return LAST_BATCH * length // whole.batches[-1]

    schedule = whole.schedule
    lengths = {name: getattr(schedule, name) for name in ("warmup", "decay", "half_life")}
    told = {name: tokens(length.of(schedule.tokens)) for name, length in lengths.items()}
    growth = [{"at": tokens(one.at), "batch": batch(one.batch)} for one in whole.train.growth]
    stages = [{"at": tokens(one.at), "mixture": one.mixture} for one in whole.data.stages]
    grouped = whole.model.heads // whole.model.kv_heads
    return whole.change(
        model={"width": 24, "depth": 2, "ffn": 60, "vocab": vocab, "base_width": 4}
        | {"heads": 6, "kv_heads": 6 // grouped, "head_size": 4},
        data={"context": CONTEXT, "stages": stages},
        schedule={"tokens": LAST_BATCH * STEPS, **told},
        train={"batch": batch(whole.train.batch), "growth": growth, "precision": "fp32"}
        | {"compile": False, "device": "cpu", "evaluate_tokens": 1024},
    )


@pytest.fixture(scope="module")
def minicpm(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Sources of the paper's names, some text in each."""
    names = sorted({*paper("2.4b").data.mixture, *paper("2.4b").data.stages[0].mixture})
    sources = {
        name: _documents([_text(1000 * index + i, 60) for i in range(40)])
        for index, name in enumerate(names)
    }
    return build(tmp_path_factory.mktemp("corpus") / "minicpm", sources, vocab=320)


@pytest.mark.parametrize("name", ["1.2b", "2.4b"])
def test_they_say_what_the_paper_says(name: str) -> None:
    recipe = paper(name)
    assert recipe.schedule.half_life.of(recipe.schedule.tokens) == 5000 * 3_932_160
    begins = recipe.total_tokens - recipe.decay_tokens
    assert [stage.at for stage in recipe.data.stages] == [begins]
    assert begins == pytest.approx(1e12, rel=1e-5)
    assert recipe.batch_at(begins) == 3_932_160
    assert recipe.batches == ((1_966_080, 3_932_160) if name == "1.2b" else (3_932_160,))
    for mixture in (recipe.data.mixture, recipe.data.stages[0].mixture):
        assert sum(mixture.values()) == pytest.approx(100)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1.2b", "2.4b"])
def test_a_reduced_run_of_each_trains_on_one_process_and_on_two(
    name: str, tmp_path: Path, minicpm: Corpus, steps_of: Callable[[Path], list[Any]]
) -> None:
    recipe = reduced(paper(name), minicpm.manifest.vocab)
    recipe = recipe.change(train={"micro_batch": min(recipe.batches) // 2})
    train_and_keep_gradients(ALONE, tmp_path / "1", recipe, minicpm.folder, [1])
    given = (tmp_path / "2", recipe, minicpm.folder, [1])
    assert on_ranks(2, train_and_keep_gradients, *given) == [0, 0]
    one, two = (open_run(next((tmp_path / world / "runs").iterdir())) for world in "12")
    losses = [[line.loss for line in run.steps()] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert [run.status().status for run in (one, two)] == ["done", "done"]

    # the batch grows, the rate ends at the floor, and the decay reads its own mixture
    ends = [0, *(line.tokens for line in one.steps())]
    batches = [after - before for before, after in pairwise(ends)]
    assert set(batches) == set(recipe.batches) and batches == sorted(batches)
    assert one.steps()[-1].lr == pytest.approx(0.1 * recipe.optimizer.lr)
    order = Windows(minicpm, recipe.data, recipe.seed).order
    begins = recipe.data.stages[0].at // CONTEXT
    before = {order.sources[index] for index in order.at(0, begins)[0]}
    assert before == set(recipe.data.mixture)
    after = {order.sources[index] for index in order.at(begins, 4000)[0]}
    assert after == set(recipe.data.stages[0].mixture)
