"""Building a corpus: what goes in comes out once, in one split, in the same bytes however often
it was stopped.
"""

import dataclasses
import hashlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from patience import wait_until

from windtunnel.data.build import build
from windtunnel.data.formats import Malformed
from windtunnel.data.readers import Documents, from_paths
from windtunnel.data.shards import Corpus, TokenStream
from windtunnel.data.spool import PIECE
from windtunnel.errors import InputError

WORDS = [
    f"{a}{b}{c}"
    for a in ("wi", "tu", "sa", "lo", "ge")
    for b in ("n", "rr", "st", "m")
    for c in ("d", "el", "a")
]


def words(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def source(texts: list[str], **about: object) -> Documents:
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return Documents(read=lambda: iter(texts), origin="a test", identity=digest, **about)  # type: ignore[arg-type]


def documents(corpus: Corpus, stream: TokenStream) -> list[str]:
    """Every document of a stream as text, its end token checked and taken off."""
    if not stream.tokens:
        return []
    tokens = stream.read(np.array([0]), stream.tokens)[0]
    ends = [*stream.starts[1:].tolist(), stream.tokens]
    assert all(tokens[end - 1] == corpus.manifest.eos for end in ends)
    return [
        corpus.tokenizer.decode(tokens[a : b - 1])
        for a, b in zip(stream.starts.tolist(), ends, strict=True)
    ]


def contents(folder: Path) -> dict[str, str]:
    """Every file of a corpus and its hash, but for the record of what was verified, which has
    times in it.
    """
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "verified.json"]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


# Of the corpus of the next test: its settings, and the first digits of the sha256 of each file but
# tokenizer.json, whose layout is the tokenizers package's own.
FINGERPRINT = "4a04abbb2aa59497aeca011bc8f00c29f93ca57a9e408dc80f9a81a428dc3cf7"
GOLDEN = {
    "books/train-00000.bin": "ca63740a9fd5",
    "books/train-00000.offsets.npy": "53aefb753dc6",
    "books/train-00001.bin": "c36e3f77b840",
    "books/train-00001.offsets.npy": "1e20e740532d",
    "books/validation-00000.bin": "439c2b19cc3b",
    "books/validation-00000.offsets.npy": "f6df0000bed6",
    "web/train-00000.bin": "16da9aa3eb0b",
    "web/train-00000.offsets.npy": "b59e7f37ebf2",
    "web/train-00001.bin": "86ab06d732c8",
    "web/train-00001.offsets.npy": "e73e0b82df45",
    "web/train-00002.bin": "70990257d754",
    "web/train-00002.offsets.npy": "5932d26d109f",
    "web/validation-00000.bin": "44acf77c127b",
    "web/validation-00000.offsets.npy": "ce94ce97836b",
}


def test_the_same_texts_give_the_bytes_that_they_always_gave(tmp_path: Path) -> None:
    """Runs are named by the bytes of their corpus: a change here would lose them all."""
    sources = {
        "web": source([f"Document {i}: {words(i, 30)} ü 漢字 {i * 7919}" for i in range(300)]),
        "books": source([words(i, 6000) + "\n\n" + words(-i, 200) for i in (1, 2)]),
    }
    corpus = build(tmp_path / "c", sources, vocab=400, shard_tokens=6000)
    found = contents(corpus.folder)
    del found["manifest.json"], found["tokenizer.json"]
    assert {name: sha256[:12] for name, sha256 in sorted(found.items())} == GOLDEN
    assert corpus.manifest.fingerprint == FINGERPRINT


def test_every_document_comes_back_once_and_in_one_split(tmp_path: Path) -> None:
    texts = [f"Document {i}: {words(i, 30)} ü 漢字" for i in range(1500)]
    corpus = build(
        tmp_path / "c",
        {"a": source(texts, licence="CC0", synthetic=True)},
        vocab=500,
        shard_tokens=7000,
    )
    train, validation = corpus.sources["a"].train, corpus.sources["a"].validation
    found = [documents(corpus, train), documents(corpus, validation)]
    assert sorted(found[0] + found[1]) == sorted(texts)
    assert not set(found[0]) & set(found[1]) and len(found[1]) > 100
    assert found[0] != [text for text in texts if text in set(found[0])], "the order is shuffled"

    entry = corpus.manifest.sources["a"]
    assert (entry.licence, entry.synthetic, entry.origin) == ("CC0", True, "a test")
    assert (entry.read, entry.duplicates, entry.malformed, entry.cut) == (1500, 0, 0, False)
    assert len(entry.train.shards) > 5 and all(
        shard.tokens == 7000 for shard in entry.train.shards[:-1]
    )
    for stream, texts in zip((train, validation), found, strict=True):
        assert stream.documents == len(texts)
        assert stream.bytes == sum(len(text.encode()) for text in texts)
        tokens = stream.read(np.array([0]), stream.tokens)
        assert corpus.tokenizer.token_bytes[tokens].sum() == stream.bytes


def test_duplicates_are_kept_once_across_sources(tmp_path: Path) -> None:
    first = [words(i, 20) for i in range(100)]
    second = [words(i, 20) for i in range(50, 150)]
    corpus = build(
        tmp_path / "c", {"a": source(first + first[:10]), "b": source(second)}, vocab=300
    )
    assert [entry.duplicates for entry in corpus.manifest.sources.values()] == [10, 50]
    kept = [
        documents(corpus, stream)
        for s in corpus.sources.values()
        for stream in (s.train, s.validation)
    ]
    assert sorted(text for texts in kept for text in texts) == sorted(
        words(i, 20) for i in range(150)
    )
    with pytest.raises(InputError, match="earlier source"):
        build(tmp_path / "d", {"a": source(first), "b": source(first)}, vocab=300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_source_of_few_long_documents_is_cut(tmp_path: Path) -> None:
    text = "\n\n".join(words(i, 60) + " ü" * 20 for i in range(3000))
    corpus = build(tmp_path / "c", {"a": source([text])}, vocab=300)
    entry = corpus.manifest.sources["a"]
    assert entry.cut and entry.read == 1 and entry.validation.documents >= 1
    found = [
        documents(corpus, stream)
        for stream in (corpus.sources["a"].train, corpus.sources["a"].validation)
    ]
    assert sum(len(piece) for pieces in found for piece in pieces) == len(text)
    assert all(
        piece in text and len(piece.encode()) <= PIECE for pieces in found for piece in pieces
    )
    assert entry.train.bytes + entry.validation.bytes == len(text.encode())


@pytest.mark.parametrize("size", [12_000, 30_000, 60_000, 100_000, 250_000])
def test_of_one_document_about_a_tenth_is_held_out(tmp_path: Path, size: int) -> None:
    for seed in range(4):
        text = "\n\n".join(words(seed * size + i, 40) for i in range(size // 200))[:size]
        entry = build(tmp_path / f"{seed}", {"a": source([text])}, vocab=300).manifest.sources["a"]
        assert 0.05 <= entry.validation.bytes / size <= 0.15
        assert entry.train.bytes + entry.validation.bytes == size


def test_what_is_too_small_is_not_held_out(tmp_path: Path) -> None:
    two = build(tmp_path / "two", {"a": source(["one document", "another document"])}, vocab=300)
    assert (two.sources["a"].train.documents, two.sources["a"].validation.documents) == (2, 0)
    for i in range(8):  # whatever its hash
        one = build(tmp_path / f"{i}", {"a": source([f"a short note, {i}"])}, vocab=300)
        assert (one.sources["a"].train.documents, one.sources["a"].validation.documents) == (1, 0)
    again = "One calm page of text, copied by hand.\n" * 300
    same = build(tmp_path / "same", {"a": source([again])}, vocab=300).manifest.sources["a"]
    assert 0.05 < same.validation.bytes / len(again) < 0.15


def test_nothing_is_held_out_where_nothing_was_asked_for(tmp_path: Path) -> None:
    none = build(
        tmp_path / "none", {"a": source([words(i, 9) for i in range(500)])}, vocab=300, validation=0
    )
    assert none.sources["a"].validation.tokens == 0


def test_one_worker_and_two_give_the_same_bytes(tmp_path: Path) -> None:
    sources = {
        name: source([words(seed + i, 150) for i in range(800)])
        for name, seed in [("a", 0), ("b", 5000)]
    }
    build(tmp_path / "one", sources, vocab=400, workers=1)
    build(tmp_path / "two", sources, vocab=400, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_tokenizer_may_be_given(tmp_path: Path) -> None:
    texts = [words(i, 20) for i in range(200)]
    first = build(tmp_path / "first", {"a": source(texts)}, vocab=300)
    second = build(
        tmp_path / "second", {"a": source(texts)}, tokenizer=tmp_path / "first" / "tokenizer.json"
    )
    assert second.tokenizer.sha256 == first.tokenizer.sha256
    assert (tmp_path / "first/a/train-00000.bin").read_bytes() == (
        tmp_path / "second/a/train-00000.bin"
    ).read_bytes()


def test_asking_again_returns_what_is_there_and_other_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(0, 5000))
    build(tmp_path / "c", {"a": from_paths(tmp_path / "a.txt")}, vocab=300)
    before = (tmp_path / "c/manifest.json").stat().st_mtime_ns
    build(tmp_path / "c", {"a": from_paths(tmp_path / "a.txt")}, vocab=300)
    assert (tmp_path / "c/manifest.json").stat().st_mtime_ns == before
    for asked, said in (
        ({"vocab": 301}, "its vocabulary has 300 tokens"),
        ({"vocab": 300, "validation": 0.3}, "what is held out"),
    ):
        with pytest.raises(InputError, match=f"other sources or settings is here: .*{said}"):
            build(tmp_path / "c", {"a": from_paths(tmp_path / "a.txt")}, **asked)
    with pytest.raises(InputError, match=r"of a from .*a\.txt; choose another name"):
        build(tmp_path / "c", {"b": from_paths(tmp_path / "a.txt")}, vocab=300)

    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match="is not a corpus"):
        build(tmp_path / "full", {"a": from_paths(tmp_path / "a.txt")}, vocab=300)


def test_a_folder_is_the_same_with_a_slash_behind_it(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(words(0, 5000))
    with_slash, without = from_paths(f"{tmp_path}/texts/"), from_paths(f"{tmp_path}/texts")
    assert (with_slash.origin, with_slash.identity) == (without.origin, without.identity)


def test_malformed_documents_are_counted_or_refused_with_nothing_left(tmp_path: Path) -> None:
    good = [words(i, 9) for i in range(300)]

    def read(bad: int) -> Iterator[str | Malformed]:
        yield from good
        yield from (Malformed(f"a.jsonl line {i}", "not JSON") for i in range(bad))

    corpus = build(tmp_path / "c", {"a": Documents(read=lambda: read(2), origin="x")}, vocab=300)
    assert (corpus.manifest.sources["a"].read, corpus.manifest.sources["a"].malformed) == (302, 2)
    with pytest.raises(InputError, match=r"a\.jsonl line 0: not JSON; 30 of the first 330"):
        build(
            tmp_path / "d",
            {"first": source(good), "a": Documents(read=lambda: read(30), origin="x")},
            vocab=300,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab": 100}, "vocab 100"),
        ({}, "either a vocabulary size or"),
        ({"vocab": 300, "validation": 0.9}, "validation 0.9"),
        ({"vocab": 300, "validation": math.nan}, "validation nan: expected a share between 0"),
        ({"vocab": 300, "shard_tokens": 0}, "shard_tokens 0"),
        ({"tokenizer": Path("nowhere.json")}, r"nowhere\.json"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(tmp_path / "c", {"a": source(["text"])}, **settings)
    for share in (-0.1, math.nan, 2.0):
        with pytest.raises(InputError, match=f"max_bad {share:g}: expected a share between 0 and"):
            bad = dataclasses.replace(source(["text"]), max_bad=share)
            build(tmp_path / "c", {"a": bad}, vocab=300)
    with pytest.raises(InputError, match="another name"):
        build(tmp_path / "c", {"../a": source(["text"])}, vocab=300)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
from pathlib import Path
from windtunnel.data.build import build
from windtunnel.data.readers import from_paths
if __name__ == "__main__":
    here = Path(sys.argv[1])
    sources = {n: from_paths(here / f"{n}.jsonl") for n in "abc"}
    build(Path(sys.argv[2]), sources, vocab=600, workers=2)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of about 1 MB, each with documents of the one before, and the corpus that
    they make.
    """
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "build.py").write_text(SCRIPT)
    for name, seed in [("a", 0), ("b", 1250), ("c", 2500)]:
        lines = [f'{{"text": "{words(i, 120)}"}}\n' for i in range(seed, seed + 1500)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    subprocess.run([sys.executable, folder / "build.py", folder, folder / "reference"], check=True)
    return folder


@pytest.mark.parametrize("moment", ["spool/b.part", "tokenizer.json", "b.part", "c.part"])
def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(
    inputs: Path, tmp_path: Path, moment: str
) -> None:
    command = [sys.executable, inputs / "build.py", inputs, tmp_path / "c"]
    process = subprocess.Popen(command, start_new_session=True)
    there = tmp_path / ".c.building" / moment
    wait_until(lambda: there.exists() or process.poll() is not None, every=0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "c").exists(), "killed too late to test anything"
    with pytest.raises(InputError, match="not finished"):
        Corpus.open(tmp_path / "c")
    _wait_for_the_group_to_end(process.pid)

    subprocess.run(command, check=True)
    assert contents(tmp_path / "c") == contents(inputs / "reference")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def _wait_for_the_group_to_end(group: int) -> None:
    """The workers of a killed build end by themselves."""

    def gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone)


def test_two_builds_of_one_corpus_do_not_mix(inputs: Path, tmp_path: Path) -> None:
    command = [sys.executable, inputs / "build.py", inputs, tmp_path / "c"]
    process = subprocess.Popen(command)
    while not (tmp_path / ".c.building" / "spool").exists():
        time.sleep(0.001)
    with pytest.raises(InputError, match="another process"):
        build(tmp_path / "c", {n: from_paths(inputs / f"{n}.jsonl") for n in "abc"}, vocab=600)
    assert process.wait() == 0
    assert contents(tmp_path / "c") == contents(inputs / "reference")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_one_line_and_the_build_goes_on_when_there_is_room(
    inputs: Path, small_disk: Path
) -> None:
    sources = {name: from_paths(inputs / f"{name}.jsonl") for name in "abc"}
    splits = [
        split
        for e in Corpus.open(inputs / "reference").manifest.sources.values()
        for split in (e.train, e.validation)
    ]
    text, tokens = sum(split.bytes for split in splits), sum(2 * split.tokens for split in splits)

    _leave(small_disk, text // 2)
    with pytest.raises(InputError, match="the disk is full") as refused:
        build(small_disk / "c", sources, vocab=600)
    assert "\n" not in str(refused.value) and "MB" in str(refused.value)
    assert not (small_disk / "c").exists() and not list(small_disk.rglob("*.part"))
    assert (small_disk / ".c.building" / "spool" / "a").exists(), "what was whole is kept"

    _leave(small_disk, text + tokens // 2, besides=small_disk / ".c.building")
    with pytest.raises(InputError, match="the disk is full"):
        build(small_disk / "c", sources, vocab=600)
    assert (small_disk / ".c.building" / "tokenizer.json").exists()

    (small_disk / "ballast").unlink()
    build(small_disk / "c", sources, vocab=600)
    assert contents(small_disk / "c") == contents(inputs / "reference")


def _leave(disk: Path, room: int, besides: Path | None = None) -> None:
    """Fills the disk but for `room` bytes, in which what `besides` already takes is counted."""
    taken = sum(file.stat().st_blocks * 512 for file in besides.rglob("*")) if besides else 0
    (disk / "ballast").unlink(missing_ok=True)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - (room - taken)))
