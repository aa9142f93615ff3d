"""Runs are folders addressed by what they compute."""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.recipe import Recipe, dump
from windtunnel.results.run import Engine, StepLine
from windtunnel.train import run as run_module
from windtunnel.train.run import Run, create, find_run, list_runs, open_run, read_runs

Make = Callable[..., Recipe]
BATCH = 128


def step_line(tokens: int) -> str:
    return StepLine(
        tokens=tokens, loss=1.0, lr=0.01, grad_norm=1.0, tokens_per_s=1, peak_share=0.1
    ).to_json()


def at(run: Run, status: Any, tokens: int) -> Run:
    run.write_status(status, tokens)
    return run


def test_asked_for_twice_a_run_is_the_same_folder(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    first, second = (
        create(tmp_path, recipe(), corpus),
        create(tmp_path, recipe(name="another name"), corpus),
    )
    assert first.path == second.path and second.recipe.name == "tiny"
    assert create(tmp_path, recipe(seed=1), corpus).path != first.path
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == sorted(
        r.id for r in list_runs(tmp_path)
    )


def test_a_new_run_is_not_begun(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    summary = create(tmp_path, recipe(), corpus).summary()
    assert (summary.status, summary.tokens, summary.loss) == ("interrupted", 0, None)
    assert (summary.kind, summary.parent, summary.at_tokens) == ("run", None, None)


def test_a_recipe_that_the_corpus_does_not_fit_leaves_nothing(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    for wrong in (recipe(model={"vocab": 512}), recipe(data={"mixture": {"prsoe": 1}})):
        with pytest.raises(InputError):
            create(tmp_path, wrong, corpus)
    assert not list(tmp_path.iterdir())


def named(run: Run, name: str) -> Run:
    """The run, under another name."""
    write_whole(run.path / "recipe.toml", dump(run.recipe.change(name=name)))
    return open_run(run.path)


def test_a_name_is_never_taken_for_the_beginning_of_an_id(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    runs = [create(tmp_path, recipe(seed=seed), corpus) for seed in range(3)]
    first, second, third = runs
    named(second, first.id[:1])
    named(third, first.id[:5])
    assert find_run(tmp_path, first.id[:1]).id == second.id
    assert find_run(tmp_path, first.id[:5]).id == third.id
    assert find_run(tmp_path, first.id[:4]).id == find_run(tmp_path, first.id[:6]).id == first.id
    # and an id is itself, whatever is called so
    named(second, first.id)
    assert find_run(tmp_path, first.id).id == first.id


def test_few_digits_and_digits_of_several_runs_stand_for_none(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    one = create(tmp_path, recipe(), corpus)
    for count in (1, 3):
        with pytest.raises(InputError, match="at least 4 digits"):
            find_run(tmp_path, one.id[:count])
    twin = one.path.with_name(one.id[:4] + "00000000")
    shutil.copytree(one.path, twin)
    with pytest.raises(InputError, match=f"2 runs of .* such an id: .*{twin.name}") as refused:
        find_run(tmp_path, one.id[:4])
    assert one.id in str(refused.value)
    assert find_run(tmp_path, one.id) == one


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.toml", 'name = "K\u00e4se"'.encode("latin-1")),
        ("run.json", b"{"),
        ("status.json", b"\xff"),
        ("run.json", None),
    ],
)
def test_a_run_that_cannot_be_read_hides_no_other(
    tmp_path: Path, recipe: Make, corpus: Corpus, file: str, content: bytes | None
) -> None:
    bad = create(tmp_path, recipe(name="bad", seed=1), corpus)
    good = create(tmp_path, recipe(name="good"), corpus)
    (bad.path / file).unlink()
    if content is not None:
        (bad.path / file).write_bytes(content)
    found = read_runs(tmp_path)
    assert found.runs == list_runs(tmp_path) == [good]
    assert list(found.unreadable) == [bad.id] and file in found.unreadable[bad.id]
    assert find_run(tmp_path, "good") == good
    with pytest.raises(InputError, match=file):
        find_run(tmp_path, bad.id[:4])
    with pytest.raises(InputError, match="1 of its runs cannot be read"):
        find_run(tmp_path, "bad")


def test_looking_at_a_run_writes_nothing(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    """A lab may lie where nothing can be written."""
    run = at(create(tmp_path, recipe(), corpus), "running", BATCH)
    before = sorted(run.path.iterdir())
    assert run.status().status == "interrupted" and list_runs(tmp_path) == [run]
    with run.lock():
        pass
    (run.path / "lock").chmod(0o444)
    assert run.status().status == "interrupted"
    assert sorted(run.path.iterdir()) == sorted([*before, run.path / "lock"])


def test_a_run_is_found_by_the_start_of_its_id_its_name_or_its_path(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    one, two = (
        create(tmp_path, recipe(name="one"), corpus),
        create(tmp_path, recipe(name="two", seed=1), corpus),
    )
    assert [find_run(tmp_path, ref).id for ref in (one.id, one.id[:6], "one", str(one.path))] == [
        one.id
    ] * 4
    assert find_run(tmp_path, "two") == two
    with pytest.raises(InputError, match="did you mean 'one'"):
        find_run(tmp_path, "onee")
    create(tmp_path, recipe(name="two", seed=2), corpus)
    with pytest.raises(InputError, match="2 runs of"):
        find_run(tmp_path, "two")
    with pytest.raises(InputError, match="no run"):
        find_run(tmp_path / "empty", "one")


def test_a_lab_whose_path_is_not_utf8_is_refused_before_a_run_is_made(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """safetensors could not read its checkpoints again."""
    with pytest.raises(InputError, match=r"l\\xe4b/runs/.*: this path is not UTF-8 here"):
        create(tmp_path / os.fsdecode(b"l\xe4b"), recipe(), corpus)
    assert not list(tmp_path.iterdir())
    assert create(tmp_path / "l\u00e4b", recipe(), corpus).path.exists()


def test_runs_are_listed_oldest_first(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    made = []
    for seed in range(6):
        made.append(create(tmp_path, recipe(seed=seed), corpus).id)
        time.sleep(0.01)
    assert [run.id for run in list_runs(tmp_path)] == made


def test_a_stem_that_is_asked_for_more_is_interrupted_and_for_less_done(
    tmp_path: Path, stem: Make, corpus: Corpus
) -> None:
    run = at(create(tmp_path, stem(20 * BATCH), corpus), "done", 20 * BATCH)
    assert run.status().status == "done"
    longer = create(tmp_path, stem(40 * BATCH), corpus)
    assert longer.path == run.path and longer.recipe.total_tokens == 40 * BATCH
    assert longer.status().status == "interrupted"
    assert create(tmp_path, stem(10 * BATCH), corpus).recipe.total_tokens == 40 * BATCH


def test_a_run_that_nobody_trains_is_interrupted(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    run = at(create(tmp_path, recipe(), corpus), "running", BATCH)
    assert run.status().status == "interrupted"
    with run.lock():
        assert run.status().status == "running"
        with pytest.raises(InputError, match="another process"), run.lock():
            pass
    assert run.status().status == "interrupted"


def test_who_waited_for_a_run_that_was_removed_has_no_run(
    tmp_path: Path, recipe: Make, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would train in a folder that is gone."""
    run = create(tmp_path, recipe(), corpus)
    takes = run_module._locked

    def taken_late(file: Any, kind: int) -> bool:
        run.path.rename(tmp_path / "gone")
        return takes(file, kind)

    monkeypatch.setattr(run_module, "_locked", taken_late)
    for _ in range(2):  # the second time there is not even the folder
        with pytest.raises(InputError, match="no such run any more: it was removed"), run.lock():
            pass


def test_a_lock_that_cannot_be_written_is_named(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    run = create(tmp_path, recipe(), corpus)
    (run.path / "lock").mkdir()
    with pytest.raises(InputError, match="lock: could not be written: Is a directory"), run.lock():
        pass


def test_waiting_for_a_process_that_has_died_ends_at_once() -> None:
    died = multiprocessing.get_context("fork").Process(target=os._exit, args=(3,))
    died.start()
    with pytest.raises(AssertionError, match="it ended before, with 3"):
        wait_until(lambda: False, died)


def look_at(path: Path, stop: Any, looks: Any) -> None:
    run = open_run(path)
    while not stop.is_set():
        run.status()
        looks.value += 1


def test_looking_at_a_run_does_not_keep_it_from_being_trained(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """Somebody lists the runs all the time while one that was killed is taken up again, many
    times over.
    """
    run = at(create(tmp_path, recipe(), corpus), "running", BATCH)
    context = multiprocessing.get_context("spawn")
    stop, looks = context.Event(), context.Value("i", 0)
    looker = context.Process(target=look_at, args=(run.path, stop, looks))
    looker.start()

    def looked_while_it_was_taken_up() -> bool:
        with run.lock():
            pass
        return looks.value > 5000

    try:
        wait_until(looked_while_it_was_taken_up, looker, every=0.001)
    finally:
        stop.set()
        looker.join()


def test_metrics_leave_out_a_line_that_was_cut(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    run = create(tmp_path, recipe(), corpus)
    lines = [step_line(BATCH * step) for step in (1, 2, 3)]
    (run.path / "metrics.jsonl").write_text("\n".join([*lines, '{"tokens": 5']))
    assert [step.tokens for step in run.steps()] == [128, 256, 384]
    run.keep_metrics_until(2 * BATCH)
    assert (run.path / "metrics.jsonl").read_text() == "\n".join([*lines[:2], ""])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.json", '{"id": "a", "kind": "member", "parent": null, "at_tokens": null}', "kind: "),
        ("run.json", "", "damaged: "),
        ("status.json", '{"status": "running"}', "tokens: missing"),
        ("status.json", '{"status": "gone", "tokens": 0}', "status: .*'gone'"),
        ("engine.json", '{"device": "cpu"}', "precision: missing"),
        ("metrics.jsonl", step_line(128) + '\n{"tokens": 256}\n', "loss: missing"),
        ("metrics.jsonl", "{\n", "damaged: "),
        ("metrics.jsonl", '{"tokens": 1, "validation": {"loss": 1}}\n', "validation.bits_per_byte"),
    ],
)
def test_a_damaged_file_is_refused_by_its_field(
    tmp_path: Path, recipe: Make, corpus: Corpus, file: str, content: str, says: str
) -> None:
    run = create(tmp_path, recipe(), corpus)
    (run.path / file).write_text(content)
    line = r", line \d" if file == "metrics.jsonl" else ""
    with pytest.raises(InputError, match=f"{file}{line}: {says}"):
        open_run(run.path).summary()
        run.begun_on()
        run.steps()
        run.validations()


def test_files_of_the_first_release_are_read(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    """Keys that it did not write have their defaults, and a loss may be no number."""
    run = create(tmp_path, recipe(), corpus)
    score = '{"loss": NaN, "bits_per_byte": NaN, "tokens": 64'
    files = {
        "run.json": f'{{"id": "{run.id}", "kind": "run", "parent": null, "at_tokens": null, '
        f'"corpus": "{corpus.digest}"}}',
        "status.json": '{"status": "failed", "tokens": 128, "loss": NaN, "reason": "loss nan"}',
        "engine.json": '{"device": "cpu", "precision": "fp32", "compiled": false, '
        '"micro_batch": 128, "threads": 1}',
        "metrics.jsonl": f'{{"tokens": 128, "validation": {score}, "sources": {{}}}}}}\n',
    }
    for name, content in files.items():
        (run.path / name).write_text(content)
    opened = open_run(run.path)
    assert (opened.anew, opened.origin) == (False, None)
    assert opened.status().reason == "loss nan" and opened.status().loss is None
    assert json.loads(opened.summary().to_json())["loss"] is None
    assert opened.begun_on() == Engine(
        device="cpu", precision="fp32", compiled=False, micro_batch=128, threads=1
    )
    assert math.isnan(opened.validations()[0].validation.loss)


def test_runs_are_read_without_torch() -> None:
    """A plan's audit and `windtunnel runs` start at once."""
    code = "import sys, windtunnel.train.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
