"""What a worker does with a job, and the processes that workers are."""

import os
import signal
import threading
from typing import Any

import pytest
import torch
from patience import wait_until

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.train.owner import Lease
from windtunnel.train.run import Busy, create
from windtunnel.tunnel.fleet import processes, worker
from windtunnel.tunnel.fleet.jobs import Job, Measurement, Outcome, Progress, Saved, Training
from windtunnel.tunnel.fleet.worker import Worker
from windtunnel.tunnel.fleet.workers import Begun, Finished, Lost, Workers


def job_of(lab: Any, *runs: Any, leases: tuple[Lease, ...] = ()) -> Training:
    paths = tuple(run.path for run in runs)
    return Training(runs=paths, corpus=lab.path / "corpora" / "tiny", leases=leases)


def test_it_reports_how_far_it_is_and_what_was_saved(lab: Any, recipe: Any, corpus: Corpus) -> None:
    reports: list[Any] = []
    run = create(lab.path, recipe(), corpus)
    outcome = Worker(reports.append).carry_out(job_of(lab, run))
    assert outcome.fault is None and [one.status for one in outcome.value] == ["done"]
    saved = [one.tokens for one in reports if isinstance(one, Saved)]
    assert saved == [1664, 3200, 4864, 5760, 6400] and {one.run for one in reports} == {run.id}
    progress = [one.flops for one in reports if isinstance(one, Progress)]
    assert progress == sorted(progress) and progress[0] == 0


def test_progress_counts_from_where_a_run_was_found(lab: Any, recipe: Any, corpus: Corpus) -> None:
    reports: list[Any] = []
    run = create(lab.path, recipe(), corpus)
    each = flops_per_token(run.recipe.model, run.recipe.data.context)
    report, line = Worker(reports.append)._progress(run), Any
    for tokens in (1280, 1408, 6400):
        report(tokens, 6400, line)  # type: ignore[arg-type]
    assert [one.flops for one in reports] == [0.0, 128.0 * each, 5120.0 * each]


def test_it_stops_where_it_is_asked_to(lab: Any, recipe: Any, corpus: Corpus) -> None:
    run = create(lab.path, recipe(), corpus)
    inside = Worker(lambda report: None)
    inside.stop.set()
    outcome = inside.carry_out(job_of(lab, run))
    assert outcome.value[0].status == "interrupted" and outcome.value[0].tokens == 0
    assert inside.carry_out(Measurement(recipe=run.recipe, most=4)).value == {1: 1.0}


def test_a_run_that_another_process_trains_is_handed_back(
    lab: Any, recipe: Any, corpus: Corpus
) -> None:
    run = create(lab.path, recipe(), corpus)
    with run.lock():
        outcome = Worker(lambda report: None).carry_out(job_of(lab, run))
    assert isinstance(outcome.fault, Busy) and run.status().tokens == 0


def test_a_lab_that_is_not_there_is_named(lab: Any, recipe: Any, corpus: Corpus) -> None:
    run = create(lab.path, recipe(), corpus)
    run.path.rename(run.path.with_name("gone"))
    outcome = Worker(lambda report: None).carry_out(job_of(lab, run))
    assert isinstance(outcome.fault, InputError)
    assert str(outcome.fault).startswith(f"{run.path}: not there on ")


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(
    lab: Any, recipe: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fleet has given the run to another one."""
    monkeypatch.setattr(worker, "_LOOK_EVERY", 0.0)
    run = create(lab.path, recipe(), corpus)
    first = run.own()
    assert first
    second: list[Lease | None] = []

    def report(what: Any) -> None:
        if isinstance(what, Saved) and not second:
            second.append(run.own(lost=first))

    outcome = Worker(report).carry_out(job_of(lab, run, leases=(first,)))
    assert isinstance(outcome.fault, Busy)
    assert second[0] and second[0].after_another
    assert run.steps()[-1].tokens <= 1664 + 10 * 128, "at most what was not written yet"
    assert run.status().status == "running", "by the other one"


def test_ctrl_c_reaches_every_process_and_ends_no_worker(lab: Any, recipe: Any) -> None:
    """Its study asks it to stop, and it saves what it trains."""
    process = processes._Process(processes._context(gpus=False), None, 1)
    process.begin()
    os.kill(process._process.pid, signal.SIGINT)
    job = Measurement(recipe=recipe(), most=1)
    assert process.carry_out(job, lambda report: None).value == {1: 1.0}


def test_a_worker_whose_fleet_is_gone_ends(recipe: Any) -> None:
    process = processes._Process(processes._context(gpus=False), None, 1)
    process.begin()
    process._link.close()
    process._process.join()
    assert process._process.exitcode == 0


def test_a_killed_worker_is_lost_once_and_begins_again(recipe: Any) -> None:
    process = processes._Process(processes._context(gpus=False), None, 1)
    process.begin()
    first = process._process.pid
    os.kill(first, signal.SIGKILL)
    job = Measurement(recipe=recipe(), most=1)
    with pytest.raises(Lost, match=f"process {first} ended with SIGKILL"):
        process.carry_out(job, lambda report: None)
    process.begin()
    assert process._process.pid != first
    assert process.carry_out(job, lambda report: None).fault is None


class Doubtful(processes._Process):
    """A worker that is lost so often before it begins, and does nothing."""

    def __init__(self, losses: int) -> None:
        self.losses = losses

    def begin(self) -> None:
        self.losses -= 1
        if self.losses >= 0:
            raise Lost("x")

    def carry_out(self, job: Job, report: Any) -> Outcome:
        raise Lost("y")


def test_workers_that_do_not_begin_are_given_up_and_the_others_work(recipe: Any) -> None:
    workers = Workers([Doubtful(99), Doubtful(2)])
    workers.wait_until_begun(lambda: False)
    assert workers.count == 1 and len(workers.news(1.0)) == 1
    workers.check()
    job = Measurement(recipe=recipe(), most=1)
    workers.give(workers.free[0], job)
    heard: list[Any] = []
    wait_until(lambda: len(heard) == 2 or heard.extend(workers.news(0.01)))  # type: ignore[func-returns-value]
    assert heard == [Finished(job=job, outcome=None, reason="y"), Begun()]
    none = Workers([Doubtful(99)])
    with pytest.raises(InputError, match="no worker could be started: x"):
        none.wait_until_begun(lambda: False)


def test_workers_on_other_machines_are_not_waited_for_for_ever() -> None:
    """One that no machine has a place for may come later."""
    held = threading.Event()

    class Waiting(Doubtful):
        def begin(self) -> None:
            held.wait()

    workers = Workers([Doubtful(0), Waiting(0)], patience=0.05)
    workers.wait_until_begun(lambda: False)
    assert workers.count == 1
    held.set()
    wait_until(lambda: workers.count == 2)


def test_as_many_cores_as_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert worker.cores() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert worker.cores() == 1


@pytest.mark.parametrize(
    ("named", "count", "gpus"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        (" GPU-8f0a , MIG-77ab", 2, ["GPU-8f0a", "MIG-77ab"]),
        ("2,99,3", 1, ["2"]),
        ("", 0, []),
    ],
)
def test_gpus_have_the_names_by_which_a_process_is_given_them(
    named: str | None, count: int, gpus: list[str]
) -> None:
    assert processes.visible_gpus(named, count) == gpus


def test_for_gpus_workers_begin_by_themselves_and_each_sees_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that forks them may have asked for CUDA in what it imported, and then none of them
    could use it.
    """
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    made: list[Any] = []
    monkeypatch.setattr(processes, "Workers", made.extend)
    processes.local_workers()
    assert [one._gpu for one in made] == ["4", "7"]
    assert {one._context.get_start_method() for one in made} == {"spawn"}
    first = made[0]
    first.begin()
    assert first.kind.endswith(f"torch {torch.__version__}")


def test_a_worker_sees_the_gpu_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch looks for the first time."""
    seen: list[str | None] = []
    monkeypatch.setattr(
        processes, "prepare", lambda *_: seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ours, theirs = processes.get_context("spawn").Pipe()
    ours.close()
    processes._work(theirs, "7", 1)
    assert seen == ["7"]


def test_on_a_cpu_workers_come_from_a_server_that_has_imported_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(processes, "Workers", made.extend)
    processes.local_workers()
    assert len(made) == worker.cores()
    assert {one._context.get_start_method() for one in made} == {"forkserver"}
    assert {one._gpu for one in made} == {None}
