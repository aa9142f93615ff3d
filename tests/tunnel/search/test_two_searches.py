"""Two processes that carry out one search at once, with its trials in a real PostgreSQL."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from patience import PATIENCE
from postgres import postgres

from windtunnel.results.search import SEARCH
from windtunnel.results.study import read_study
from windtunnel.train.run import list_runs

pytest.importorskip("psycopg", reason="psycopg is not installed")
pytestmark = pytest.mark.slow

STUDY = (
    *("search", "--corpus", "tiny", "--width", 16, "--depth", 1, "--tokens", "12k"),
    *("--batch", 512, "--trials", 24, "--start", 8, "--batch-trials", 4),
    *("--candidates", 2, "--fresh-seeds", 2),
)
EAGER = {"CXX": "no-compiler"}


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as url:
        yield url


def test_two_searches_share_24_trials(make_lab: Any, database: str) -> None:
    """None is asked twice, none fails, each run is trained once, and the winner is the one of a
    search alone.
    """
    import optuna

    from windtunnel.tunnel.search.alone import with_driver

    alone, shared = make_lab(), make_lab()
    done = alone.run(*STUDY, **EAGER)
    assert done.returncode == 0, done.stderr
    both = [shared.start(*STUDY, "--storage", database, **EAGER) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert "runs to train on" in err
    (name,) = optuna.get_all_study_names(with_driver(database))
    trials = optuna.load_study(study_name=name, storage=with_driver(database)).get_trials()
    states = Counter(trial.state.name for trial in trials)
    points = {tuple(sorted(trial.params.items())) for trial in trials}
    assert states.keys() == {"COMPLETE"} and len(points) == len(trials) >= 24
    for run in list_runs(shared.path):
        steps = [step.tokens for step in run.steps()]
        assert steps == sorted(set(steps)) and run.status().status == "done"
    ours, theirs = (read_study(lab.path, SEARCH) for lab in (shared, alone))
    assert ours.numbers.chosen == theirs.numbers.chosen
    assert sorted(ours.runs) == sorted(theirs.runs)
