"""Which runs of a lab may go, and that one goes whole or not at all."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from many_runs import fill

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.train import remove
from windtunnel.train.remove import finish, leaves_first, remove_run, size_of, who_names
from windtunnel.train.run import Busy, Run, create, list_runs, open_run

# by `fill`: stems 0 and 4, and three branches behind each
STEM, BRANCHES = f"{0:012x}", [f"{number:012x}" for number in (1, 2, 3)]
OTHERS = {f"{number:012x}" for number in (4, 5, 6, 7)}


@pytest.fixture
def lab(lab: Any, stem: Callable[..., Recipe]) -> Path:
    """With two stems and the branches of each, which nothing names."""
    made = create(lab.path, stem(6400), Corpus.open(lab.path / "corpora" / "tiny"))
    fill(lab.path, made, 8)
    return lab.path


def unused(lab: Path) -> set[str]:
    there = list_runs(lab)
    return who_names(lab, there).unused([run.id for run in there])


def test_what_nothing_names_may_go(lab: Path) -> None:
    assert unused(lab) == {STEM, *BRANCHES, *OTHERS}


@pytest.mark.parametrize(
    "file",
    [
        "studies/scaling/result.json",
        "studies/mine/table.csv",
        "studies/search/optuna.db",
        "plans/tour/plan.json",
        "forecasts.jsonl",
        "scores/0123456789ab.json",
        "exports/tiny/README.md",
    ],
)
def test_what_a_file_of_the_lab_names_stays_and_what_it_begins_from(lab: Path, file: str) -> None:
    (lab / file).parent.mkdir(parents=True, exist_ok=True)
    (lab / file).write_bytes(b'\x00"' + BRANCHES[0].encode() + b'",\xff')
    assert unused(lab) == {*BRANCHES[1:], *OTHERS}
    who = who_names(lab, list_runs(lab))
    assert who.keeps(BRANCHES[0], {BRANCHES[0]}) == f"{file} names it"
    without = who_names(lab, list_runs(lab), without=(lab / file).parent)
    assert (BRANCHES[0] in without.files) == (file == "forecasts.jsonl")


def test_a_run_is_named_by_the_id_that_it_has_today_too(lab: Path) -> None:
    run = open_run(lab / "runs" / BRANCHES[0])
    assert run.present_id != run.id
    (lab / "forecasts.jsonl").write_text(f'{{"run": "{run.present_id}"}}')
    assert unused(lab) == {*BRANCHES[1:], *OTHERS}


def test_a_run_stays_for_those_that_begin_from_it(lab: Path) -> None:
    who = who_names(lab, list_runs(lab))
    assert who.keeps(STEM, {STEM, *BRANCHES}) is None
    assert who.keeps(STEM, {STEM, *BRANCHES[:2]}) == (
        f"{BRANCHES[2]} begins from it; name those too, if they are to go"
    )
    said = who.keeps(STEM, {STEM})
    assert said and said.startswith(f"{BRANCHES[0]} and 2 more begin from it")


def test_the_reference_of_a_run_that_stays_stays(lab: Path) -> None:
    """And so does what a damaged run begins from."""
    recipe = lab / "runs" / min(OTHERS) / "recipe.toml"
    recipe.write_text(f'preference.reference = "{BRANCHES[1]}"\n')
    there = list_runs(lab)
    assert min(OTHERS) not in {run.id for run in there}
    assert unused(lab) == {BRANCHES[0], BRANCHES[2], *sorted(OTHERS)[1:]}


def test_branches_go_before_their_stem(lab: Path) -> None:
    there = list_runs(lab)
    for given in (there, there[::-1]):
        order = [run.id for run in leaves_first(given, who_names(lab, there))]
        assert sorted(order) == sorted(run.id for run in there)
        assert max(map(order.index, BRANCHES)) < order.index(STEM)


@pytest.fixture
def run(lab: Path) -> Iterator[Run]:
    yield open_run(lab / "runs" / BRANCHES[0])


def test_a_run_that_is_removed_is_gone(lab: Path, run: Run) -> None:
    assert size_of(run.path) == sum(file.stat().st_size for file in run.path.iterdir())
    remove_run(run)
    assert sorted(path.name for path in (lab / "runs").iterdir()) == [
        STEM,
        *BRANCHES[1:],
        *sorted(OTHERS),
    ]


def test_one_whose_removal_was_killed_is_no_run_and_is_deleted_by_the_next(
    lab: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        (folder / "recipe.toml").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remove.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_run(run)
    assert run.id not in {one.id for one in list_runs(lab)}
    (left,) = (lab / "runs").glob(".*")
    finish(lab)
    assert not left.exists() and len(list_runs(lab)) == 7


def test_one_that_is_trained_stays(run: Run) -> None:
    with run.lock(), pytest.raises(Busy):
        remove_run(run)
    lease = run.own()
    assert lease
    with pytest.raises(Busy):
        remove_run(run)
    assert run.path.exists()
