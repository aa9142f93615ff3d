"""Preferences become a corpus: read in every shape, two documents a record in one window, held out
by question.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from preferences import some_judged, some_pairs, write_lines

from windtunnel.data.chat_format import OURS
from windtunnel.data.formats import Malformed
from windtunnel.data.pairs import Judged, judged_of, judgements
from windtunnel.data.preferences import Wanted, build_preferences
from windtunnel.data.readers import Taken
from windtunnel.data.shards import NUMBER_BIT, Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import Answers, Data
from windtunnel.recipe.preference import CHOSEN, MISMATCHED, REJECTED

LONGEST = 32


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(tmp_path: Path, record: object, needs: Answers = "pairs") -> list[Judged | str]:
    """What a file of one record holds: records, or why there is none."""
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps(record))
    found: list[Judged | str] = []
    for one in judgements([file], needs):
        if isinstance(one, str):
            found.append(judged_of(one))
        elif not isinstance(one, Taken):
            assert isinstance(one, Malformed)
            found.append(one.why)
    return found


SAME: dict[str, Any] = {
    "texts": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "messages": {
        "prompt": [user("a")],
        "chosen": [assistant("b")],
        "rejected": [assistant("c")],
    },
    "UltraFeedback, binarised": {
        "prompt": "a",
        "chosen": [user("a"), assistant("b")],
        "rejected": [user("a"), assistant("c")],
        "score_chosen": 8.0,
        "messages": [],
    },
    "whole conversations": {
        "chosen": [user("a"), assistant("b")],
        "rejected": [user("a"), assistant("c")],
    },
    "ShareGPT's keys": {
        "prompt": [{"from": "human", "value": "a"}],
        "chosen": [{"from": "gpt", "value": "b"}],
        "rejected": [{"from": "gpt", "value": "c"}],
    },
    "parts": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "chosen": "b",
        "rejected": "c",
    },
}


class TestReading:
    @pytest.mark.parametrize("shape", SAME)
    def test_every_shape_gives_the_same(self, shape: str, tmp_path: Path) -> None:
        (found,) = read(tmp_path, SAME[shape])
        assert found == Judged(
            prompt=[user("a")],  # type: ignore[list-item]
            answers=[[assistant("b")], [assistant("c")]],  # type: ignore[list-item]
            good=True,
        )

    def test_earlier_turns_are_the_prompt(self, tmp_path: Path) -> None:
        before = [user("a"), assistant("b"), user("c")]
        record = {
            "chosen": [*before, assistant("d")],
            "rejected": [*before, assistant("e")],
        }
        (found,) = read(tmp_path, record)
        assert isinstance(found, Judged) and found.prompt == before

    def test_judged_answers_and_pairs_taken_apart(self, tmp_path: Path) -> None:
        single = {"prompt": "a", "completion": "b", "label": False}
        (found,) = read(tmp_path, single, "judged")
        assert isinstance(found, Judged) and not found.good and len(found.answers) == 1
        apart = read(tmp_path, SAME["texts"], "judged")
        assert [one.good for one in apart if isinstance(one, Judged)] == [True, False]

    @pytest.mark.parametrize(
        ("record", "why"),
        [
            ({"prompt": "a", "completion": "b", "label": "yes"}, "'label' is 'yes'"),
            ({"prompt": "", "completion": "b", "label": True}, "no 'prompt'"),
            ({"prompt": "a", "completion": "", "label": True}, "an answer of 'completion' is"),
            ({"prompt": [assistant("a")], "completion": "b", "label": True}, "turns out of order"),
        ],
    )
    def test_what_is_no_judged_answer(
        self, record: dict[str, Any], why: str, tmp_path: Path
    ) -> None:
        (found,) = read(tmp_path, record, "judged")
        assert isinstance(found, str) and why in found


def built(corpus: Corpus, folder: Path, records: list[dict[str, Any]], needs: Answers) -> Corpus:
    wanted = Wanted(
        data=[write_lines(folder / "records.jsonl", records)],
        tokenizer=corpus.folder / "tokenizer.json",
        longest=LONGEST,
        needs=needs,
    )
    return build_preferences(folder, wanted)


def documents(corpus: Corpus, split: str) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Tokens, which of them are learnt, and the role, of every document in order."""
    source = corpus.sources["preferences"]
    stream = source.train if split == "train" else source.validation
    windows = np.arange((stream.tokens - 1) // (2 * LONGEST)) * 2 * LONGEST
    rows = stream.marked(windows, 2 * LONGEST)
    plain = np.where(rows < 0, ~rows, rows)
    numbers, tokens = plain >> NUMBER_BIT, plain & ((1 << NUMBER_BIT) - 1)
    found = []
    for number in range(stream.documents):
        here = numbers == number
        assert len(np.unique(np.nonzero(here)[0])) == 1, "whole in one window"
        found.append((tokens[here], rows[here] >= 0, int(stream.roles[number])))
    return found


def test_two_answers_lie_behind_each_other_in_one_window(corpus: Corpus, tmp_path: Path) -> None:
    pairs = some_pairs(100)
    made = built(corpus, tmp_path, pairs, "pairs")
    assert made.holds == "preferences" and made.manifest.packing
    assert made.manifest.packing.context == 2 * LONGEST
    decode, expected = made.tokenizer.decode, set()
    for one in pairs:
        prompt = one["prompt"] if isinstance(one["prompt"], list) else [user(one["prompt"])]
        texts = []
        for key in ("chosen", "rejected"):
            ids, _ = OURS.render(made.tokenizer, [*prompt, assistant(one[key])])
            texts.append((decode(ids), one[key] + "<|end|>"))
        expected.add(tuple(texts))
    found = set()
    for split in ("train", "validation"):
        ones = documents(made, split)
        for first, second in zip(ones[::2], ones[1::2], strict=True):
            assert (first[2], second[2]) == (CHOSEN, REJECTED)
            texts = []
            for ids, learnt, _ in (first, second):
                # what fills up the window belongs to the last document, and is not learnt
                ends = np.flatnonzero(learnt)[-1] + 1
                texts.append((decode(ids[:ends]), decode(ids[learnt])))
            found.add(tuple(texts))
    assert found == expected, "an earlier answer of the prompt is not learnt"


def test_it_is_held_out_by_question(corpus: Corpus, tmp_path: Path) -> None:
    """Several pairs of one question lie on one side."""
    pairs = [
        {"prompt": f"{one['prompt']} {number}", "chosen": f"b{again}", "rejected": "c"}
        for number, one in enumerate(some_pairs(40))
        for again in range(4)
        if isinstance(one["prompt"], str)
    ]
    made = built(corpus, tmp_path, pairs, "pairs")
    asked = {}
    for split in ("train", "validation"):
        asked[split] = {
            made.tokenizer.decode(ids[: np.flatnonzero(learnt)[0]])
            for ids, learnt, _ in documents(made, split)
        }
    assert asked["train"] and asked["validation"] and not asked["train"] & asked["validation"]


def test_judged_answers_have_another_questions_answer_behind_them(
    corpus: Corpus, tmp_path: Path
) -> None:
    made = built(corpus, tmp_path, some_judged(60), "judged")
    for split in ("train", "validation"):
        ones = documents(made, split)
        matched, mismatched = ones[::2], ones[1::2]
        assert {role for _, _, role in matched} == {CHOSEN, REJECTED}
        assert {role for _, _, role in mismatched} == {MISMATCHED}

        def answer(one: tuple[np.ndarray, np.ndarray, int]) -> tuple[int, ...]:
            return tuple(one[0][one[1]].tolist())

        answers = {answer(one) for one in matched}
        for (own, learnt, _), other in zip(matched, mismatched, strict=True):
            opening = int(np.flatnonzero(learnt)[0])
            assert own[:opening].tolist() == other[0][:opening].tolist()
            assert answer(other) in answers


def test_a_mismatched_answer_is_never_to_the_same_question(corpus: Corpus, tmp_path: Path) -> None:
    records = []
    for number in range(40):
        for which in "ab":
            answer = f"{number} {which}"
            records.append({"prompt": f"{number}?", "completion": answer, "label": which == "a"})
    made = built(corpus, tmp_path, records, "judged")
    ones = documents(made, "train")
    for (own, learnt, _), (other, said, _) in zip(ones[::2], ones[1::2], strict=True):
        mine, theirs = made.tokenizer.decode(own[learnt]), made.tokenizer.decode(other[said])
        assert mine.split()[0] != theirs.split()[0]


def test_the_same_files_give_the_same_corpus(corpus: Corpus, tmp_path: Path) -> None:
    """Whatever the order of their lines; other settings give another."""
    pairs = some_pairs(100)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = built(corpus, tmp_path / "a", pairs, "pairs")
    again = built(corpus, tmp_path / "b", pairs[::-1], "pairs")
    assert first.digest == again.digest
    assert built(corpus, tmp_path / "a", pairs, "judged").digest != first.digest


def test_what_is_too_long_is_cut_or_left_out(corpus: Corpus, tmp_path: Path) -> None:
    """An answer beyond the longest is cut; a question that fills it leaves nothing to prefer, and
    so do two answers that part beyond it.
    """
    long = "wind " * 100
    records = [
        *some_pairs(50),
        {"prompt": "a", "chosen": f"b {long}", "rejected": "c"},
        {"prompt": long, "chosen": "b", "rejected": "c"},
        {"prompt": "d", "chosen": f"{long} b", "rejected": f"{long} c"},
    ]
    packing = built(corpus, tmp_path, records, "pairs").manifest.packing
    assert packing and (packing.cut, packing.dropped) == (1, 2)


def test_windows_are_a_pure_function_of_the_position(corpus: Corpus, tmp_path: Path) -> None:
    """Read at once or one by one, from the start or not: the same rows with the same numbers."""
    made = built(corpus, tmp_path, some_pairs(100), "pairs")
    window = 2 * LONGEST
    data = Data.model_validate({"corpus": "p", "context": window, "mask_documents": True})
    windows = Windows(made, data, 3)
    whole = windows.read(0, 8 * window)
    apart = [windows.read(place * window, window) for place in reversed(range(8))]
    assert torch.equal(torch.from_numpy(whole), torch.from_numpy(np.concatenate(apart[::-1])))


def test_another_window_than_the_corpus_was_packed_into_is_refused(
    corpus: Corpus, tmp_path: Path
) -> None:
    made = built(corpus, tmp_path, some_pairs(100), "pairs")
    with pytest.raises(InputError, match="are packed into windows of 64 tokens"):
        Windows(made, Data.model_validate({"corpus": "p", "context": 32}), 0)
