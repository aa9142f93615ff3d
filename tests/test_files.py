"""Files appear whole, whoever else writes them, and hold UTF-8, whatever the locale."""

import ast
import os
import threading
from pathlib import Path

import pytest

from windtunnel.errors import InputError
from windtunnel.files import named, sha256_of, write_whole

ROOT = Path(__file__).parents[1]
TEXT = {"read_text": 0, "write_text": 1}  # calls of text, and where the encoding stands


def _guesses(call: ast.Call) -> bool:
    """Whether a call opens text in the encoding of the locale."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "encoding" in keywords:
        return False
    if name in TEXT:
        return len(call.args) <= TEXT[name]
    if name != "open":
        return False
    method = isinstance(call.func, ast.Attribute)
    modes = [*call.args[0 if method else 1 :], *filter(None, [keywords.get("mode")])]
    first = modes[0].value if modes and isinstance(modes[0], ast.Constant) else "r"
    # `Corpus.open(folder)` and its like have something else than a mode.
    if method and call.args and not (isinstance(first, str) and set(first) <= set("rwaxbt+")):
        return False
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if owner in ("Corpus", "os", "gzip", "tarfile", "tokenize"):
        return False
    return "b" not in str(first)


@pytest.mark.parametrize("folder", ["src", "bench"])
def test_no_file_is_read_or_written_in_the_encoding_of_the_locale(folder: str) -> None:
    found = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _guesses(node):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not found, "\n".join(found)


def test_many_may_write_one_file_at_once(tmp_path: Path) -> None:
    """Each time somebody's whole content is there, nobody fails, and nothing else is left."""
    file, contents = tmp_path / "page.html", [str(n) * 50_000 for n in range(4)]
    together, faults = threading.Barrier(len(contents)), list[Exception]()

    def write(content: str) -> None:
        together.wait()
        try:
            for _ in range(20):
                write_whole(file, content)
        except InputError as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert file.read_text() in contents and list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    write_whole(file, "before")
    with pytest.raises(InputError, match=r"nowhere/kept: could not be written"):
        write_whole(tmp_path / "nowhere" / "kept", "after")
    with pytest.raises(InputError, match="could not be written"):
        write_whole(tmp_path, "after")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_name_that_is_not_utf8_can_be_said() -> None:
    assert named(os.fsdecode(b"caf\xe9.txt")) == "caf\\xe9.txt"
    assert named(Path("caf\u00e9.txt")) == "caf\u00e9.txt"


def test_a_files_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    found = sha256_of(tmp_path / "a")
    assert found == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "b")
