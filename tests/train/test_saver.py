"""Training goes on while a checkpoint is written: what is written is a copy, what presupposes it
waits for it, nothing speaks of it before it is there, and an error of the writing ends the run.
"""

import multiprocessing
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from patience import PATIENCE, wait_until

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint, loop
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.loop import train, train_together
from windtunnel.train.member import Watch
from windtunnel.train.recorder import Recorder
from windtunnel.train.run import Busy, Run, create, open_run
from windtunnel.train.saver import Saver
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
BATCH = 128
EACH_TEN = {"checkpoint_every": 10 * BATCH, "keep": 9, "evaluate_every": 0}
SAVED = [10, 20, 30, 40, 45, 50]  # steps: the decay begins at 45


class Gate:
    """Before a file of a checkpoint, in the place of safetensors' `save_file`."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self._write = safetensors.torch.save_file

    def __call__(self, tensors: dict[str, torch.Tensor], file: Path) -> None:
        assert threading.current_thread() is not threading.main_thread(), "training waits for it"
        assert self.open.wait(PATIENCE)
        self._write(tensors, file)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(safetensors.torch, "save_file", made)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Make, corpus: Corpus) -> Run:
    """The run in one go, with nothing in the way of its checkpoints."""
    run = create(tmp_path_factory.mktemp("lab"), recipe(train=EACH_TEN), corpus)
    train(run, corpus)
    return run


@pytest.fixture
def run(tmp_path: Path, recipe: Make, corpus: Corpus) -> Run:
    return create(tmp_path, recipe(train=EACH_TEN), corpus)


def steps_saved(run: Run) -> list[int]:
    return [tokens // BATCH for tokens in checkpoint.positions(run.checkpoints)]


def contents(run: Run) -> dict[str, bytes]:
    """Every file of every checkpoint."""
    return {
        f"{file.parent.name}/{file.name}": file.read_bytes()
        for file in run.checkpoints.rglob("*")
        if file.is_file()
    }


def at_step(number: int, then: Callable[[Step], object]) -> Callable[[Step, int], None]:
    """For `Watch.gradient`: once so many steps were taken."""

    def gradient(step: Step, position: int) -> None:
        if position == number * BATCH:
            then(step)

    return gradient


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "checkpoints"]


def test_training_goes_on_meanwhile_and_nothing_speaks_of_what_is_not_there(
    run: Run, whole: Run, corpus: Corpus, gate: Gate
) -> None:
    """Nor changes what is written: each checkpoint has the bytes of one that nothing delayed."""
    said: list[int] = []
    seen: list[object] = []

    def look(_: Step) -> None:
        status = run.status()
        seen.extend([steps_saved(run), said.copy(), (status.status, status.tokens), writers()])
        gate.open.set()

    train(run, corpus, Watch(gradient=at_step(14, look), saved=said.append))
    saved, spoken, status, at_work = seen
    assert (saved, spoken, status) == ([], [], ("running", 0))
    assert isinstance(at_work, list) and len(at_work) == 1
    assert [tokens // BATCH for tokens in said] == steps_saved(run) == SAVED
    assert contents(run) == contents(whole)
    assert [line.loss for line in run.steps()] == [line.loss for line in whole.steps()]
    assert not writers(), "no thread is left behind"


def test_asked_to_stop_it_ends_what_it_writes_first(run: Run, corpus: Corpus, gate: Gate) -> None:
    said: list[int] = []
    asked = threading.Event()
    watch = Watch(
        gradient=at_step(14, lambda _: asked.set()),
        stop=lambda: asked.is_set() and not gate.open.set(),
        saved=said.append,
    )
    summary = train(run, corpus, watch)
    assert (summary.status, summary.tokens) == ("interrupted", 15 * BATCH)
    assert said == [10 * BATCH, 15 * BATCH] and steps_saved(run) == [10, 15]
    assert not writers()


def in_order(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> list[tuple[str, int]]:
    """What happens when, with each writing held up until it is waited for."""
    events: list[tuple[str, int]] = []

    def logged(owner: Any, name: str, event: Callable[..., tuple[str, int]]) -> None:
        before = getattr(owner, name)

        def replaced(*given: Any, **named: Any) -> Any:
            events.append(event(*given, **named))
            return before(*given, **named)

        monkeypatch.setattr(owner, name, replaced)

    logged(checkpoint, "appear", lambda part, final, *_: ("there", int(final.name) // BATCH))
    logged(checkpoint, "prune", lambda *_: ("pruned", 0))
    logged(Recorder, "validation", lambda _, line: ("validation", line.tokens // BATCH))
    logged(Run, "write_status", lambda _, status, tokens, *more: (status, tokens // BATCH))
    wait = Saver.end

    def end(saver: Saver) -> None:
        gate.open.set()
        wait(saver)
        gate.open.clear()

    monkeypatch.setattr(Saver, "end", end)
    return events


def test_what_presupposes_a_checkpoint_waits_for_it(
    tmp_path: Path, recipe: Make, corpus: Corpus, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(train=EACH_TEN | {"evaluate_every": 20 * BATCH})
    run, events = create(tmp_path, asked, corpus), in_order(monkeypatch, gate)
    assert train(run, corpus).status == "done"
    assert events == [
        ("running", 0),
        *[("there", 10), ("pruned", 0), ("running", 10)],
        *[("there", 20), ("validation", 20), ("running", 20), ("pruned", 0), ("running", 20)],
        *[("there", 30), ("pruned", 0), ("running", 30)],
        *[("there", 40), ("validation", 40), ("running", 40), ("pruned", 0), ("running", 40)],
        *[("there", 45), ("validation", 45), ("running", 45), ("pruned", 0), ("running", 45)],
        *[("there", 50), ("validation", 50), ("running", 50), ("pruned", 0), ("running", 50)],
        ("done", 50),
    ]


def test_a_run_that_diverges_has_failed_once_its_last_checkpoint_is_there(
    run: Run, corpus: Corpus, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruin(step: Step) -> None:
        gradient = step.model.embedding.grad
        assert gradient is not None
        gradient.fill_(float("nan"))

    events = in_order(monkeypatch, gate)
    summary = train(run, corpus, Watch(gradient=at_step(14, ruin)))
    assert summary.status == "failed" and "at step 15" in (summary.reason or "")
    assert events == [
        ("running", 0),
        *[("there", 10), ("pruned", 0), ("running", 10)],
        ("failed", 20),
    ]
    assert steps_saved(run) == [10]


def test_a_validation_that_fails_leaves_the_checkpoint_whole(
    run: Run, corpus: Corpus, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it began before the checkpoint was written."""

    def close(_: Step) -> None:
        for thread in writers():
            thread.join()
        gate.open.clear()

    def no_room(*_: object, **__: object) -> None:
        assert steps_saved(run) == [10, 20, 30, 40]
        gate.open.set()
        raise MemoryError

    gate.open.set()
    monkeypatch.setattr(loop, "validate", no_room)
    with pytest.raises(MemoryError):
        train(run, corpus, Watch(gradient=at_step(44, close)))
    assert steps_saved(run) == [10, 20, 30, 40, 45]
    assert checkpoint.load(run.checkpoints, 45 * BATCH).steps == 45
    assert not writers()


@pytest.mark.parametrize(("step", "before"), [(9, 0), (49, 45)])
def test_what_can_not_be_written_ends_the_run_in_one_line(
    step: int, before: int, run: Run, corpus: Corpus
) -> None:
    """Also where it is the last one: the run is not done."""

    def lose_the_folder(_: Step) -> None:
        shutil.rmtree(run.checkpoints)
        run.checkpoints.write_text("no folder")

    with pytest.raises(InputError) as raised:
        train(run, corpus, Watch(gradient=at_step(step, lose_the_folder)))
    final = checkpoint.path_of(run.checkpoints, (step + 1) * BATCH)
    assert str(raised.value).startswith(f"{final}: the checkpoint could not be written: ")
    assert "\n" not in str(raised.value)
    assert (run.status().status, run.status().tokens) == ("interrupted", before * BATCH)
    assert not writers()


def test_where_another_process_took_the_run_over_nothing_appears_any_more(
    run: Run, corpus: Corpus, gate: Gate
) -> None:
    def stop() -> bool:
        for thread in writers():
            wait = thread.join

            def go_on(
                timeout: float | None = None, wait: Callable[[float | None], None] = wait
            ) -> None:
                gate.open.set()
                wait(timeout)

            # held up until it is known that the run is in other hands
            thread.join = go_on
            raise Busy("another worker has taken this run over")
        return False

    with pytest.raises(Busy):
        train(run, corpus, Watch(stop=stop))
    assert not writers() and list(run.checkpoints.iterdir()) == []


def test_one_is_written_at_a_time_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another, writing, seen = threading.Event(), list[Path](), list[str]()
    write = safetensors.torch.save_file

    def watched(tensors: dict[str, torch.Tensor], file: Path) -> None:
        if writing:
            another.set()
        writing.append(file)
        # long enough for another one that does not wait to come in
        assert not another.wait(0.1), "two at once"
        write(tensors, file)
        writing.pop()
        seen.append(file.parent.name[:15])

    monkeypatch.setattr(safetensors.torch, "save_file", watched)
    with Saver() as saver:
        for tokens in (128, 256, 384):
            saver.begin([(tmp_path, Checkpoint(tokens, 1, {"a": torch.ones(2)}, {}))])
    assert seen == [f"{tokens:015d}" for tokens in (128, 128, 256, 256, 384, 384)]
    assert checkpoint.positions(tmp_path) == [128, 256, 384]


def test_members_are_copied_at_one_moment_each_for_itself(
    tmp_path: Path, recipe: Make, corpus: Corpus, gate: Gate
) -> None:
    """Written while all go on, each has what it has without a delay."""
    asked = [recipe(train=EACH_TEN, seed=seed) for seed in (1, 2, 3)]
    ends: list[list[Run]] = []
    for label in ("held", "free"):
        runs = [create(tmp_path / label, one, corpus) for one in asked]
        seen = iter([False] * 13 + [True])
        watch = Watch(stop=lambda seen=seen: next(seen, False) and bool(gate.open.set()))
        train_together(runs, corpus, [watch, Watch(), Watch()])
        ends.append(runs)
    for held, free in zip(*ends, strict=True):
        assert steps_saved(held) == SAVED and contents(held) == contents(free)


def hold_for_ever(path: Path, corpus: Path, tokens: int) -> None:
    """Train a run whose checkpoint at `tokens` never comes to its end."""
    write = safetensors.torch.save_file

    def held(tensors: dict[str, torch.Tensor], file: Path) -> None:
        write(tensors, file)
        if file.parent.name.startswith(f"{tokens:015d}"):
            threading.Event().wait()

    safetensors.torch.save_file = held
    train(open_run(path), Corpus.open(corpus))


def test_killed_while_it_writes_a_run_loses_that_checkpoint_alone(
    run: Run, whole: Run, corpus: Corpus
) -> None:
    process = multiprocessing.get_context("forkserver").Process(
        target=hold_for_ever, args=(run.path, corpus.folder, 20 * BATCH), daemon=True
    )
    process.start()

    def has_gone_on() -> bool:
        assert process.is_alive(), "it was to be killed before its end"
        steps = run.steps()
        return bool(steps) and steps[-1].tokens == 30 * BATCH

    wait_until(has_gone_on)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert steps_saved(run) == [10], "and ten steps more were trained"
    (half,) = run.checkpoints.glob("*.part")
    assert (half / "weights.safetensors").exists()
    assert (run.status().status, run.status().tokens) == ("interrupted", 10 * BATCH)

    assert train(run, corpus).status == "done"
    assert contents(run) == contents(whole)
    assert [line.loss for line in run.steps()] == [line.loss for line in whole.steps()]
