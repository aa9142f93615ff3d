"""Pairs out of a model's own answers: sampled, scored by a verifier, and written for `dpo`."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chats import write_chats
from conftest import WORDS

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.dpo import Asked as DpoAsked
from windtunnel.family.dpo import dpo
from windtunnel.family.pairs import VERIFIERS, Asked, pairs, verifier
from windtunnel.family.sft import Asked as SftAsked
from windtunnel.family.sft import sft
from windtunnel.recipe import Recipe
from windtunnel.train.loop import train
from windtunnel.train.run import Run, create

BATCH = 128


@pytest.fixture(scope="module")
def tuned(make_lab: Any, stem: Callable[..., Recipe], corpus: Corpus) -> tuple[Any, Run]:
    """A run that was taught to say a word twice, and has half learnt it."""
    lab = make_lab()
    parent = create(lab.path, stem(20 * BATCH), corpus)
    train(parent, corpus)
    data = write_chats(lab.path.parent / "chats.jsonl")
    run, chats = sft(parent, [data], SftAsked(lr=0.01, tokens=60 * BATCH, name="tuned"))
    train(run, chats)
    return lab, run


def write_questions(lab: Any, count: int = 30) -> Path:
    file = lab.path.parent / "questions.jsonl"
    records = [
        {"prompt": f"{first} {second}?", "answer": f"{first} {first}"}
        for first, second in pairwise(WORDS[: count + 1])
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file


def first_letter(record: dict[str, Any], answer: str) -> float:
    """A score of a test's own: whether it begins as the right answer does."""
    return float(answer[:1] == record["answer"][:1])


def test_pairs_are_better_and_worse_answers(tuned: tuple[Any, Run], tmp_path: Path) -> None:
    lab, run = tuned
    asked = Asked(score=f"{__name__}:first_letter", answers=6, most=10)
    sys.modules[__name__] = sys.modules.get(__name__) or sys.modules["test_pairs"]
    found = pairs(run, [write_questions(lab)], tmp_path / "own.jsonl", asked)
    lines = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert (found.questions, found.answers) == (30, 180) and 0 < found.pairs == len(lines) <= 30
    assert 0 < found.mean_score < 1 and found.solved >= found.pairs / 30
    for line in lines:
        right = line["prompt"][0]["content"][0]
        assert line["scores"] == [1.0, 0.0]
        assert line["chosen"][0] == right != line["rejected"][:1]

    again = pairs(run, [write_questions(lab)], tmp_path / "again.jsonl", asked)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "own.jsonl").read_bytes()
    assert again.pairs == found.pairs
    (learnt,), corpus = dpo(run, [tmp_path / "own.jsonl"], DpoAsked(lrs=(1e-3,), name="own"))
    assert train(learnt, corpus).status == "done"


def test_by_the_command_line(tuned: tuple[Any, Run], tmp_path: Path) -> None:
    lab, run = tuned
    out = tmp_path / "own.jsonl"
    questions = write_questions(lab)
    said = lab.json("pairs", run.id, "--prompts", questions, "--score", "exact", "--out", out)
    assert said["run"] == run.id and said["questions"] == 30 and said["answers"] == 240
    assert len(out.read_text().splitlines()) == said["pairs"]


@pytest.mark.parametrize(
    ("name", "answer", "given", "score"),
    [
        ("exact", "ab", " ab\n", 1),
        ("exact", "ab", "abc", 0),
        ("exact", 7, "7", 1),
        ("number", "1200", "It is 1,200.", 1),
        ("number", "12", "12 apples and 13", 0),
        ("number", "-3", "so -3", 1),
        ("number", "3", "none", 0),
    ],
)
def test_verifiers(name: str, answer: object, given: str, score: float) -> None:
    assert VERIFIERS[name].score({"answer": answer}, given) == score


class TestBadInput:
    def test_a_verifier_that_is_none(self) -> None:
        with pytest.raises(InputError, match=r"--score exat: expected one of exact, number; did"):
            verifier("exat")
        with pytest.raises(InputError, match=r"--score nowhere:f: No module named 'nowhere'"):
            verifier("nowhere:f")
        with pytest.raises(InputError, match=r"has no attribute 'nothing'"):
            verifier("json:nothing")

    @pytest.mark.parametrize(
        ("record", "why"),
        [
            ({"text": "a"}, "line 1: expected an object with 'prompt' or 'question'"),
            ({"prompt": [{"role": "assistant", "content": "a"}]}, "turns out of order"),
            ({"prompt": "word " * 200, "answer": "a"}, "tokens; .* sees 32 at most"),
            ({"prompt": "a"}, "a prompt has no 'answer'"),
        ],
    )
    def test_a_question_that_is_none(
        self, record: dict[str, Any], why: str, tuned: tuple[Any, Run], tmp_path: Path
    ) -> None:
        file = tmp_path / "bad.jsonl"
        file.write_text(json.dumps(record))
        with pytest.raises(InputError, match=why):
            pairs(tuned[1], [file], tmp_path / "out.jsonl", Asked(score="exact", answers=2))
        assert not (tmp_path / "out.jsonl").exists()

    @pytest.mark.parametrize("value", ["yes", None, float("nan")])
    def test_a_score_that_is_no_number(
        self, value: object, tuned: tuple[Any, Run], tmp_path: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("json.tool.given", lambda record, answer: value, raising=False)
        asked = Asked(score="json.tool:given", answers=2, most=2)
        with pytest.raises(InputError, match="expected a number, true or false"):
            pairs(tuned[1], [write_questions(tuned[0])], tmp_path / "out.jsonl", asked)

    def test_a_function_that_fails(
        self, tuned: tuple[Any, Run], tmp_path: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("json.tool.given", lambda record, answer: 1 / 0, raising=False)
        asked = Asked(score="json.tool:given", answers=2, most=2)
        with pytest.raises(InputError, match="ZeroDivisionError: division by zero"):
            pairs(tuned[1], [write_questions(tuned[0])], tmp_path / "out.jsonl", asked)
