"""What many tests share: a small corpus of generated text, labs with a copy of it, a recipe that
trains at once.
"""

import gc
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from pages import Browsing, browser
from patience import PATIENCE
from processes import Process

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe, dump, parse

VOCAB = 320
WORDS = [
    f"{a}{b}{c}"
    for a in ("wi", "tu", "sa", "lo", "ge")
    for b in ("n", "rr", "st", "m")
    for c in ("d", "el", "a")
]
DOCUMENTS = {"prose": 800, "code": 400, "notes": 200}
FEW = {"prose": 200, "code": 120, "notes": 100}
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"width": 32, "depth": 2, "heads": 2, "vocab": VOCAB, "base_width": 16},
    "data": {"corpus": "tiny", "context": 32},
    "schedule": {"tokens": 6400, "warmup": 512},
    "train": {
        "batch": 128,
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        "checkpoint_every": "25%",
        "evaluate_every": "50%",
        "evaluate_tokens": 256,
    },
}


# Where the system keeps files in memory, and how many bytes must be free there.
IN_MEMORY, ROOM = Path("/dev/shm"), 6 * 10**9


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: among them are those that take longest, and two workers that come
    to the end of the suite shall have short ones left to share.
    """
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (tests[item.path], item.path))


def pytest_configure() -> None:
    # Labs of tests are many small files, each flushed to the disk as it must be: on some disks
    # that takes a tenth of the suite's time, and on a busy one most of it.
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    hypothesis.settings.register_profile("steady", deadline=None)
    hypothesis.settings.load_profile("steady")
    # for torch, here and in processes: on busy cores more threads only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """What was imported stays: Python's collector need not look through it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _what_was_imported_since_stays() -> None:
    gc.freeze()


@dataclass(frozen=True)
class Lab:
    """A folder with the corpus `tiny`, and the real command line in a process of its own upon
    it.
    """

    path: Path

    def write(self, recipe: Recipe | str, name: str = "recipe.toml") -> Path:
        """A recipe file, beside the lab's folder."""
        file = self.path.parent / name
        file.write_text(recipe if isinstance(recipe, str) else dump(recipe))
        return file

    def start(self, *arguments: object, session: bool = False, **environment: str) -> Process:
        """`session`: as a terminal would, so that a signal can be sent to it and to all that it
        starts.
        """
        command = [*map(str, arguments), "--lab", str(self.path)]
        return Process(command, os.environ | environment, session)

    def run(
        self, *arguments: object, timeout: float = PATIENCE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: object) -> Any:
        """What a command that must succeed prints with --json."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def train(self, recipe: Recipe, *settings: str) -> Path:
        """Train to the end; the run's folder."""
        file = self.write(recipe)
        summary = self.json(
            "train", file, *(part for setting in settings for part in ("--set", setting))
        )
        assert summary["status"] == "done"
        return Path(summary["path"])

    def files(self) -> dict[str, int]:
        """Every file of the lab and its size, to see that a refused command left nothing."""
        found = (path for path in self.path.rglob("*") if path.name != "verified.json")
        return {
            str(path.relative_to(self.path)): path.stat().st_size
            for path in found
            if path.is_file()
        }


def _text(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def _documents(texts: list[str]) -> Documents:
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return Documents(read=lambda: iter(texts), origin="generated", identity=digest)


def _built(folder: Path, documents: dict[str, int]) -> Corpus:
    sources = {
        name: _documents([_text(100_000 * index + i, 60) for i in range(count)])
        for index, (name, count) in enumerate(documents.items())
    }
    return build(folder / "tiny", sources, vocab=VOCAB)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three sources of about 61, 30 and 15 thousand tokens. Not to be written to: `lab` has a
    copy.
    """
    return _built(tmp_path_factory.mktemp("corpus"), DOCUMENTS)


def _labs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Lab]:
    def make() -> Lab:
        path = tmp_path_factory.mktemp("lab") / "lab"
        shutil.copytree(corpus.folder, path / "corpora" / "tiny")
        return Lab(path)

    return make


@pytest.fixture(scope="session")
def make_lab(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Lab]:
    return _labs(corpus, tmp_path_factory)


@pytest.fixture(scope="session")
def make_small_lab(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Lab]:
    """Labs for studies, with a third of the text. A study scores each of its many short runs on all
    that is held out, which with all of it would take three times as long as training them.
    """
    return _labs(_built(tmp_path_factory.mktemp("corpus"), FEW), tmp_path_factory)


@pytest.fixture
def lab(make_lab: Callable[[], Lab]) -> Lab:
    return make_lab()


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """The tiny recipe of 50 steps with some fields of some sections changed:
    `recipe(train={"batch": 256})`.
    """

    def make(**sections: Any) -> Recipe:
        merged = {k: TINY.get(k, {}) | v if isinstance(v, dict) else v for k, v in sections.items()}
        return parse(TINY | merged, "the test's recipe")

    return make


@pytest.fixture(scope="session")
def stem(recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """The tiny recipe without a decay."""

    def make(tokens: int, **train: Any) -> Recipe:
        return recipe(schedule={"tokens": tokens, "decay": 0}, train=train)

    return make


@pytest.fixture(scope="session")
def steps_of() -> Callable[[Path], list[tuple[Any, ...]]]:
    """What a run recorded of each step, without what a clock measured."""

    def read(run: Path) -> list[tuple[Any, ...]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [
            tuple(line[key] for key in ("tokens", "loss", "lr", "grad_norm"))
            for line in lines
            if "loss" in line
        ]

    return read


@pytest.fixture(scope="session")
def final_bytes() -> Callable[[Path], dict[str, bytes]]:
    """The files of a run's last checkpoint: weights, moments, and the JSON that names their
    hashes and the position.
    """

    def read(run: Path) -> dict[str, bytes]:
        last = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
        return {
            path.name: path.read_bytes()
            for path in last.iterdir()
            if path.suffix in (".safetensors", ".json")
        }

    return read


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """What the tests of a file start compiles nothing: to import torch's compiler alone takes
    longer than a short run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "no-compiler")
        yield


@pytest.fixture(scope="module")
def browsing() -> Iterator[Browsing]:
    """A browser for the tests of a file: it takes longer to begin than to show a page."""
    with browser() as opens:
        yield opens


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
