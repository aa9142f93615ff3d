"""Conversations become a corpus: read in every shape, rendered, packed whole, with what is learnt
of them.
"""

import gzip
import json
import lzma
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import Chat, chat, some_chats, write_chats
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.data.chat import build_chat
from windtunnel.data.chat_format import OURS
from windtunnel.data.conversations import conversation_files, conversations, messages_of
from windtunnel.data.formats import Malformed
from windtunnel.data.packed import packed
from windtunnel.data.readers import Taken
from windtunnel.data.shards import NUMBER_BIT, Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import Data

CONTEXT = 32


@pytest.fixture(scope="module")
def chats(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("chats")
    return build_chat(
        folder, [write_chats(folder / "chats.jsonl")], corpus.folder / "tokenizer.json", CONTEXT
    )


def windows_of(corpus: Corpus, context: int = CONTEXT) -> Windows:
    return Windows(
        corpus,
        Data.model_validate({"corpus": "chats", "context": context, "mask_documents": True}),
        0,
    )


def all_windows(corpus: Corpus, context: int = CONTEXT) -> np.ndarray:
    windows = windows_of(corpus, context)
    return windows.read(0, windows.order.windows["chat"] * context)


def taken_apart(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, whether they are learnt, and the numbers of their documents."""
    marked = np.where(windows < 0, ~windows, windows)
    return marked & ((1 << NUMBER_BIT) - 1), windows >= 0, marked >> NUMBER_BIT


def said(corpus: Corpus, windows: np.ndarray) -> list[str]:
    """What is learnt, stretch by stretch."""
    found = []
    for tokens, learnt, _ in zip(*taken_apart(windows), strict=True):
        edges = np.flatnonzero(np.diff([False, *learnt, False]))
        found += [corpus.tokenizer.decode(tokens[a:b]) for a, b in edges.reshape(-1, 2)]
    return found


def found_in(files: Sequence[Path]) -> list[str | Malformed]:
    """The conversations, without what the files were taken for."""
    return [one for one in conversations(files) if not isinstance(one, Taken)]


class TestReading:
    @pytest.mark.parametrize(
        "record",
        [
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                ],
                "id": 7,
            },
            {"prompt": "a", "completion": "b"},
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": t} for t in "b"]},
                ]
            },
            {
                "prompt": [{"role": "user", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}],
            },
            {"instruction": "a", "output": "b"},
            {"instruction": "a", "input": "", "output": "b"},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {
                "conversations": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                ]
            },
            {"messages": [{"from": "prompter", "value": "a"}, {"from": "model", "value": "b"}]},
        ],
    )
    def test_every_shape_gives_the_same(self, record: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n")
        (found,) = found_in([tmp_path / "a.jsonl"])
        assert isinstance(found, str)
        assert messages_of(found) == [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]

    def test_what_is_given_with_an_instruction_stands_below_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(
            json.dumps({"instruction": "a", "input": "c", "output": "b"})
        )
        (found,) = found_in([tmp_path / "a.jsonl"])
        assert isinstance(found, str) and messages_of(found)[0]["content"] == "a\n\nc"

    def test_compressed_files_folders_and_globs(self, tmp_path: Path) -> None:
        zstandard = pytest.importorskip("zstandard")
        line = json.dumps(chat("a", "b")).encode() + b"\n"
        (tmp_path / "a.jsonl").write_bytes(line)
        (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line))
        (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(line))
        (tmp_path / "notes.txt").write_text("no conversation")
        for paths in ([tmp_path], [str(tmp_path / "*.jsonl*")]):
            found = conversation_files(paths)
            assert [file.name for file in found] == ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"]
            assert len(set(found_in(found))) == 1

    def test_they_are_known_by_what_a_file_holds(self, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        ones = [chat("a", "b"), chat("c", "d")]
        lines = "".join(json.dumps(one) + "\n" for one in ones)
        contents = {
            "a.txt": lines.encode(),
            "b": b"\xef\xbb\xbf\n" + lines.encode(),
            "c.json": json.dumps(ones, indent=2).encode(),
            "d.jsonl": json.dumps(ones).encode(),
            "e.ndjson.xz": lzma.compress(lines.encode()),
            "f.jsonl": lines.encode("utf-16"),
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        parquet.write_table(pyarrow.Table.from_pylist(ones), tmp_path / "g.parquet")
        first = found_in([tmp_path / "a.txt"])
        assert len(first) == 2
        for file in tmp_path.iterdir():
            assert found_in([file]) == first, file.name
        folder = [file.name for file in conversation_files([tmp_path])]
        assert folder == ["c.json", "d.jsonl", "e.ndjson.xz", "f.jsonl", "g.parquet"]
        (tmp_path / "notes.md").write_text("Only prose.")
        with pytest.raises(InputError, match=r"notes\.md: this is plain text; expected conv"):
            found_in([tmp_path / "notes.md"])

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("{not json", "not JSON"),
            ("[1]", "expected an object with 'messages'"),
            ('{"text": "a"}', "expected 'messages', 'prompt' and 'completion'"),
            ('{"messages": "a"}', "'messages' is not a list of messages"),
            ('{"messages": [{"role": "user", "content": "a"}]}', "no message of the assistant"),
            (
                '{"messages": [{"role": "narrator", "content": "a"}]}',
                "role 'narrator': expected one of system, user",
            ),
            ('{"messages": [{"role": "assistant", "content": null}]}', "'content' holds no text"),
            (
                '{"prompt": "a", "completion": "\\ud800"}',
                "'completion' holds half of a surrogate pair",
            ),
            ('{"conversations": [{"from": "human"}]}', "'value' holds no text"),
            ('{"prompt": "a", "completion": ""}', "an answer is empty"),
            (
                '{"messages": [{"role": "assistant", "content": "b"},'
                ' {"role": "user", "content": "a"}, {"role": "assistant", "content": " \\n"}]}',
                "an answer is empty",
            ),
            (
                '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"},'
                ' {"role": "assistant", "content": "c"}]}',
                "turns out of order: message 2 is of role 'user', expected 'assistant'",
            ),
            (
                '{"messages": [{"role": "user", "content": "a"}, '
                '{"role": "assistant", "content": "c"}, {"role": "system", "content": "b"}]}',
                "turns out of order: message 3 is of role 'system', expected 'user'",
            ),
            (
                '{"conversations": [{"from": "gpt", "value": "hello"}]}',
                "turns out of order: message 1 is of role 'assistant', expected 'user'",
            ),
            (
                '{"messages": [{"role": "user", "content": "a"}, '
                '{"role": "assistant", "content": "c", "tool_calls": [{}]}]}',
                "a message calls a tool ('tool_calls')",
            ),
            (
                '{"conversations": [{"from": "human", "value": "a"}, '
                '{"from": "observation", "value": "b"}]}',
                "role 'observation': a tool speaks",
            ),
            ('{"tools": [{}], "prompt": "a", "completion": "b"}', "it offers tools"),
        ],
    )
    def test_what_is_no_conversation_is_named(self, line: str, why: str, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{json.dumps(chat('a', 'b'))}\n{line}\n")
        _, bad = found_in([tmp_path / "a.jsonl"])
        assert isinstance(bad, Malformed)
        assert bad.where == f"{tmp_path / 'a.jsonl'} line 2" and bad.why.startswith(why)


@given(st.lists(st.integers(1, 32), max_size=200))
def test_packing_keeps_each_whole_and_once(lengths: list[int]) -> None:
    windows = packed(lengths, 32)
    assert sorted(index for window in windows for index in window) == list(range(len(lengths)))
    filled = [sum(lengths[index] for index in window) for window in windows]
    assert all(0 < size <= 32 for size in filled)
    assert sum(size <= 16 for size in filled) <= 1, (
        "two windows that are half empty would have been one"
    )


def test_what_the_assistant_says_is_learnt_and_nothing_else(chats: Corpus) -> None:
    source = chats.sources["chat"]
    windows = np.concatenate([all_windows(chats), windows_of(chats).validation("chat", 10**9)])
    messages = [message for one in some_chats() for message in one["messages"]]
    expected = [
        f"{message['content']}<|end|>" for message in messages if message["role"] == "assistant"
    ]
    assert sorted(said(chats, windows)) == sorted(expected)
    assert source.train.documents + source.validation.documents == len(some_chats())
    assert 0 < source.validation.documents <= 0.15 * len(some_chats())


def test_conversations_lie_whole_in_windows_and_are_numbered(chats: Corpus) -> None:
    windows = all_windows(chats)
    tokens, learnt, numbers = taken_apart(windows)
    tokenizer, rendered = chats.tokenizer, set()
    for one in some_chats():
        rendered.add(tokenizer.decode(OURS.render(tokenizer, one["messages"])[0]))  # type: ignore[arg-type]
    for row, in_row in zip(tokens[:, :-1], numbers[:, :-1], strict=True):
        assert set(np.diff(in_row)) <= {0, 1}
        there = range(in_row[0], in_row[-1] + 1)
        *whole, last = [tokenizer.decode(row[in_row == n]) for n in there]
        assert {*whole, re.sub(r"(<\|end\|>)+$", "<|end|>", last)} <= rendered
    assert not learnt[:, 0].any() and not learnt[:, -1].any()
    assert learnt[:, 1:].any(axis=1).all(), "there is something to learn in every window"
    documents = chats.sources["chat"].train.documents
    assert np.array_equal(np.unique(numbers[:, :-1]), np.arange(documents)), (
        "each by its own number"
    )


def test_the_manifest_says_how(chats: Corpus, corpus: Corpus) -> None:
    packing = chats.manifest.packing
    assert packing and (packing.context, packing.cut, packing.dropped) == (CONTEXT, 0, 0)
    assert packing.template == OURS.template
    assert chats.document_end == -1 and corpus.document_end == corpus.tokenizer.eos
    (shard,) = chats.manifest.sources["chat"].train.shards
    assert shard.learnt == "chat/train-00000.learnt.bin"
    train = chats.sources["chat"].train
    assert (chats.folder / shard.learnt).stat().st_size == train.tokens
    assert sum(map(len, some_chats())) < train.tokens - 1 and (train.tokens - 1) % CONTEXT == 0


def test_other_corpora_are_as_they_were(corpus: Corpus) -> None:
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    assert (
        "packing" not in manifest
        and "learnt" not in manifest["sources"]["prose"]["train"]["shards"][0]
    )
    stream = corpus.sources["prose"].train
    starts = np.array([0, 7, 1000])
    assert np.array_equal(stream.marked(starts, 33), stream.read(starts, 33))


def test_what_is_too_long_is_cut_or_left_out(corpus: Corpus, tmp_path: Path) -> None:
    word, tokenizer = "wind ", corpus.folder / "tokenizer.json"
    short = [chat(f"{i}", "sa") for i in range(20)]
    long_answer, long_question = chat("a", word * 200), chat(word * 200, "a")
    file = write_chats(tmp_path / "long.jsonl", [*short, long_answer, long_question])
    built = build_chat(tmp_path, [file], tokenizer, 64)
    packing, entry = built.manifest.packing, built.manifest.sources["chat"]
    assert packing and (packing.cut, packing.dropped) == (1, 1)
    assert entry.train.documents + entry.validation.documents == 21
    windows = np.concatenate(
        [all_windows(built, 64), windows_of(built, 64).validation("chat", 10**9)]
    )
    (beginning,) = [text for text in said(built, windows) if text.startswith("wind")]
    assert (word * 200).startswith(beginning), "no end was learnt where none was said"


def test_the_content_names_a_corpus(corpus: Corpus, tmp_path: Path) -> None:
    tokenizer, file = (
        corpus.folder / "tokenizer.json",
        write_chats(tmp_path / "my chats.jsonl", some_chats()[:50]),
    )
    first = build_chat(tmp_path / "lab", [file], tokenizer, CONTEXT)
    assert first.folder.name.startswith("my-chats-")
    before = (first.folder / "manifest.json").stat().st_mtime_ns
    os.utime(file)
    again = build_chat(tmp_path / "lab", [file], tokenizer, CONTEXT)
    assert (
        again.folder == first.folder
        and (again.folder / "manifest.json").stat().st_mtime_ns == before
    )
    elsewhere = build_chat(tmp_path / "other", [file], tokenizer, CONTEXT)
    assert elsewhere.digest == first.digest and elsewhere.folder.name == first.folder.name
    write_chats(file, some_chats()[:51])
    assert build_chat(tmp_path / "lab", [file], tokenizer, CONTEXT).folder != first.folder
    assert [p.name for p in (tmp_path / "lab").iterdir() if p.name.startswith(".")] == []


def test_the_order_of_the_lines_and_what_is_there_twice_change_nothing(
    corpus: Corpus, tmp_path: Path
) -> None:
    tokenizer, some = corpus.folder / "tokenizer.json", some_chats()[:50]
    first = build_chat(tmp_path, [write_chats(tmp_path / "a.jsonl", some)], tokenizer, CONTEXT)
    second = build_chat(
        tmp_path, [write_chats(tmp_path / "b.jsonl", [*some[::-1], some[3]])], tokenizer, CONTEXT
    )
    assert first.digest == second.digest
    assert second.manifest.sources["chat"].duplicates == 1


def test_a_damaged_record_of_what_is_learnt_is_named(corpus: Corpus, tmp_path: Path) -> None:
    built = build_chat(
        tmp_path, [write_chats(tmp_path / "a.jsonl")], corpus.folder / "tokenizer.json", CONTEXT
    )
    file = built.folder / "chat/train-00000.learnt.bin"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"train-00000\.learnt\.bin"):
        Corpus.open(built.folder)


def test_windows_of_another_length_are_refused(chats: Corpus) -> None:
    with pytest.raises(
        InputError,
        match=r"data\.context=16: the conversations of .* are packed into windows of 32 tokens",
    ):
        windows_of(chats, 16)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([chat("a", "b")], "1 different conversations .* expected at least 2"),
        ([chat("wind " * 99, "b"), chat("tunnel " * 99, "b")], "0 different conversations"),
        (
            [chat("a"), chat("b", "c")],
            r"line 1: no message of the assistant.*; 1 of the first 2 .* at most 1\.0% may be",
        ),
    ],
)
def test_too_little_to_learn_is_refused(
    content: list[Chat], why: str, corpus: Corpus, tmp_path: Path
) -> None:
    file = write_chats(tmp_path / "a.jsonl", content)
    with pytest.raises(InputError, match=why):
        build_chat(tmp_path / "lab", [file], corpus.folder / "tokenizer.json", CONTEXT)
    assert not (tmp_path / "lab").exists()


def test_some_malformed_lines_are_counted_and_left_out(corpus: Corpus, tmp_path: Path) -> None:
    file = write_chats(tmp_path / "a.jsonl")
    file.write_text(file.read_text() + "{broken\n")
    built = build_chat(tmp_path, [file], corpus.folder / "tokenizer.json", CONTEXT)
    entry = built.manifest.sources["chat"]
    assert (entry.read, entry.malformed) == (len(some_chats()) + 1, 1)
