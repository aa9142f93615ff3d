"""One run on several processes: the gradients of one process, checkpoints that any number of them
reads, no whole model anywhere, and an end by one clear line where one of them is killed.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chats import write_chats
from rank_jobs import made, on_ranks, train_and_keep_gradients
from safetensors.torch import load_file

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.sft import Asked, sft
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import load_model, train
from windtunnel.train.member import Watch
from windtunnel.train.parallel import ALONE, Ranks, check_shares, local
from windtunnel.train.run import Run, create, open_run
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
BATCH = 128
STEPS = [1, 10, 50]
CLOSE = 1e-5
# At 0.01 what rounds differently has grown by step 50: one process that takes a batch in other
# parts is then 6e-5 away from itself, as several processes are.
SLOW = 0.002

KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"model": {"tied": False}},
    "grouped heads": {"model": {"kv_heads": 1}},
    "masked documents": {"data": {"mask_documents": True}},
    "accumulated": {"data": {"context": 16}, "train": {"micro_batch": 16}},
    "experts": {"model": {"experts": 4, "tied": False}},
    "more ranks than experts": {"model": {"experts": 3}},
    "muon": {"optimizer": {"kind": "muon"}},
    "growth": {
        "train": {"growth": [{"at": 10 * BATCH, "batch": 2 * BATCH}]},
        "schedule": {"tokens": 100 * BATCH},
    },
}


def only(lab: Path) -> Run:
    (folder,) = (lab / "runs").iterdir()
    return open_run(folder)


def in_equal_parts(recipe: Recipe, world: int) -> Recipe:
    """As ranks do it: the sums of one process then differ by their order alone. In one large part
    the products themselves round otherwise, which Adam carries on from step to step.
    """
    share = min(recipe.batches) // world
    return recipe.change(train={"micro_batch": min(recipe.train.micro_batch or share, share)})


def apart(one: Run, other: Run, step: int) -> dict[str, float]:
    """By tensor, how far its gradient in one run is from that in the other, over its norm."""
    mine, theirs = (load_file(run.path / f"gradient-{step}.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys()
    return {
        name: ((mine[name] - whole).norm() / whole.norm()).item() for name, whole in theirs.items()
    }


def check_alike(one: Run, other: Run, steps: list[int]) -> None:
    for step in steps:
        worst = max(apart(one, other, step).items(), key=lambda found: found[1])
        assert worst[1] < CLOSE, (step, worst)
    losses = [[line.loss for line in run.steps()] for run in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=CLOSE)
    for mine, theirs in zip(one.validations(), other.validations(), strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.validation.loss == pytest.approx(theirs.validation.loss, rel=CLOSE)


def test_two_processes_learn_what_one_does_and_one_goes_on_from_what_they_wrote(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    short = recipe(schedule={"tokens": 10 * BATCH, "warmup": 0})
    alone = in_equal_parts(short, 2)
    train_and_keep_gradients(ALONE, tmp_path / "one", alone, corpus.folder, [1, 10])
    codes = on_ranks(2, train_and_keep_gradients, tmp_path / "two", short, corpus.folder, [1, 10])
    assert codes == [0, 0]
    one, two = only(tmp_path / "one"), only(tmp_path / "two")
    check_alike(two, one, [1, 10])
    engine = two.begun_on()
    assert engine and engine.worlds == (2,)

    # one process reads what two wrote, and goes on
    weights = load_model(two).state_dict()
    for name, value in load_model(one).state_dict().items():
        assert torch.allclose(weights[name], value, atol=1e-6), name
    checkpoint.remove(two.checkpoints, 10 * BATCH)
    two.write_status("interrupted", 9 * BATCH)
    assert train(two, corpus).status == "done"
    check_alike(two, one, [1, 10])
    engine = two.begun_on()
    assert engine and engine.worlds == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_is_that_of_one_process(
    kind: str, world: int, tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    asked = recipe(**KINDS[kind]).change(optimizer={"lr": SLOW})
    one, many = tmp_path / "one", tmp_path / "many"
    train_and_keep_gradients(ALONE, one, in_equal_parts(asked, world), corpus.folder, STEPS)
    codes = on_ranks(world, train_and_keep_gradients, many, asked, corpus.folder, STEPS)
    assert codes == [0] * world
    check_alike(only(many), only(one), STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_what_is_learnt_is_counted_over_all(
    world: int, tmp_path: Path, recipe: Make, make_lab: Any, corpus: Corpus
) -> None:
    """Of conversations every rank has another number of targets to learn."""
    lab = make_lab()
    parent = create(lab.path, recipe(schedule={"tokens": 5 * BATCH, "decay": 0}), corpus)
    train(parent, corpus)
    data = write_chats(tmp_path / "chats.jsonl")
    run, chats = sft(parent, [data], Asked(tokens=50 * BATCH, batch=BATCH))
    asked = run.recipe
    engine = choose_engine(asked).model_copy(update={"micro_batch": BATCH // world})
    runs = []
    for name in ("one", "many"):
        shutil.copytree(lab.path, tmp_path / name)
        runs.append(open_run(tmp_path / name / "runs" / run.id))
    runs[0].keep_engine(engine)
    given = (runs[0].lab, asked, chats.folder, STEPS, runs[0].path)
    train_and_keep_gradients(ALONE, *given)
    given = (runs[1].lab, asked, chats.folder, STEPS, runs[1].path)
    assert on_ranks(world, train_and_keep_gradients, *given) == [0] * world
    check_alike(runs[1], runs[0], STEPS)


@pytest.mark.slow
def test_two_machines_hold_the_model_twice_and_learn_the_same(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    asked = recipe(train={"micro_batch": 32, "batch": 2 * BATCH}, schedule={"tokens": 100 * BATCH})
    asked = asked.change(optimizer={"lr": SLOW})
    one, many = tmp_path / "one", tmp_path / "many"
    train_and_keep_gradients(ALONE, one, asked, corpus.folder, STEPS)
    codes = on_ranks(4, train_and_keep_gradients, many, asked, corpus.folder, STEPS, machine=2)
    assert codes == [0] * 4
    check_alike(only(many), only(one), STEPS)


def train_to_the_end(ranks: Ranks, path: Path, corpus: Path) -> None:
    train(open_run(path), Corpus.open(corpus), ranks=ranks)


def stop_at(ranks: Ranks, lab: Path, recipe: Recipe, corpus: Path, tokens: int) -> None:
    """One rank asks, and all stop."""
    there = Corpus.open(corpus)
    seen: list[int] = []
    watch = Watch(
        gradient=lambda step, position: seen.append(position),
        stop=lambda: ranks.rank == 1 and seen[-1] + recipe.train.batch >= tokens,
    )
    train(made(ranks, lab, recipe, there), there, watch, ranks)


@pytest.mark.slow
def test_what_four_wrote_any_number_goes_on_from(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """To the same bits where it is four again; and one process reads the end of it as it reads
    its own.
    """
    asked, half = recipe(train={"micro_batch": 32, "batch": 384}, schedule={"tokens": 9600}), 12
    four = tmp_path / "four"
    assert on_ranks(4, stop_at, four, asked, corpus.folder, half * BATCH) == [0] * 4
    stopped = only(four)
    assert stopped.status().status == "interrupted"
    assert stopped.status().tokens == half * BATCH
    ends: dict[str, Run] = {}
    for name, world in (("1", 1), ("2", 2), ("3", 3), ("4", 4), ("4 again", 4)):
        shutil.copytree(four, tmp_path / name)
        run = only(tmp_path / name)
        if world == 1:
            train(run, corpus)
        else:
            codes = on_ranks(world, train_to_the_end, run.path, corpus.folder)
            assert codes == [0] * world
        ends[name] = run
    again, losses = ends["4 again"], [line.loss for line in ends["4"].steps()]
    assert [line.loss for line in again.steps()] == losses
    last = asked.total_tokens
    state = checkpoint.load(ends["4"].checkpoints, last)
    for name, run in ends.items():
        engine = run.begun_on()
        assert engine and engine.worlds == ((4,) if "4" in name else (4, int(name)))
        assert [line.loss for line in run.steps()] == pytest.approx(losses, rel=CLOSE)
        theirs = checkpoint.load(run.checkpoints, last)
        for key, value in (state.weights | state.moments).items():
            other = (theirs.weights | theirs.moments)[key]
            if "4" in name:
                assert torch.equal(other, value), key
            else:
                assert torch.allclose(other, value, rtol=1e-3, atol=1e-5), key


def say_what_is_held(ranks: Ranks, recipe: Recipe, folder: Path) -> None:
    engine = choose_engine(recipe, world=ranks.world)
    step = Step([recipe], engine, ranks=ranks)
    mine = sum(local(tensor).numel() for tensor in step.optimizer.parameters.values())
    mine += sum(local(tensor).numel() for tensor in step.optimizer.state().values())
    (folder / f"held-{ranks.rank}").write_text(str(mine))
    whole = sum(tensor.numel() for tensor in step.optimizer.parameters.values())
    (folder / f"whole-{ranks.rank}").write_text(str(whole))


@pytest.mark.slow
def test_no_rank_holds_the_whole_model(tmp_path: Path, recipe: Make) -> None:
    asked = recipe(model={"width": 64, "depth": 4})
    assert on_ranks(4, say_what_is_held, asked, tmp_path) == [0] * 4
    whole = count(asked.model).params_total
    assert [int((tmp_path / f"whole-{rank}").read_text()) for rank in range(4)] == [whole] * 4
    held = [int((tmp_path / f"held-{rank}").read_text()) for rank in range(4)]
    # gains are held whole
    assert max(held) < 3 * whole / 4 * 1.03


def test_a_batch_that_has_no_equal_shares_is_refused(recipe: Make) -> None:
    check_shares(recipe(), 4)
    with pytest.raises(InputError, match="3 processes can't share a batch of 4 windows"):
        check_shares(recipe(), 3)
