"""A worker whose study was killed leaves nothing taken that others wait for."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.train.run import Busy, create
from windtunnel.tunnel.fleet import workers


class Reports:
    """The queue of reports, which notes whether its worker could have ended in the middle of
    one.
    """

    def __init__(self, training: Any) -> None:
        self.training, self.held = training, list[bool]()

    def put(self, report: object) -> None:
        self.held.append(self.training.locked())


def test_it_does_not_end_within_a_report(
    lab: Any, recipe: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_leave_with_parent` ends the process where it can take the lock `training`."""
    training = threading.Lock()
    reports = Reports(training)
    state = {
        "reports": reports,
        "stop": threading.Event(),
        "orphaned": threading.Event(),
        "training": training,
    }
    monkeypatch.setattr(workers, "_worker", state)
    run = create(lab.path, recipe(), corpus)
    workers._train([Path(run.path)], lab.path / "corpora" / "tiny")
    workers._measure(run.recipe, 1)
    assert len(reports.held) > 3 and all(reports.held)
    assert run.status().status == "done" and not training.locked()


class Sent(list[Any]):
    """A queue of reports that keeps them."""

    put = list.append


def test_progress_counts_from_where_a_run_was_found(
    lab: Any, recipe: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = Sent()
    monkeypatch.setattr(workers, "_worker", {"reports": reports})
    run = create(lab.path, recipe(), corpus)
    each = flops_per_token(run.recipe.model, run.recipe.data.context)
    report, line = workers._progress(run), Any
    for tokens in (1280, 1408, 6400):
        report(tokens, 6400, line)  # type: ignore[arg-type]
    assert reports == [(run.id, 0.0), (run.id, 128.0 * each), (run.id, 5120.0 * each)]


def test_a_worker_stops_where_it_is_asked_to_or_its_study_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"stop": threading.Event(), "orphaned": threading.Event()}
    monkeypatch.setattr(workers, "_worker", state)
    assert not workers._stopped()
    for event in state.values():
        event.set()
        assert workers._stopped()
        event.clear()


def test_a_run_that_another_process_trains_is_waited_for(
    lab: Any, recipe: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not once the fleet is asked to stop."""
    tried, slept = [], []

    def busy(*_: Any) -> None:
        tried.append(1)
        if len(tried) < 3:
            raise Busy("x")

    state = {
        "reports": Sent(),
        "stop": threading.Event(),
        "orphaned": threading.Event(),
        "training": threading.Lock(),
    }
    monkeypatch.setattr(workers, "_worker", state)
    monkeypatch.setattr("windtunnel.train.loop.train_together", busy)
    monkeypatch.setattr(workers.time, "sleep", slept.append)
    run = create(lab.path, recipe(), corpus)
    workers._train([Path(run.path)], lab.path / "corpora" / "tiny")
    assert len(tried) == 3 and slept == [1.0, 1.0] and len(state["reports"]) == 1  # type: ignore[arg-type]
    state["stop"].set()  # type: ignore[attr-defined]
    workers._train([Path(run.path)], lab.path / "corpora" / "tiny")
    assert len(tried) == 3


def test_as_many_cores_as_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert workers._cores() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert workers._cores() == 1


def test_ctrl_c_reaches_every_process_and_ends_no_worker() -> None:
    """Its study asks it to stop, and it saves what it trains."""
    context = get_context("forkserver")
    start = context.SimpleQueue(), context.Event(), None, 1
    with ProcessPoolExecutor(1, context, workers._start, start) as pool:
        assert pool.submit(signal.raise_signal, signal.SIGINT).exception() is None
        assert pool.submit(workers._stopped).result() is False


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
    assert workers.visible_gpus(named, count) == gpus


def test_for_gpus_workers_begin_by_themselves_and_each_sees_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that forks them may have asked for CUDA in what it imported, and then none of them
    could use it.
    """
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found = workers.workers.__wrapped__()
    try:
        assert found.pool._mp_context.get_start_method() == "spawn"  # pyright: ignore
        seen = found.pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(timeout=PATIENCE)
        assert found.count == 2
        assert "NVIDIA H100" in found.machine
        # only one has begun, so the other's GPU is still to be taken
        _, _, free, _ = found.pool._initargs  # pyright: ignore
        assert {seen, free.get()} == {"4", "7"} and free.empty()
    finally:
        found.pool.shutdown()


def test_on_a_cpu_workers_come_from_a_server_that_has_imported_torch() -> None:
    found = workers.workers.__wrapped__()
    found.pool.shutdown()
    assert found.pool._mp_context.get_start_method() == "forkserver"  # pyright: ignore
    _, _, free, _ = found.pool._initargs  # pyright: ignore
    assert free is None
