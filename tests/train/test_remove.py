"""Which runs of a lab may go, and that one goes whole or not at all."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from many_runs import fill

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.train import remove
from windtunnel.train.remove import (
    BegunFrom,
    NamedIn,
    finish,
    leaves_first,
    named_in,
    remove_run,
    remove_study,
    size_of,
    who_names,
)
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
    assert who.keeps(BRANCHES[0], {BRANCHES[0]}) == NamedIn(file=Path(file))
    without = who_names(lab, list_runs(lab), without=(lab / file).parent)
    assert (BRANCHES[0] in without.files) == (file == "forecasts.jsonl")


def test_a_run_is_named_by_the_id_that_it_has_today_too(lab: Path) -> None:
    run = open_run(lab / "runs" / BRANCHES[0])
    assert run.present_id != run.id
    (lab / "forecasts.jsonl").write_text(f'{{"run": "{run.present_id}"}}')
    assert unused(lab) == {*BRANCHES[1:], *OTHERS}


def test_a_study_that_is_a_link_names_runs(lab: Path, tmp_path: Path) -> None:
    """Even where links lead around in a circle."""
    there = tmp_path / "elsewhere" / "deeper"
    there.mkdir(parents=True)
    (there / "result.json").write_text(BRANCHES[0])
    studies = lab / "studies"
    studies.mkdir()
    (studies / "mine").symlink_to(there.parent)
    (there / "back").symlink_to(studies)
    (studies / "itself").symlink_to("itself")
    assert unused(lab) == {*BRANCHES[1:], *OTHERS}
    assert named_in(studies / "mine", list_runs(lab)) == {BRANCHES[0]}


def test_an_id_behind_other_hex_digits_is_seen(lab: Path) -> None:
    (lab / "forecasts.jsonl").write_text(f"abc{BRANCHES[0]}{BRANCHES[1]}")
    assert unused(lab) == {BRANCHES[2], *OTHERS}


def test_a_name_that_two_runs_have_keeps_both(lab: Path) -> None:
    """What an earlier release made, and what asking for it gave later."""
    old = open_run(lab / "runs" / BRANCHES[0])
    newer = lab / "runs" / BRANCHES[1]
    newer.rename(newer.with_name(old.present_id))
    (lab / "forecasts.jsonl").write_text(old.present_id)
    there = list_runs(lab)
    for runs in (there, there[::-1]):
        who = who_names(lab, runs)
        assert set(who.files) == {old.id, old.present_id}
        assert old.id not in who.runs


def test_what_is_no_folder_hinders_nothing(lab: Path) -> None:
    (lab / "runs" / "notes.txt").write_text("mine")
    (lab / "runs" / ".notes.removed").write_text("mine")
    (lab / "plans").write_text("mine")
    assert unused(lab) == {STEM, *BRANCHES, *OTHERS}
    finish(lab)
    assert (lab / "runs" / ".notes.removed").exists()


def test_an_evaluated_run_is_in_use(lab: Path) -> None:
    (lab / "runs" / BRANCHES[0] / "evaluations").mkdir()
    assert unused(lab) == {*BRANCHES[1:], *OTHERS}
    assert who_names(lab, list_runs(lab)).keeps(BRANCHES[0], {BRANCHES[0]}) is None


def test_a_folder_that_cannot_be_read_might_name_any(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="studies: could not be read: Permission denied"):
        named_in(lab / "studies", [])


def test_a_run_stays_for_those_that_begin_from_it(lab: Path) -> None:
    who = who_names(lab, list_runs(lab))
    assert who.keeps(STEM, {STEM, *BRANCHES}) is None
    assert who.keeps(STEM, {STEM, *BRANCHES[:2]}) == BegunFrom(runs=BRANCHES[2:])
    assert who.keeps(STEM, {STEM}) == BegunFrom(runs=BRANCHES)


def test_why_a_run_stays_in_words() -> None:
    assert str(BegunFrom(runs=["a"])) == "a begins from it; name those too, if they are to go"
    assert str(BegunFrom(runs=["a", "b", "c"])).startswith("a and 2 more begin from it; ")
    result, plan = (NamedIn(file=Path(name, "mine", "x.json")) for name in ("studies", "plans"))
    assert (str(result), result.study) == ("studies/mine/x.json names it", "mine")
    assert (plan.study, NamedIn(file=Path("studies", "notes.md")).study) == (None, None)


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


@pytest.mark.parametrize("there", [True, False])
def test_of_a_run_that_is_a_link_the_link_goes(lab: Path, tmp_path: Path, there: bool) -> None:
    """And one that was left on its way out hinders no later removal."""
    path, moved = lab / "runs" / BRANCHES[0], tmp_path / "moved"
    path.rename(moved)
    path.symlink_to(moved)
    (run,) = [one for one in list_runs(lab) if one.id == BRANCHES[0]]
    assert size_of(run.path) == 0
    (lab / "runs" / f".{run.id}.removed").symlink_to(moved if there else tmp_path / "gone")
    (lab / "runs" / ".other.removed").symlink_to(moved)
    remove_run(run)
    finish(lab)
    assert moved.exists() and not list((lab / "runs").glob(".*"))
    assert not os.path.lexists(path)


def test_what_cannot_be_removed_is_told_with_a_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError("not now")

    monkeypatch.setattr(remove.shutil, "rmtree", refuse)
    with pytest.raises(InputError, match="could not be removed: not now"):
        remove_run(run)


@pytest.mark.parametrize("link", [True, False])
def test_a_study_goes_from_a_lab_without_runs(tmp_path: Path, link: bool) -> None:
    there = tmp_path / "elsewhere"
    study = tmp_path / "lab" / "studies" / "mine"
    study.parent.mkdir(parents=True)
    (there if link else study).mkdir()
    if link:
        study.symlink_to(there)
    remove_study(study)
    assert not os.path.lexists(study) and there.exists() == link


def test_a_study_whose_removal_was_killed_names_nothing(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = lab / "studies" / "mine"
    study.mkdir(parents=True)
    (study / "result.json").write_text(BRANCHES[0])
    with monkeypatch.context() as patch:
        patch.setattr(remove.shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove_study(study)
    assert BRANCHES[0] in unused(lab)
    finish(lab)
    assert not list((lab / "studies").iterdir())


def test_one_that_is_trained_stays(run: Run) -> None:
    with run.lock(), pytest.raises(Busy):
        remove_run(run)
    lease = run.own()
    assert lease
    with pytest.raises(Busy):
        remove_run(run)
    assert run.path.exists()
