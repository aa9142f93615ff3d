"""One run on several processes: the gradients of one process, checkpoints that any number of them
reads, no whole model anywhere, and an end by one clear line where one of them is killed.
"""

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chats import write_chats
from memory_peaks import peak_of
from patience import PATIENCE
from preferences import some_pairs, write_lines
from rank_jobs import made, on_ranks, train_and_keep_gradients
from safetensors.torch import load_file

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.dpo import Asked as Preferring
from windtunnel.family.dpo import dpo
from windtunnel.family.sft import Asked, sft
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.cost import cost_of
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import load_model, train
from windtunnel.train.member import Watch
from windtunnel.train.parallel import ALONE, Ranks, check_shares, load
from windtunnel.train.run import Run, create, open_run
from windtunnel.train.saver import Saver
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
@pytest.mark.parametrize("kind", ["tied", "experts", "muon"])
def test_compiled_ranks_learn_what_one_eager_process_does(
    kind: str, tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    asked = recipe(**KINDS[kind]).change(optimizer={"lr": SLOW})
    one, many = tmp_path / "one", tmp_path / "many"
    train_and_keep_gradients(ALONE, one, in_equal_parts(asked, 2), corpus.folder, STEPS)
    compiled = asked.change(train={"compile": True})
    codes = on_ranks(2, train_and_keep_gradients, many, compiled, corpus.folder, STEPS)
    assert codes == [0, 0]
    engine = only(many).begun_on()
    assert engine and engine.compiled
    check_alike(only(many), only(one), STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_ranks_in_bf16_learn_what_one_process_does_in_bf16(
    compiled: bool, tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """And so are as far from fp32 as that one is."""
    asked = recipe().change(optimizer={"lr": SLOW}, train={"compile": compiled})
    halved, parts = asked.change(train={"precision": "bf16"}), in_equal_parts(asked, 2)
    one, many, whole = tmp_path / "one", tmp_path / "many", tmp_path / "whole"
    train_and_keep_gradients(ALONE, whole, parts, corpus.folder, STEPS)
    train_and_keep_gradients(ALONE, one, in_equal_parts(halved, 2), corpus.folder, STEPS)
    codes = on_ranks(2, train_and_keep_gradients, many, halved, corpus.folder, STEPS)
    assert codes == [0, 0]
    engine = only(many).begun_on()
    assert engine and engine.precision == "bf16"
    for step in STEPS:
        from_fp32 = max(apart(only(many), only(whole), step).values())
        from_one = max(apart(only(many), only(one), step).values())
        print(f"step {step}: {from_fp32:.1e} from fp32, {from_one:.1e} from one process")
        assert from_fp32 < 0.03 and from_one < CLOSE


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
    one, many = of_one_and_many(lab.path, run, chats, tmp_path, world)
    check_alike(many, one, STEPS)


def of_one_and_many(
    lab: Path, run: Run, corpus: Corpus, folder: Path, world: int
) -> tuple[Run, Run]:
    """The run as one process trains it, in equal parts, and as so many do."""
    runs = []
    for name in ("one", "many"):
        shutil.copytree(lab, folder / name)
        runs.append(open_run(folder / name / "runs" / run.id))
    one, many = runs
    engine = choose_engine(run.recipe)
    one.keep_engine(engine.model_copy(update={"micro_batch": min(run.recipe.batches) // world}))
    text = Path("corpora") / corpus.folder.name
    given = [(one.lab, run.recipe, one.lab / text, STEPS, one.path) for one in runs]
    train_and_keep_gradients(ALONE, *given[0])
    assert on_ranks(world, train_and_keep_gradients, *given[1]) == [0] * world
    return one, many


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_preferences_are_learnt_by_all(
    loss: str, world: int, tmp_path: Path, recipe: Make, make_lab: Any, corpus: Corpus
) -> None:
    """Also what the reference makes of every answer, and how far the model is from it."""
    lab = make_lab()
    parent = create(lab.path, recipe(schedule={"tokens": 5 * BATCH, "decay": 0}), corpus)
    train(parent, corpus)
    data = write_lines(tmp_path / "pairs.jsonl", some_pairs())
    asked = Preferring(loss=loss, lrs=(SLOW,), tokens=100 * BATCH, batch=2 * BATCH)
    (run,), answers = dpo(parent, [data], asked)
    one, many = of_one_and_many(lab.path, run, answers, tmp_path, world)
    check_alike(many, one, STEPS)
    for mine, theirs in zip(many.validations(), one.validations(), strict=True):
        ours, of_one = mine.validation.preference, theirs.validation.preference
        assert ours and of_one
        for name, value in of_one.model_dump().items():
            assert getattr(ours, name) == pytest.approx(value, rel=1e-3, abs=1e-5), name


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


def stop_at_15(
    ranks: Ranks, lab: Path, recipe: Recipe, corpus: Path, writes: Callable[..., None]
) -> None:
    """Having taken so many steps; `writes`: how what a checkpoint is made of is written, told when
    this rank has taken 14.
    """
    from torch.distributed.checkpoint import state_dict_saver

    there, later = Corpus.open(corpus), threading.Event()
    steps: list[int] = []

    def gradient(step: Step, position: int) -> None:
        steps.append(position)
        if len(steps) == 15:
            later.set()

    write = state_dict_saver.save
    state_dict_saver.save = lambda *given, **named: writes(later, write, *given, **named)
    watch = Watch(gradient=gradient, stop=lambda: len(steps) == 15)
    train(made(ranks, lab, recipe, there), there, watch, ranks)


def at_once(later: threading.Event, write: Callable[..., None], *given: Any, **named: Any) -> None:
    write(*given, **named)


def after_14_steps(
    later: threading.Event, write: Callable[..., None], *given: Any, **named: Any
) -> None:
    assert later.wait(PATIENCE)
    write(*given, **named)


@pytest.mark.slow
def test_ranks_train_on_while_they_write_and_any_number_goes_on_from_it(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    asked = recipe(train={"checkpoint_every": 10 * BATCH, "evaluate_every": 0})
    held, free = tmp_path / "held", tmp_path / "free"
    for lab, writes in ((held, after_14_steps), (free, at_once)):
        codes = on_ranks(2, stop_at_15, lab, asked, corpus.folder, writes)
        assert codes == [0, 0]
        assert checkpoint.positions(only(lab).checkpoints) == [10 * BATCH, 15 * BATCH]
    mine, theirs = (checkpoint.load(only(lab).checkpoints, 10 * BATCH) for lab in (held, free))
    for key, value in (theirs.weights | theirs.moments).items():
        assert torch.equal((mine.weights | mine.moments)[key], value), key

    ends: dict[str, list[float]] = {}
    for name, source, world in (("two", held, 2), ("one", held, 1), ("never held", free, 2)):
        shutil.copytree(source, tmp_path / name)
        run = only(tmp_path / name)
        checkpoint.remove(run.checkpoints, 15 * BATCH)
        if world == 1:
            train(run, corpus)
        else:
            assert on_ranks(2, train_to_the_end, run.path, corpus.folder) == [0, 0]
        assert run.status().status == "done"
        ends[name] = [line.loss for line in run.steps()]
    assert len(ends["two"]) == 50 and ends["two"] == ends["never held"]
    assert ends["one"] == pytest.approx(ends["two"], rel=CLOSE)


def say_what_is_wrong(
    ranks: Ranks, lab: Path, recipe: Recipe, corpus: Path, which: int, call: str
) -> None:
    """Train where the disk of one rank is full when it comes to this call."""

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    if ranks.rank == which:
        setattr(checkpoint, call, full)
    there = Corpus.open(corpus)
    run = made(ranks, lab, recipe, there)
    try:
        train(run, there, ranks=ranks)
    except InputError as error:
        (run.path / f"wrong-{ranks.rank}").write_text(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("which", "call"), [(1, "digest_of"), (0, "digest_of"), (0, "appear")])
def test_where_one_rank_can_not_write_all_say_so(
    which: int, call: str, tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    codes = on_ranks(2, say_what_is_wrong, tmp_path, recipe(), corpus.folder, which, call)
    assert codes == [0, 0]
    run = only(tmp_path)
    said = {(run.path / f"wrong-{rank}").read_text() for rank in (0, 1)}
    (line,) = said
    final = checkpoint.path_of(run.checkpoints, 13 * BATCH)
    assert line.startswith(f"{final}: the checkpoint could not be written: ")
    assert "No space left on device" in line and "\n" not in line
    assert run.status().status == "interrupted" and run.status().tokens == 0
    assert list(run.checkpoints.iterdir()) == []


def say_what_it_takes(ranks: Ranks, recipe: Recipe, folder: Path) -> None:
    """Bytes of this process's memory, at the peak and above what it had before, to begin, to save
    and to read that again.
    """
    engine, begun = choose_engine(recipe, world=ranks.world), list[Step]()
    took = [peak_of(lambda: begun.append(Step([recipe], engine, ranks=ranks)))]
    optimizer = begun[0].optimizer
    weights = {name: tensor.detach() for name, tensor in optimizer.parameters.items()}
    state = Checkpoint(BATCH, 1, weights, optimizer.state())
    if ranks.first:
        (folder / "checkpoints").mkdir()
    ranks.wait()

    def write() -> None:
        with Saver(ranks) as saver:
            saver.begin([(folder / "checkpoints", state)])

    took.append(peak_of(write))
    given = (folder / "checkpoints", BATCH, weights, optimizer.state(), ranks)
    took.append(peak_of(lambda: load(*given)))
    (folder / f"took-{ranks.rank}").write_text(" ".join(map(str, took)))


@pytest.mark.slow
def test_no_rank_holds_the_whole_model(tmp_path: Path, recipe: Make) -> None:
    """Of 38M parameters, measured: four numbers of each (weight, gradient, two moments) are held
    while one trains, and of four ranks each has a quarter.
    """
    asked = recipe(model={"width": 512, "depth": 12, "heads": 8, "tied": False})
    whole = 4 * count(asked.model).params_total  # bytes of fp32
    took: dict[int, list[list[int]]] = {}
    for world in (1, 4):
        folder = tmp_path / str(world)
        folder.mkdir()
        assert on_ranks(world, say_what_it_takes, asked, folder) == [0] * world
        said = [(folder / f"took-{rank}").read_text().split() for rank in range(world)]
        took[world] = [[int(one) for one in of_rank] for of_rank in said]
    print(f"MB to begin, save, load: {[[n // 10**6 for n in r] for w in took.values() for r in w]}")
    begin, saving, loading = (max(of_rank[part] for of_rank in took[4]) for part in range(3))
    assert took[1][0][0] > 4 * whole
    assert begin < 4 * whole * 0.4
    # a copy of all, and a file that is made in memory: of a rank, its moments
    assert saving < (3 + 2) * whole / 4 * 1.1
    told = [cost_of(asked, tmp_path, devices=world).on_host for world in (1, 4)]
    assert [took[1][0][1], saving] == pytest.approx(told, rel=0.2)
    assert loading < whole / 4


def test_a_batch_that_has_no_equal_shares_is_refused(recipe: Make) -> None:
    check_shares(recipe(), 4)
    with pytest.raises(InputError, match="3 processes can't share a batch of 4 windows"):
        check_shares(recipe(), 3)
