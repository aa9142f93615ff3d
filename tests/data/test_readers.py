"""Reading what people bring: files, folders, globs and standard input, whole or broken."""

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from windtunnel.data.formats import FORMATS, Format
from windtunnel.data.opened import Opened
from windtunnel.data.readers import Tally, accepted, from_paths, items, left_out, read_path
from windtunnel.errors import InputError


def _jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _write_gzip(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data))


def _write_zstandard(path: Path, data: bytes) -> None:
    zstandard = pytest.importorskip("zstandard")
    half = len(data) // 2  # two frames, as parallel compressors write them
    path.write_bytes(
        b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:half], data[half:]))
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", Path.write_bytes), ("a.jsonl.gz", _write_gzip), ("a.jsonl.zst", _write_zstandard)],
)
def test_jsonl_plain_and_compressed(
    tmp_path: Path, name: str, write: Callable[[Path, bytes], object]
) -> None:
    texts = [f"document {i}\nline two" for i in range(5000)]
    write(tmp_path / name, _jsonl(texts) + b"\n   \n")
    assert list(read_path(tmp_path / name)) == texts


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl.gz", _write_gzip), ("a.jsonl.zst", _write_zstandard)]
)
def test_a_compressed_file_that_was_cut_short_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path, bytes], object]
) -> None:
    noise = random.Random(0)
    write(tmp_path / name, _jsonl([str(noise.getrandbits(900)) for _ in range(500)]))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_path(tmp_path / name))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [f"row {i}" for i in range(3000)]
    parquet.write_table(
        pyarrow.table({"body": texts, "id": list(range(3000))}), tmp_path / "a.parquet"
    )
    assert list(read_path(tmp_path / "a.parquet", "body")) == texts
    with pytest.raises(InputError, match="no column 'text'; it has body, id"):
        list(read_path(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match=r"b\.parquet"):
        list(read_path(tmp_path / "b.parquet"))


def test_folders_are_recursive_and_sorted_and_globs_work(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "sub" / "c.py").write_text("third = 3\n")
    (tmp_path / "sub" / "empty.py").write_text("\n")
    (tmp_path / "sub" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "sub" / ".hidden" / "d.txt").write_text("never")
    assert list(read_path(tmp_path)) == ["first", "second", "third = 3\n"]
    assert list(read_path(f"{tmp_path}/**/*.py")) == ["third = 3\n"]
    assert list(read_path(f"{tmp_path}/?.*")) == ["first", "second"]


def test_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "part [1]"
    folder.mkdir()
    (folder / "page[2].txt").write_text("here")
    for path in (folder, folder / "page[2].txt", folder / "*.txt", folder / "page[[]?].txt"):
        assert list(read_path(path)) == ["here"]


def test_a_reader_is_added_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(file: Opened, text_field: str) -> Iterator[str]:
        yield from file.stream.read().decode().splitlines()

    added = Format(
        name="lines",
        help="a document a line",
        endings=(".lines",),
        begins=lambda head: head.startswith(b"#lines"),
        texts=lines,
    )
    monkeypatch.setitem(FORMATS, "lines", added)
    (tmp_path / "a.lines").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three")
    assert list(read_path(tmp_path)) == ["one", "two", "three"], "in a folder"
    assert list(read_path(tmp_path / "a.lines")) == ["one", "two"], "by its name"
    assert list(read_path(tmp_path / "b.txt", format="lines")) == ["three"], "asked for"
    (tmp_path / "b.txt").write_text("#lines\nthree\n")
    assert list(read_path(tmp_path / "b.txt")) == ["#lines", "three"], "by its beginning"
    with pytest.raises(InputError, match=r"expected files ending in \.txt, .*, \.lines"):
        (tmp_path / "empty").mkdir()
        list(read_path(tmp_path / "empty"))


def test_any_text_file_may_be_named_directly(tmp_path: Path) -> None:
    (tmp_path / "notes.rst").write_bytes(b"\xef\xbb\xbfwith a byte order mark")
    assert list(read_path(tmp_path / "notes.rst")) == ["with a byte order mark"]


@pytest.mark.parametrize(
    ("given", "documents"),
    [
        (_jsonl(["one", "two"]), ["one", "two"]),
        (gzip.compress(b'\xef\xbb\xbf\n[{"text": "one"}]'), ["one"]),
        (b"plain text\n{}\n", ["plain text\n{}\n"]),
    ],
    ids=["lines", "a compressed array", "plain"],
)
def test_standard_input(given: bytes, documents: list[str]) -> None:
    script = (
        "import json; from windtunnel.data.readers import read_path; "
        "print(json.dumps(list(read_path('-'))))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], input=given, capture_output=True, check=True
    ).stdout
    assert json.loads(said) == documents


LINES = _jsonl(["one", "two"])
PRETTY = json.dumps([{"text": "one"}, {"text": "two"}], indent=2).encode()
BLANK_FIRST = b"\xef\xbb\xbf\n \r\n\n"

HELD = {
    "lines": (LINES, "jsonl"),
    "lines after blank ones": (BLANK_FIRST + LINES, "jsonl"),
    "lines with a mark in the middle": (LINES[:16] + b"\xef\xbb\xbf" + LINES[16:], "jsonl"),
    "lines of Windows": (LINES.replace(b"\n", b"\r\n"), "jsonl"),
    "lines of 16 bits": (LINES.decode().encode("utf-16"), "jsonl"),
    "lines of 16 bits without a mark": (LINES.decode().encode("utf-16-le"), "jsonl"),
    "lines of 16 bits in the other order": (LINES.decode().encode("utf-16-be"), "jsonl"),
    "lines of 32 bits": (LINES.decode().encode("utf-32"), "jsonl"),
    "a list": (json.dumps([{"text": "one"}, {"text": "two"}]).encode(), "json"),
    "a list over several lines": (PRETTY, "json"),
    "a list after blank lines": (BLANK_FIRST + PRETTY, "json"),
    "objects over several lines": (
        b"".join(json.dumps({"text": text}, indent=1).encode() for text in ("one", "two")),
        "json",
    ),
}
WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("content", HELD)
def test_a_file_is_taken_for_what_it_holds_whatever_its_name(tmp_path: Path, content: str) -> None:
    data, kind = HELD[content]
    for name in ("a.jsonl", "a.ndjson", "a.json", "a.jsonlines", "a.txt", "a", "a.jsonl.gz"):
        for write in WRITERS.values():
            (tmp_path / name).write_bytes(write(data))
            tally = Tally()
            found = list(accepted(items(tmp_path / name), name, tally=tally))
            assert found == ["one", "two"], (name, found)
            assert tally.taken == {kind: [str(tmp_path / name)]}


PROSE = [
    "{this is a note} and more of it\n",
    "{% a template %}\n{}\n",
    "[a link](of markdown)\n",
    "[1] Somebody, 1999.\n[2] Somebody else.\n",
    '["quoted" and no list]\n',
    '"a sentence", she said\n',
    "A line.\nAnother.\n" + '{"text": "an example"}\n',
    "3.14\n",
    "null\n",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_stays_prose(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert list(read_path(tmp_path / "a.txt")) == [text]


def test_what_a_file_is_taken_for_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(LINES)
    assert list(read_path(tmp_path / "a.txt", format="text")) == [LINES.decode()]
    (tmp_path / "a.txt").write_text('"one"\n{"text": "two"}\n')
    assert list(read_path(tmp_path / "a.txt", format="jsonl", max_bad=0.5)) == ["two"]
    with pytest.raises(InputError, match="--format jason: expected one of text"):
        from_paths(tmp_path / "a.txt", format="jason")
    assert from_paths(tmp_path, format="text").identity != from_paths(tmp_path).identity


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"text": "one"}, {"text": ', "not JSON"),
        (b'[{"text": "one"} {"text": "two"}]', "after element 1: expected"),
        (b'[{"text": "one"}, nonsense]', "not JSON"),
        (b'[{"text": "\xff"}]', "not UTF-8"),
        (b'["one", "two"]', "element 1: expected an object with the field 'text'"),
        (b'{\n"data": [{"text": "one"}]\n}', "value 1: expected an object with the field 'text'"),
        (b"[" * 100_000, "not JSON"),
        ('{"text": "one"}\n'.encode("utf-16")[:-1], "cannot be read to its end"),
        (b"\x89PNG\0\0\0 and more", "not text: there are zero bytes"),
    ],
)
def test_what_is_broken_is_refused_and_never_prose(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    file = tmp_path / ("a.json" if b"PNG" not in content else "a.txt")
    file.write_bytes(content)
    with pytest.raises(InputError, match=why):
        list(read_path(file))


def test_a_list_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Elements lie across the pieces that are read, and numbers and escapes too."""
    texts = [f"document {i} \u00e9\n" + "x" * (i % 7000) for i in range(400)]
    values = [{"id": i * 10**12, "text": text} for i, text in enumerate(texts)]
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert list(read_path(tmp_path / "a.json")) == texts
    (tmp_path / "b.json").write_text(json.dumps(values, ensure_ascii=False, indent=3))
    assert list(read_path(tmp_path / "b.json")) == texts


def test_a_file_that_was_compressed_with_a_wide_window(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    wide = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    (tmp_path / "a.zst").write_bytes(stream.compress(LINES) + stream.flush())
    assert list(read_path(tmp_path / "a.zst")) == ["one", "two"]
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0size"
    (tmp_path / "b").write_bytes(skipped + zstandard.compress(LINES))
    assert list(read_path(tmp_path / "b")) == ["one", "two"]


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    file.write_bytes(LINES)
    documents = from_paths(file)
    assert documents.origin == f"{tmp_path}/caf\\xe9.jsonl"
    assert list(accepted(documents.read(), "a")) == ["one", "two"]


BROKEN = {
    b"{broken": "not JSON",
    b'{"txt": "x"}': "expected an object with the field 'text'",
    b"[1, 2]": "expected an object",
    b'{"text": 7}': "holds no text",
    b'{"text": "  "}': "holds no text",
    b'{"text": "\xff\xfe"}': "not UTF-8",
    b'{"text": "\\ud800"}': "surrogate",
    b"[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("line", BROKEN, ids=list(BROKEN.values()))
def test_broken_lines_are_skipped_below_the_share_and_refused_above(
    tmp_path: Path, line: bytes
) -> None:
    good = _jsonl([f"document {i}" for i in range(199)])
    (tmp_path / "a.jsonl").write_bytes(good + line + b"\n")
    assert len(list(read_path(tmp_path / "a.jsonl"))) == 199
    (tmp_path / "a.jsonl").write_bytes(good + (line + b"\n") * 3)
    with pytest.raises(InputError) as refused:
        list(read_path(tmp_path / "a.jsonl"))
    message = str(refused.value)
    assert (
        "a.jsonl line 200" in message
        and BROKEN[line] in message
        and "1.5%" in message
        and "\n" not in message
    )


def test_a_hopeless_file_is_refused_before_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"nonsense\n" * 100_000)
    with pytest.raises(InputError, match="101 of the first 101"):
        list(read_path(tmp_path / "a.jsonl"))


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nthr\xe9e\n")
    with pytest.raises(InputError, match=r"a\.txt line 3: not UTF-8"):
        list(read_path(tmp_path / "a.txt"))


def test_long_lines(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "wb") as stream:
        stream.write(b'{"text": "' + b"word " * 10_000_000 + b'"}\n')  # 50 MB
        stream.write(_jsonl(["short"]))
    assert [len(text) for text in read_path(tmp_path / "a.jsonl")] == [50_000_000, 5]
    with open(tmp_path / "b.jsonl", "wb") as stream:
        stream.write(b'{"text": "' + b"word " * 15_000_000 + b'"}\n')  # 75 MB, over the limit
        stream.write(_jsonl(["short"]))
    assert list(read_path(tmp_path / "b.jsonl", max_bad=0.5)) == ["short"]
    with pytest.raises(InputError, match=r"b\.jsonl line 1: the line is longer than 64 MiB"):
        list(read_path(tmp_path / "b.jsonl"))


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("\n")
    for path, expected in [
        ("empty", "no document in this folder"),
        ("notes.txt", "no document found"),
        ("note.txt", r"no such file or folder; did you mean .*notes\.txt"),
        ("*.jsonl", "no file matches"),
    ]:
        with pytest.raises(InputError, match=expected):
            list(read_path(tmp_path / path))


def test_what_a_folder_holds_beside_documents_is_said(tmp_path: Path) -> None:
    for name in ("a.txt", "b.rst.gz", "README", "c.png", ".hidden"):
        (tmp_path / name).write_bytes(gzip.compress(b"b") if name[0] == "b" else b"text")
    assert list(read_path(tmp_path)) == ["text", "b"]
    said = left_out(tmp_path)
    assert said and said.startswith(f"2 of the 4 files in {tmp_path} are left out")
    assert ": README, c.png; a glob" in said
    assert len(list(read_path(tmp_path / "**" / "*"))) == 4, "all that the glob matches"
    assert left_out(tmp_path / "a.txt") is left_out(tmp_path / "**" / "*") is None
    for name in ("README", "c.png"):
        (tmp_path / name).unlink()
    assert left_out(tmp_path) is None


def test_the_identity_of_paths_changes_with_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = from_paths(tmp_path).identity
    assert from_paths(tmp_path).identity == before
    (tmp_path / "a.txt").write_text("other")
    assert from_paths(tmp_path).identity != before
    with pytest.raises(InputError):
        from_paths(tmp_path / "b.txt")
