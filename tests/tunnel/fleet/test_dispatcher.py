"""What the fleet gives to which worker, by workers that note what they are asked for and do it in
this process.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from known_fleet import end

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Populations, Speedups
from windtunnel.train.compiled import Compiled
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run, open_run
from windtunnel.tunnel.fleet import fleet as module
from windtunnel.tunnel.fleet import populations
from windtunnel.tunnel.fleet.fleet import Branch, Interrupted, fleet
from windtunnel.tunnel.fleet.populations import shape_name
from windtunnel.tunnel.fleet.workers import Workers

Make = Callable[..., Recipe]


class Queue(queue.SimpleQueue):
    """Of reports."""


class Known(Workers):
    """Two workers, of which each run ends at once with a loss of 4. `speedups`: what they measure;
    None: they are not to be asked.
    """

    def __init__(self, speedups: Speedups | None = None) -> None:
        reports: Any = Queue()
        stop: Any = threading.Event()
        pool: Any = ThreadPoolExecutor(1)
        super().__init__(count=2, machine="here", pool=pool, reports=reports, stop=stop)
        self.speedups = speedups
        self.trained: list[list[str]] = []
        self.measured: list[tuple[str, int]] = []

    def train(self, runs: Sequence[Run], corpus: Corpus) -> "Future[None]":
        self.trained.append([run.recipe.name for run in runs])
        return self.pool.submit(self._train, [run.path for run in runs])

    def measure(self, recipe: Recipe, most: int) -> "Future[Speedups]":
        assert self.speedups is not None
        self.measured.append((recipe.name, most))
        return self.pool.submit(lambda: self.speedups or {})

    def _train(self, paths: Sequence[Path]) -> None:
        for path in paths:
            run = open_run(path)
            recipe = run.recipe
            flops = flops_per_token(recipe.model, recipe.data.context)
            end(run, lambda run: 4.0)
            self.reports.put((run.id, float(flops * recipe.total_tokens)))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Known]]:
    made: list[Known] = []

    def make(speedups: Speedups | None = None) -> Known:
        workers = Known(speedups)
        made.append(workers)
        monkeypatch.setattr(module, "workers", lambda: workers)
        return workers

    yield make
    for each in made:
        each.pool.shutdown()


def runs_of(recipe: Make, *names: str, **more: Any) -> list[Recipe]:
    return [recipe(name=name, seed=i, **more) for i, name in enumerate(names)]


def opened(lab: Any) -> Corpus:
    return Corpus.open(lab.path / "corpora" / "tiny")


def test_the_longest_runs_go_first_one_a_worker(
    lab: Any, recipe: Make, known: Callable[..., Known]
) -> None:
    workers = known()
    short, long = runs_of(recipe, "a", "b"), recipe(name="long", schedule={"tokens": 12_800})
    told: list[tuple[str, float, float | None, str]] = []
    said: list[str] = []
    watch = Watch(show=lambda *line: told.append(line), say=said.append)
    found = fleet(lab.path, opened(lab), [*short, long], watch, "three")
    assert [run.recipe.name for run in found] == ["a", "b", "long"]
    assert workers.trained == [["long"], ["a"], ["b"]]
    assert said == ["three: 3 of 3 runs to train on 2 workers"]
    each = flops_per_token(long.model, long.data.context)
    total = each * (12_800 + 2 * 6400)
    assert {line[0] for line in told} == {"three"} and {line[2] for line in told} == {total}
    assert told[-1] == ("three", total, total, "")
    assert told[-2][1:] == (total, total, "3 of 3 runs")
    done = [line[1] for line in told]
    assert done == sorted(done) and done[0] <= each * (12_800 + 6400), "two workers"


def test_what_is_done_is_not_trained_again_and_not_counted(
    lab: Any, recipe: Make, known: Callable[..., Known]
) -> None:
    workers = known()
    first, second = runs_of(recipe, "a", "b")
    fleet(lab.path, opened(lab), [first], Watch(), "one")
    said: list[str] = []
    fleet(lab.path, opened(lab), [first, second], Watch(say=said.append), "two")
    assert workers.trained == [["a"], ["b"]]
    assert said == ["two: 1 of 2 runs to train on 2 workers"]
    fleet(lab.path, opened(lab), [first, second], Watch(say=said.append), "again")
    assert len(said) == 1 and len(workers.trained) == 2


def test_a_branch_waits_until_its_stem_is_done(
    lab: Any, recipe: Make, known: Callable[..., Known]
) -> None:
    workers = known()
    stem = recipe(name="stem", schedule={"tokens": 6400, "warmup": 512, "decay": 0})
    branch = Branch(stem, 2560, 640, name="branch")
    (run,) = fleet(lab.path, opened(lab), [branch], Watch(), "branch")
    assert workers.trained == [["stem"], ["branch"]]
    assert (run.recipe.name, run.at_tokens) == ("branch", 2560)


def test_alike_runs_train_together_as_was_measured_before(
    lab: Any, recipe: Make, known: Callable[..., Known]
) -> None:
    """Nine of them on two workers, at most four together: 4, 2 of what is left, and so on."""
    workers = known()
    nine = runs_of(recipe, *"abcdefghi")
    Populations.of(lab.path).write_with(
        lab.path, "here", shape_name(nine[0]), {1: 1.0, 2: 1.3, 4: 2.0, 8: 1.9}
    )
    fleet(lab.path, opened(lab), nine, Watch(), "nine")
    sizes = [len(members) for members in workers.trained]
    assert sum(sizes) == 9 and sizes[0] == 2 and max(sizes) <= 4
    assert sorted(name for members in workers.trained for name in members) == list("abcdefghi")


def test_much_work_that_is_alike_is_measured_first_and_kept(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(populations._WORTH, "cpu", 1.0)
    workers = known({1: 1.0, 2: 1.5, 4: 1.4})
    said: list[str] = []
    fleet(lab.path, opened(lab), runs_of(recipe, *"abcde"), Watch(say=said.append), "five")
    # five on two workers: three each, so populations of two at most. While one measures, the other
    # trains one alone; of four that are left two together, and then one each.
    assert workers.measured == [("a", 2)]
    assert [len(members) for members in workers.trained] == [1, 2, 1, 1]
    assert said[1] == (
        "five: each worker trains 2 members together (times as fast as one after the other: "
        "2 together 1.50, 4 together 1.40)"
    )
    known_now = Populations.of(lab.path).find("here", shape_name(recipe()))
    assert known_now == {1: 1.0, 2: 1.5, 4: 1.4}
    again = known()  # which is not to be asked
    others = [recipe(name=name, seed=10 + i) for i, name in enumerate("vwxyz")]
    fleet(lab.path, opened(lab), others, Watch(), "again")
    assert [len(members) for members in again.trained] == [2, 2, 1]


@pytest.mark.parametrize(("runs", "worth"), [(2, 1.0), (3, 1e30)])
def test_few_runs_or_little_work_are_not_measured(
    lab: Any,
    recipe: Make,
    known: Callable[..., Known],
    monkeypatch: pytest.MonkeyPatch,
    runs: int,
    worth: float,
) -> None:
    """As many as there are workers, or fewer FLOPs than measuring is worth."""
    monkeypatch.setitem(populations._WORTH, "cpu", worth)
    workers = known()
    fleet(lab.path, opened(lab), runs_of(recipe, *"abc"[:runs]), Watch(), "few")
    assert [len(members) for members in workers.trained] == [1] * runs


def test_asked_to_stop_nothing_new_is_given_out(
    lab: Any, recipe: Make, known: Callable[..., Known]
) -> None:
    workers = known()
    asked = iter([False, True, True, True, True])
    with pytest.raises(Interrupted):
        fleet(
            lab.path,
            opened(lab),
            runs_of(recipe, *"abcd"),
            Watch(stop=lambda: next(asked)),
            "four",
        )
    assert len(workers.trained) == 2
    assert not workers.stop.is_set(), "the workers stay for the next fleet"


def test_a_run_that_failed_is_said(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = known()

    def fail(paths: Sequence[Path]) -> None:
        for path in paths:
            end(open_run(path), lambda run: None)

    monkeypatch.setattr(workers, "_train", fail)
    said: list[str] = []
    (run,) = fleet(lab.path, opened(lab), [recipe()], Watch(say=said.append), "one")
    assert said[-1] == f"one: {run.id} tiny failed: loss is nan"
    assert run.status().status == "failed"


def test_what_workers_compiled_is_said_once(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They report all that they ever have."""
    monkeypatch.setattr(module, "_compiled_before", {})
    workers = known()
    said: list[str] = []
    first, second = runs_of(recipe, "a", "b")
    workers.reports.put((7, Compiled(made=2, found=1, seconds=3.0)))
    fleet(lab.path, opened(lab), [first], Watch(say=said.append), "one")
    assert said[-1] == f"one: {Compiled(made=2, found=1, seconds=3.0)}"
    workers.reports.put((7, Compiled(made=2, found=1, seconds=3.0)))
    fleet(lab.path, opened(lab), [second], Watch(say=said.append), "two")
    assert said[-1].startswith("two: 1 of 1 runs"), "nothing new"


def test_a_worker_that_was_killed_is_one_line(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = known()

    def killed(paths: Sequence[Path]) -> None:
        raise BrokenProcessPool

    cleared: list[bool] = []
    monkeypatch.setattr(workers, "_train", killed)
    module.workers.cache_clear = lambda: cleared.append(True)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"runs/\w+: a worker process was killed .is there enough"):
        fleet(lab.path, opened(lab), [recipe()], Watch(), "one")
    assert cleared == [True], "the next fleet has new ones"


def test_folders_are_read_when_a_worker_has_finished_or_after_a_while(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at each look at the workers, of which there are many in a second."""
    workers = known()
    looks, read = [0], [0]
    status = Run.status
    monkeypatch.setattr(Run, "status", lambda run: (read.append(1), status(run))[1])
    released = threading.Event()
    train = workers._train

    def slow(paths: Sequence[Path]) -> None:
        released.wait()
        train(paths)

    def show(*_: object) -> None:
        looks.append(1)
        if len(looks) > 30:
            released.set()

    monkeypatch.setattr(workers, "_train", slow)
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(module, "_READ_EVERY", 1e9)
    fleet(lab.path, opened(lab), runs_of(recipe, "a", "b"), Watch(show=show), "two")
    assert len(looks) > 30 and len(read) < 30
