"""An opened corpus is what its manifest says, and windows are read from it wherever the shards
end.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import NUMBER_BIT, Corpus, ShardWriter, TokenStream
from windtunnel.errors import InputError

TEXTS = [f"Document {i} says {i * 7919 % 1000} and {'more ' * (i % 13)}" for i in range(600)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(
        tmp_path / "letters",
        {"a": Documents(read=lambda: iter(TEXTS), origin="a test")},
        vocab=300,
        shard_tokens=1000,
    )
    return tmp_path / "letters"


def test_windows_are_the_same_wherever_the_shards_end(folder: Path, tmp_path: Path) -> None:
    build(
        tmp_path / "whole", {"a": Documents(read=lambda: iter(TEXTS), origin="a test")}, vocab=300
    )
    pieces, whole = (
        Corpus.open(place).sources["a"].train for place in (folder, tmp_path / "whole")
    )
    assert len(pieces._shards) > 5 and len(whole._shards) == 1
    assert pieces.starts.tolist() == whole.starts.tolist()
    raw = np.fromfile(tmp_path / "whole/a/train-00000.bin", "<u2")
    assert pieces.tokens == len(raw)
    random = np.random.default_rng(0)
    for length in (1, 257, 1000, 2500):
        start = random.integers(0, pieces.tokens - length + 1, 64)
        start[:4] = [0, pieces.tokens - length, 1000 - length % 1000, 999]
        expected = raw[start[:, None] + np.arange(length)]
        for stream in (pieces, whole):
            windows = stream.read(start, length)
            assert windows.dtype == np.int64 and np.array_equal(windows, expected)


def test_windows_outside_the_stream_are_an_error(folder: Path) -> None:
    stream = Corpus.open(folder).sources["a"].train
    assert stream.read(np.zeros(0, np.int64), 5).shape == (0, 5)
    for start in (-1, stream.tokens - 4):
        with pytest.raises(IndexError):
            stream.read(np.array([0, start]), 5)


def _change_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 2)


@pytest.mark.parametrize("damage", [_change_a_byte, _truncate, Path.unlink])
@pytest.mark.parametrize(
    "file", ["a/train-00002.bin", "a/validation-00000.offsets.npy", "tokenizer.json"]
)
def test_a_damaged_file_is_named(folder: Path, file: str, damage) -> None:
    Corpus.open(folder)
    damage(folder / file)
    with pytest.raises(InputError) as refused:
        Corpus.open(folder)
    assert str(folder / file) in str(refused.value) and "\n" not in str(refused.value)


def test_a_change_behind_an_unchanged_time_is_found_by_rehashing(folder: Path) -> None:
    file = folder / "a/train-00000.bin"
    stat = file.stat()
    _change_a_byte(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Corpus.open(folder)
    with pytest.raises(InputError, match=r"train-00000\.bin"):
        Corpus.open(folder, rehash=True)


def test_the_record_of_what_was_verified_may_be_missing_or_nonsense(folder: Path) -> None:
    for content in ("", "[]", "{broken", '{"tokenizer.json": 3}'):
        (folder / "verified.json").write_text(content)
        Corpus.open(folder)
    (folder / "verified.json").unlink()
    Corpus.open(folder)
    assert "tokenizer.json" in json.loads((folder / "verified.json").read_text())


def test_a_missing_corpus_says_what_to_run(folder: Path) -> None:
    with pytest.raises(InputError, match="windtunnel corpus build numbers"):
        Corpus.open(folder.with_name("numbers"))
    with pytest.raises(InputError, match=r"did you mean .*letters\?"):
        Corpus.open(folder.with_name("leters"))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": 1}', '{"format": 1, "sources": {"a": {}}}']
)
def test_what_is_no_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest"):
        Corpus.open(folder)


def test_a_later_format_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        Corpus.open(folder)


def test_large_vocabularies_take_four_bytes(tmp_path: Path, folder: Path) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["added_tokens"].append(
        {**definition["added_tokens"][0], "id": 70_000, "content": "<|far|>"}
    )
    definition["model"]["vocab"].update(
        {f"filler{i}": i for i in range(len(definition["model"]["vocab"]), 70_001)}
    )
    (tmp_path / "big.json").write_text(json.dumps(definition))
    texts = Documents(read=lambda: iter(TEXTS), origin="a test")
    big = build(tmp_path / "big", {"a": texts}, tokenizer=tmp_path / "big.json", shard_tokens=1000)
    small = Corpus.open(folder)
    assert big.manifest.dtype == "<u4" and small.manifest.dtype == "<u2"
    streams = [corpus.sources["a"].train for corpus in (big, small)]
    assert (
        streams[0].read(np.array([5]), 3000).tolist()
        == streams[1].read(np.array([5]), 3000).tolist()
    )


def test_what_is_learnt_is_the_same_wherever_the_shards_end(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ids, learnt = random.integers(0, 300, 500), random.random(500) < 0.5
    lengths = np.full(50, 10)
    streams = []
    for source, limit in (("a", 64), ("b", 1000)):
        (tmp_path / source).mkdir(exist_ok=True)
        writer = ShardWriter(tmp_path, source, "train", np.dtype("<u2"), limit)
        writer.add(ids, lengths, lengths, learnt)
        streams.append(TokenStream(tmp_path, writer.finish(), "<u2"))
    starts = np.array([0, 5, 60, 250, 477])
    positions = starts[:, None] + np.arange(23)
    numbers = positions // 10
    expected = ids[positions] + (numbers << NUMBER_BIT)
    expected = np.where(learnt[positions], expected, ~expected)
    for stream in streams:
        assert np.array_equal(stream.marked(starts, 23), expected)
