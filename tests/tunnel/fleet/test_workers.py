"""A worker whose study was killed leaves nothing taken that others wait for."""

import threading
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.train.run import create
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
