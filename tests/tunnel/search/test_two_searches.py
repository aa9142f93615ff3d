"""Two processes that carry out one search at once, with its trials in a real PostgreSQL."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from patience import PATIENCE, wait_until
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


@pytest.fixture
def database() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def alone(make_lab: Any) -> Any:
    """A lab with the search of one process. Only to be looked at."""
    lab = make_lab()
    done = lab.run(*STUDY, **EAGER)
    assert done.returncode == 0, done.stderr
    return lab


def trials_of(database: str) -> list[Any]:
    import optuna

    from windtunnel.tunnel.search.alone import with_driver

    (name,) = optuna.get_all_study_names(with_driver(database))
    return optuna.load_study(study_name=name, storage=with_driver(database)).get_trials()


def completes(process: Any) -> None:
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "runs to train on" in err


def same_search(lab: Any, alone: Any) -> None:
    """Each run is trained once, and the winner is the one of a search alone."""
    for run in list_runs(lab.path):
        steps = [step.tokens for step in run.steps()]
        assert steps == sorted(set(steps)) and run.status().status == "done"
    ours, theirs = (read_study(one.path, SEARCH) for one in (lab, alone))
    assert ours.numbers.chosen == theirs.numbers.chosen
    assert sorted(ours.runs) == sorted(theirs.runs)


def test_two_searches_share_24_trials(make_lab: Any, alone: Any, database: str) -> None:
    """None is asked twice, and none fails."""
    lab = make_lab()
    both = [lab.start(*STUDY, "--storage", database, **EAGER) for _ in range(2)]
    for process in both:
        completes(process)
    trials = trials_of(database)
    states = Counter(trial.state.name for trial in trials)
    points = {tuple(sorted(trial.params.items())) for trial in trials}
    assert states.keys() == {"COMPLETE"} and len(points) == len(trials) >= 24
    same_search(lab, alone)


def test_the_other_goes_on_where_one_is_killed(make_lab: Any, alone: Any, database: str) -> None:
    lab = make_lab()
    killed, other = (lab.start(*STUDY, "--storage", database, **EAGER) for _ in range(2))
    wait_until(lambda: len(list(lab.path.glob("runs/[!.]*"))) > 10, killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    completes(other)
    points = Counter(tuple(sorted(trial.params.items())) for trial in trials_of(database))
    assert set(points.values()) == {1}
    same_search(lab, alone)
