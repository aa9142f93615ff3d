"""Runs are folders addressed by what they compute."""

import json
import math
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.results.run import Engine, StepLine
from windtunnel.train.run import Run, create, find_run, list_runs, open_run

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


def look_at(path: Path, stop: Any) -> None:
    run = open_run(path)
    while not stop.is_set():
        run.status()


def test_looking_at_a_run_does_not_keep_it_from_being_trained(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """Somebody lists the runs all the time while one that was killed is taken up again, many
    times over.
    """
    run = at(create(tmp_path, recipe(), corpus), "running", BATCH)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    looker = context.Process(target=look_at, args=(run.path, stop))
    looker.start()
    try:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with run.lock():
                pass
            time.sleep(0.001)
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
