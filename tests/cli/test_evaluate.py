"""`windtunnel evaluate`: what it prints, what it keeps, and what it says to bad input."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from windtunnel.cli import main
from windtunnel.results.evaluation import Evaluations, read_evaluations
from windtunnel.ship import card
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.subject import Subject
from windtunnel.train.run import open_run

pytest.importorskip("lm_eval")
WORDS = ("wind", "sand", "tursel", "lorral", "gemna", "sarr")


@pytest.fixture(scope="module")
def trained(make_lab: Any, recipe: Any) -> Any:
    lab = make_lab()
    read = {"evaluate_tokens": 1024}  # enough to be held against whole documents
    for seed in (0, 1):
        lab.train(recipe(name=f"tiny{seed}", seed=seed, data={"context": 64}, train=read))
    return lab


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    records = [
        {"question": draw.choice(WORDS), "choices": draw.sample(WORDS, 3), "answer": at % 3}
        for at in range(20)
    ]
    file = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def said(capsys: pytest.CaptureFixture[str], lab: Any, *arguments: object) -> Evaluations:
    """What the command prints with --json, in this process: its imports are slow."""
    with pytest.MonkeyPatch.context() as patch:
        given = ["windtunnel", "evaluate", *map(str, arguments), "--lab", str(lab.path), "--json"]
        patch.setattr("sys.argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return Evaluations.parse(out, "the output")


def refused(capsys: pytest.CaptureFixture[str], lab: Any, *arguments: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        given = ["windtunnel", "evaluate", *map(str, arguments), "--lab", str(lab.path)]
        patch.setattr("sys.argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one]
    return line


def test_without_more_it_is_bits_per_byte_of_each_source(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, trained, "tiny0").evaluations
    assert {one.task for one in found} == {"tiny/prose", "tiny/code", "tiny/notes"}
    run = next(run for run in (trained.path / "runs").iterdir() if run.name == found[0].model)
    recorded = open_run(run).validations()[-1].validation
    for one in found:
        (measure,) = one.measures
        score = recorded.sources[one.task.partition("/")[2]]
        # documents by themselves, not windows end to end: the beginning of each is harder
        assert measure.value == pytest.approx(score.bits_per_byte, rel=0.1)
        assert measure.stderr and measure.stderr < measure.value / 10


def test_scores_stand_in_the_run_the_report_and_the_card_and_are_not_made_twice(
    trained: Any,
    questions: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first,) = said(capsys, trained, "tiny0", "--task", questions).evaluations
    assert [one.metric for one in first.measures] == ["acc", "acc_norm", "acc_bytes"]
    assert len(first.items) == 20 and all(one.stderr for one in first.measures)
    run = open_run(trained.path / "runs" / first.model)
    assert first in read_evaluations(run.path, first.tokens)
    assert read_evaluations(run.path, tokens=1) == []
    assert f"| questions | 0 shots | acc | {first.measures[0].value:.4f}" in card.card(
        Subject.of(run), LAYOUTS["hf"], "fp32", _agreement()
    )
    trained.run("report")
    assert "questions" in (trained.path / "report.html").read_text()
    monkeypatch.setattr("windtunnel.evaluate.evaluation.evaluate_task", None)  # never called
    assert said(capsys, trained, "tiny0", "--task", questions).evaluations == [first]
    with pytest.raises(TypeError):
        said(capsys, trained, "tiny0", "--task", questions, "--anew")


def _agreement() -> Any:
    class Said:
        def __str__(self) -> str:
            return "It agrees"

    return Said()


def test_two_models_are_compared_on_the_same_items(
    trained: Any, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, trained, "tiny0", "tiny1", "--task", questions, "--corpus", "tiny")
    by_metric = {(one.task, one.metric): one for one in found.differences}
    accuracy, bits = by_metric["questions", "acc"], by_metric["tiny/prose", "bits_per_byte"]
    assert accuracy.items == 20 and accuracy.verdict == "no difference"
    assert abs(bits.difference) < 0.2 and bits.interval[0] < bits.difference < bits.interval[1]
    same = said(capsys, trained, "tiny0", "tiny0", "--task", questions)
    assert {one.verdict for one in same.differences} == {"no difference"}


def test_a_folder_and_a_gguf_file_score_as_the_run_does(
    trained: Any, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    (ours,) = said(capsys, trained, "tiny0", "--task", questions).evaluations
    portable = Subject.of(open_run(trained.path / "runs" / ours.model)).portable
    folder = tmp_path / "out"
    folder.mkdir()
    LAYOUTS["hf"].write(folder, portable, "fp32")
    file = LAYOUTS["gguf"].write(tmp_path, portable, "F32")
    (theirs,) = said(capsys, trained, folder, "--task", questions).evaluations
    (llamas,) = said(capsys, trained, file, "--task", questions).evaluations
    assert ours.items == theirs.items == llamas.items
    assert "llama.cpp" in llamas.engine
    for one, two, three in zip(ours.measures, theirs.measures, llamas.measures, strict=True):
        assert one.values == two.values == three.values


def test_a_gguf_file_generates_and_gives_bits_as_the_run_does(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    run = open_run(next((trained.path / "runs").iterdir()))
    file = LAYOUTS["gguf"].write(tmp_path, Subject.of(run).portable, "F32")
    answers = tmp_path / "answers.jsonl"
    records = [{"question": f"{word} {word}", "answer": word} for word in WORDS]
    answers.write_text("".join(json.dumps(record) + "\n" for record in records))
    text = tmp_path / "text.txt"
    text.write_text("winda lorral sarr\n" * 9)
    how = ("--task", answers, "--solutions", answers, "--text", f"verse={text}")
    ours = {one.task: one for one in said(capsys, trained, run.id, *how).evaluations}
    theirs = {one.task: one for one in said(capsys, trained, file, *how).evaluations}
    assert set(ours) == set(theirs) == {"answers", "answers.jsonl", "verse"}
    for task, one in ours.items():
        for mine, other in zip(one.measures, theirs[task].measures, strict=True):
            # of a text longer than the context, llama.cpp sees a token less at a time
            assert mine.value == pytest.approx(other.value, rel=2e-2 if task == "verse" else 1e-3)


def test_questions_may_be_put_by_the_chat_template(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.jsonl"
    records = [{"question": word, "answer": word} for word in WORDS]
    answers.write_text("".join(json.dumps(record) + "\n" for record in records))
    how = ("--task", answers, "--solutions", answers)
    plain = said(capsys, trained, "tiny0", *how).evaluations
    chat = said(capsys, trained, "tiny0", *how, "--chat").evaluations
    assert all("chat" in one.settings for one in chat)
    # the same answers, after other words
    assert plain[0].items == chat[0].items
    assert plain[0].measures[0].value != chat[0].measures[0].value


def test_items_that_were_read_in_training_are_found(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from windtunnel.evaluate.bits import _documents
    from windtunnel.train.run import find_run, open_corpus

    run = find_run(trained.path, "tiny0")
    corpus = open_corpus(run.lab, run.recipe)
    prose = corpus.sources["prose"]
    seen = next(iter(_documents(corpus, prose.train)))
    unseen = next(iter(_documents(corpus, prose.validation)))
    records = [{"question": seen, "answer": "x"}, {"question": unseen, "answer": "x"}]
    records.append({"question": "too short", "answer": "x"})
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    how = ("--task", file, "--contamination")
    found = {one.source: one for one in said(capsys, trained, run.id, *how).overlaps}
    assert set(found) == {"tiny/prose", "tiny/code", "tiny/notes"}
    assert found["tiny/prose"].items == 2 and found["tiny/prose"].touched == 1
    assert 0.3 < found["tiny/prose"].share < 0.6
    assert found["tiny/code"].touched == 0 and found["tiny/code"].share == 0


def test_scores_of_runs_of_one_corpus_are_kept_for_plans(
    trained: Any,
    recipe: Any,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from windtunnel.results.scores import read_scores
    from windtunnel.train.run import find_run

    names = ["tiny0", "tiny1", "other2", "other3"]
    for seed in (2, 3):
        trained.train(recipe(name=f"other{seed}", seed=seed, data={"context": 64}))
    solutions = tmp_path / "answers.jsonl"
    solutions.write_text(json.dumps({"question": "winda", "answer": "lorral"}) + "\n")
    how = ("--task", questions, "--solutions", solutions, "--law", 2, "--chance", 0.3)
    found = said(capsys, trained, *names, *how)
    assert [one.task for one in found.laws] == ["questions"]
    (kept,) = found.scores
    assert read_scores(trained.path, "tiny") == [kept] and read_scores(trained.path, "web") == []
    for named, run, one in zip(names, kept.runs, found.evaluations[1::2], strict=True):
        assert run.run == find_run(trained.path, named).id
        assert run.loss == find_run(trained.path, named).validations()[-1].validation.loss
        assert (run.score, run.tokens) == (one.measures[0].value, one.tokens)
    # where a run was not validated, nothing is known of its loss
    metrics = find_run(trained.path, "other3").path / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines() if "validation" not in line]
    metrics.write_text("".join(line + "\n" for line in lines))
    assert said(capsys, trained, *names, *how).scores == []


@pytest.mark.slow  # lm-eval lists its thousands of tasks
def test_a_suite_says_in_a_line_what_it_has_no_data_for(
    trained: Any, tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(questions, tmp_path / "mmlu.jsonl")
    how = ("--suite", "minicpm", "--data", tmp_path, "--limit", 6, "--shots", 1)
    rows = {one.name: one for one in said(capsys, trained, "tiny0", *how).suite}
    assert len(rows) == 11 and rows["MMLU"].paper["MiniCPM-2.4B"] == 53.46
    assert rows["MMLU"].value is not None and rows["MMLU"].stderr is not None
    missing = [row for row in rows.values() if row.value is None]
    assert len(missing) == 10 and all(row.why and "\n" not in row.why for row in missing)
    assert "--download" in rows["HellaSwag"].why


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nobody", "--corpus", "tiny"], "no run of"),
        (["tiny0", "--task", "nothere.jsonl=x.jsonl"], "no file x.jsonl"),
        (["tiny0", "--task", "{empty}"], "no record found"),
        (["tiny0", "--task", "{odd}"], "a record of no known shape (colour)"),
        (["tiny0", "--task", "{mixed}"], "mixed.jsonl line 2: expected choices"),
        (["tiny0", "--solutions", "{blank}"], "the answer is empty"),
        (["tiny0", "--solutions", "{odd}"], "line 1: expected 'messages'"),
        (["tiny0", "--text", "nothere.txt"], "no such file"),
        (["tiny0", "--corpus", "nothere"], "nothere"),
        (["tiny0", "--data", "."], "no suite is asked for"),
        (["tiny0", "--suite", "gpt"], "expected minicpm"),
        (["tiny0", "--suite", "minicpm", "--data", "nothere"], "expected a folder"),
        (["tiny0", "--at", "5", "--corpus", "tiny"], "no checkpoint at 5"),
        (["nothere.gguf", "--corpus", "tiny"], "no such file"),
        (["nothere.gguf", "--corpus", "tiny", "--at", "5"], "is no run"),
        (["tiny0", "--corpus", "tiny", "--contamination"], "name a --task"),
        (["tiny0", "--task", "humaneval"], "give its problems as a file"),
    ],
)
def test_bad_input_is_one_line(
    trained: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    choice = {"question": "x", "choices": ["a", "b"], "answer": 0}
    held = {
        "empty": [],
        "odd": [{"colour": "red"}],
        "mixed": [choice, {"question": "x", "answer": "y"}],
        "blank": [{"question": "x", "answer": " "}],
    }
    names = {}
    for name, records in held.items():
        names[name] = tmp_path / f"{name}.jsonl"
        names[name].write_text("".join(json.dumps(record) + "\n" for record in records))
    given = [one.format(**names) for one in arguments]
    assert expected in refused(capsys, trained, *given)
