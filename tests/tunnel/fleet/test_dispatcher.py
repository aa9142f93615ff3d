"""What the fleet gives to which worker, by workers that note what they are asked for and do it in
this process.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from known_fleet import end
from patience import PATIENCE

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Populations, Speedups
from windtunnel.train.compiled import Compiled
from windtunnel.train.loop import Watch
from windtunnel.train.run import Busy, Run, list_runs, open_run
from windtunnel.tunnel.fleet import fleet as module
from windtunnel.tunnel.fleet import populations
from windtunnel.tunnel.fleet.fleet import Branch, Interrupted, fleet
from windtunnel.tunnel.fleet.jobs import Job, Measurement, Outcome, Progress, Report
from windtunnel.tunnel.fleet.populations import shape_name
from windtunnel.tunnel.fleet.workers import Lost, Worker, Workers

Make = Callable[..., Recipe]


class Here(Worker):
    """A worker that does its jobs in this process, one worker at a time."""

    kind = "here"
    device = "cpu"

    def __init__(self, workers: "Known") -> None:
        self.workers = workers
        self.stops = 0

    def begin(self) -> None:
        """It is there."""

    def carry_out(self, job: Job, report: Callable[[Report], None]) -> Outcome:
        with self.workers.one_at_a_time:
            if isinstance(job, Measurement):
                return Outcome(value=self.workers.speedups)
            return self.workers.train(job.runs, report)

    def stop(self) -> None:
        self.stops += 1


class Known(Workers):
    """Two workers, of which each run ends at once with a loss of 4. `speedups`: what they measure;
    None: they are not to be asked.
    """

    def __init__(self, speedups: Speedups | None = None) -> None:
        self.one_at_a_time = threading.Lock()
        self.speedups = speedups
        self.trained: list[list[str]] = []
        self.measured: list[tuple[str, int]] = []
        self.two = [Here(self), Here(self)]
        super().__init__(self.two)

    def give(self, worker: Worker, job: Job) -> None:
        if isinstance(job, Measurement):
            assert self.speedups is not None
            self.measured.append((job.recipe.name, job.most))
        else:
            self.trained.append([open_run(path).recipe.name for path in job.runs])
        super().give(worker, job)

    def train(self, paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        statuses = []
        for path in paths:
            run = open_run(path)
            recipe = run.recipe
            flops = flops_per_token(recipe.model, recipe.data.context)
            end(run, lambda run: 4.0)
            report(Progress(run=run.id, flops=float(flops * recipe.total_tokens)))
            statuses.append(run.status())
        return Outcome(value=tuple(statuses))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Known]:
    def make(speedups: Speedups | None = None) -> Known:
        workers = Known(speedups)
        monkeypatch.setattr(module, "workers", lambda: workers)
        return workers

    return make


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
    assert done == sorted(done)


def test_before_the_first_step_it_says_what_is_waited_for(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, told, heard = known(), list[str](), threading.Event()
    train = workers.train

    def slowly(paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        heard.wait(PATIENCE)
        return train(paths, report)

    def show(what: str, done: float, total: float | None, note: str = "") -> None:
        told.append(note)
        heard.set()

    monkeypatch.setattr(workers, "train", slowly)
    asked = runs_of(recipe, "a", train={"compile": "auto"})
    fleet(lab.path, opened(lab), asked, Watch(show=show), "one")
    assert told[0] == "0 of 1 runs, compiling, once for each size"
    assert told[-2:] == ["1 of 1 runs", ""]


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
    with pytest.raises(Interrupted):
        fleet(
            lab.path,
            opened(lab),
            runs_of(recipe, *"abcd"),
            Watch(stop=lambda: len(workers.trained) > 0),
            "four",
        )
    assert len(workers.trained) == 2
    assert not workers.jobs, "the workers stay for the next fleet"


def test_a_run_that_failed_is_said(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = known()

    def fail(paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        for path in paths:
            end(open_run(path), lambda run: None)
        return Outcome(value=tuple(open_run(path).status() for path in paths))

    monkeypatch.setattr(workers, "train", fail)
    said: list[str] = []
    (run,) = fleet(lab.path, opened(lab), [recipe()], Watch(say=said.append), "one")
    assert said[-1] == f"one: {run.id} tiny failed: loss is nan"
    assert run.status().status == "failed"


def test_what_workers_compiled_is_said_once(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = known()
    train = workers.train

    def compiling(paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        report(Compiled(made=2, found=1, seconds=3.0))
        return train(paths, report)

    monkeypatch.setattr(workers, "train", compiling)
    said: list[str] = []
    first, second, third = runs_of(recipe, "a", "b", "c")
    fleet(lab.path, opened(lab), [first, second], Watch(say=said.append), "one")
    assert said[-1] == f"one: {Compiled(made=4, found=2, seconds=6.0)}"
    monkeypatch.setattr(workers, "train", train)
    fleet(lab.path, opened(lab), [third], Watch(say=said.append), "two")
    assert said[-1].startswith("two: 1 of 1 runs"), "nothing new"


class Killed:
    """For `Known.train`: the worker of a run in `how` is lost so often, after what is to be done
    first.
    """

    def __init__(self, workers: Known, times: dict[str, int], first: Callable[[Run], None]) -> None:
        self.train, self.times, self.first = workers.train, times, first

    def __call__(self, paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        for run in map(open_run, paths):
            if self.times.get(run.recipe.name, 0):
                self.times[run.recipe.name] -= 1
                self.first(run)
                raise Lost("process 7 ended with SIGKILL")
        return self.train(paths, report)


def test_what_a_dead_worker_had_goes_on_in_another(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = known()
    monkeypatch.setattr(workers, "train", Killed(workers, {"a": 2}, lambda run: None))
    said: list[str] = []
    found = fleet(lab.path, opened(lab), runs_of(recipe, "a", "b"), Watch(say=said.append), "two")
    assert [run.status().status for run in found] == ["done", "done"]
    assert sorted(map(str, workers.trained)) == ["['a']"] * 3 + ["['b']"]
    lost = (
        f"two: a worker was lost (process 7 ended with SIGKILL); back into the queue: {found[0].id}"
    )
    assert said.count(lost) == 2


def test_a_run_that_kills_its_workers_is_recorded_as_failed(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three of them in one place, and the others go on."""
    workers = known()
    monkeypatch.setattr(workers, "train", Killed(workers, {"a": 99}, lambda run: None))
    found = fleet(lab.path, opened(lab), runs_of(recipe, "a", "b"), Watch(), "two")
    assert [run.status().status for run in found] == ["failed", "done"]
    assert workers.trained.count(["a"]) == 3
    assert found[0].status().reason == (
        "3 workers were lost with it at 0 tokens, the last time: process 7 ended with SIGKILL (is "
        "there enough memory?)"
    )


def test_a_run_that_comes_further_each_time_may_lose_many_workers(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on machines that are taken away now and then."""
    workers = known()

    def further(run: Run) -> None:
        there = len(list(run.checkpoints.iterdir()))
        (run.checkpoints / f"{1280 * (there + 1):015d}").mkdir()

    monkeypatch.setattr(workers, "train", Killed(workers, {"a": 7}, further))
    (run,) = fleet(lab.path, opened(lab), runs_of(recipe, "a"), Watch(), "one")
    assert run.status().status == "done" and workers.trained == [["a"]] * 8


def test_of_a_population_whose_worker_died_each_goes_on_alone(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that kills takes no other down with it again."""
    workers = known()
    monkeypatch.setattr(workers, "train", Killed(workers, {"b": 99}, lambda run: None))
    four = runs_of(recipe, *"abcd")
    Populations.of(lab.path).write_with(
        lab.path, "here", shape_name(four[0]), {1: 1.0, 2: 1.5, 4: 2.0}
    )
    found = fleet(lab.path, opened(lab), four, Watch(), "four")
    assert [run.status().status for run in found] == ["done", "failed", "done", "done"]
    assert workers.trained.count(["a", "b"]) == 1 and workers.trained.count(["b"]) == 3
    assert all(workers.trained.count([name]) == 1 for name in "acd")


def test_where_a_measurement_cost_its_worker_runs_train_alone(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many members do not fit into a memory, and that is found out by trying."""
    monkeypatch.setitem(populations._WORTH, "cpu", 1.0)
    workers = known({})
    plain = Here.carry_out

    def killed(worker: Here, job: Job, report: Callable[[Report], None]) -> Outcome:
        if isinstance(job, Measurement):
            raise Lost("process 7 ended with SIGKILL")
        return plain(worker, job, report)

    monkeypatch.setattr(Here, "carry_out", killed)
    fleet(lab.path, opened(lab), runs_of(recipe, *"abcde"), Watch(), "five")
    assert len(workers.measured) == 1 and workers.trained == [[name] for name in "abcde"]
    assert Populations.of(lab.path).find("here", shape_name(recipe())) is None


def test_no_worker_at_all_is_one_line(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each ends before it has taken a job, no run is to blame."""

    def begin(worker: Here) -> None:
        raise Lost("process 7 ended with exit code 1")

    monkeypatch.setattr(Here, "begin", begin)
    known()
    with pytest.raises(InputError, match="no worker could be started: process 7 ended with exit"):
        fleet(lab.path, opened(lab), [recipe()], Watch(), "one")
    (run,) = list_runs(lab.path)
    assert run.status().status == "interrupted"


def test_what_somebody_else_trains_is_waited_for_and_the_others_go_on(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that finds a run in other hands is free for the next one."""
    workers = known()
    monkeypatch.setattr(module, "_WAIT_BUSY", 0.01)
    train, names = workers.train, list[str]()

    def busy(paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        (run,) = map(open_run, paths)
        names.append(run.recipe.name)
        if run.recipe.name == "a" and names.count("a") < 3:
            return Outcome(fault=Busy("x"))
        return train(paths, report)

    monkeypatch.setattr(workers, "train", busy)
    found = fleet(lab.path, opened(lab), runs_of(recipe, *"abc"), Watch(), "three")
    assert all(run.status().status == "done" for run in found)
    assert names.count("a") == 3 and names.count("b") == names.count("c") == 1


def test_folders_are_read_when_there_is_news(
    lab: Any, recipe: Make, known: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at each look at the workers, of which there are many in a second."""
    workers = known()
    looks, read = [0], [0]
    status = Run.status
    monkeypatch.setattr(Run, "status", lambda run: (read.append(1), status(run))[1])
    released = threading.Event()
    train = workers.train

    def slow(paths: Sequence[Path], report: Callable[[Report], None]) -> Outcome:
        released.wait()
        return train(paths, report)

    def show(*_: object) -> None:
        looks.append(1)
        if len(looks) > 30:
            released.set()

    monkeypatch.setattr(workers, "train", slow)
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.001)
    fleet(lab.path, opened(lab), runs_of(recipe, "a", "b"), Watch(show=show), "two")
    assert len(looks) > 30 and len(read) < 30
