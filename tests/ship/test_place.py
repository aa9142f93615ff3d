"""The place of an export: only what an export wrote there is ever replaced."""

import os
from pathlib import Path

import pytest

from windtunnel.errors import InputError
from windtunnel.ship.place import MARKER, appearing


def export(out: Path, content: str = "new", overwrite: bool = False) -> None:
    with appearing(out, overwrite) as part:
        (part / "config.json").write_text(content)
        (part / "a.gguf").write_text(content)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_an_export_takes_the_place_of_another_and_lists_its_files(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "m"
    export(out)
    assert set(tree(out)) == {"config.json", "a.gguf", MARKER}
    with pytest.raises(InputError, match=r"there is an export here already.*--overwrite"):
        export(out, "newer")
    assert tree(out)["a.gguf"] == "new"
    export(out, "newer", overwrite=True)
    assert tree(out)["a.gguf"] == "newer"
    assert [path.name for path in out.parent.iterdir()] == ["m"]


def test_files_that_the_new_export_does_not_have_go_with_the_old_one(tmp_path: Path) -> None:
    with appearing(tmp_path / "m", False) as part:
        (part / "model-00001-of-00002.safetensors").write_text("old")
    export(tmp_path / "m", overwrite=True)
    assert set(tree(tmp_path / "m")) == {"config.json", "a.gguf", MARKER}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        (["a.gguf", "thesis.txt"], "is not an export: a.gguf, thesis.txt;"),
        (["config.json", ".git/HEAD", "src/main.py"], "is not an export: .git/, config.json, src/"),
        ([f"{n}.gguf" for n in range(10, 22)], "17.gguf and 4 more;"),
        ([MARKER], f"that no export wrote: {MARKER};"),
    ],
)
def test_a_folder_of_somebodys_own_stays(
    theirs: list[str], says: str, overwrite: bool, tmp_path: Path
) -> None:
    for name in theirs:
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        export(tmp_path / "m", overwrite=overwrite)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert tree(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["thesis.txt", ".git/HEAD", "a.gguf/notes.txt"])
def test_what_was_put_beside_an_export_stays(name: str, tmp_path: Path) -> None:
    out = tmp_path / "m"
    export(out)
    if "a.gguf/" in name:  # a folder that has the name of an exported file
        (out / "a.gguf").unlink()
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = tree(out)
    with pytest.raises(InputError, match=f"that no export wrote: {name.split('/')[0]}"):
        export(out, "newer", overwrite=True)
    assert tree(out) == before


def test_a_link_in_the_place_of_an_exported_file_stays(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "m", tmp_path / "elsewhere"
    export(out)
    elsewhere.write_text("mine")
    (out / "a.gguf").unlink()
    (out / "a.gguf").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"that no export wrote: a\.gguf"):
        export(out, "newer", overwrite=True)
    assert elsewhere.read_text() == "mine"


def test_what_is_put_there_while_the_export_is_made_stays(tmp_path: Path) -> None:
    out = tmp_path / "m"
    with pytest.raises(InputError, match=r"notes\.txt"), appearing(out, False) as part:
        (part / "config.json").write_text("new")
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    assert tree(tmp_path) == {"m/notes.txt": "mine"}


def test_a_list_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    out = tmp_path / "m"
    export(out)
    marker = out / MARKER
    marker.write_text(marker.read_text().replace('"a.gguf"', '"a.gguf", "../thesis.txt"'))
    export(out, "newer", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine" and tree(out)["a.gguf"] == "newer"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "disk")
    export(tmp_path / "m")
    export(tmp_path / "m", "newer", overwrite=True)
    assert (tmp_path / "m").is_symlink() and tree(tmp_path / "disk")["a.gguf"] == "newer"


def test_a_file_and_a_loop_of_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with pytest.raises(InputError, match="is not an export, but a file"):
        export(tmp_path / "m", overwrite=True)
    with pytest.raises(InputError, match="could not be written"):
        export(tmp_path / "m" / "below")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="loop"):
        export(tmp_path / "loop")
    assert (tmp_path / "m").read_text() == "mine"


@pytest.mark.parametrize("out", ["", ".", "..", "./", "../here", "/"])
def test_the_folder_that_one_is_in_is_no_place(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="the folder that you are in, or one around it"):
        export(Path(out), overwrite=True)
    assert os.listdir(tmp_path) == ["here"] and not os.listdir(tmp_path / "here")
