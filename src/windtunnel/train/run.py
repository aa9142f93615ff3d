"""Runs: folders addressed by content, as a tree of stems and branches.

    lab/runs/ID/  recipe.toml  run.json  status.json  metrics.jsonl  checkpoints/TOKENS/

An ID is a hash of the recipe and the parent, so asking for a run that exists gives that run. An
imported model is a stem of no tokens, with its weights as the checkpoint at 0 and a tokenizer of
its own beside it. A run that begins anew takes a parent's weights and nothing else, and counts
its tokens from 0.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError, did_you_mean
from windtunnel.files import write_whole
from windtunnel.recipe import Recipe, dump, identity, load
from windtunnel.train import checkpoint

if TYPE_CHECKING:
    from windtunnel.train.device import Engine

Status = Literal["running", "done", "failed", "interrupted"]
_LOOKED_AT = (
    0.5  # seconds to wait for a lock that somebody may only look at: `status` takes it for a moment
)


class Busy(InputError):
    """Another process trains this run."""


@dataclass(frozen=True)
class Run:
    """One run's folder. What can change while it trains is read from disk each time it is asked
    for.
    """

    path: Path
    recipe: Recipe
    corpus: str  # digest of its content; empty for an imported model
    kind: Literal["stem", "branch", "run", "member"]
    parent: str | None
    at_tokens: int | None  # of the parent, where this run leaves it
    # of the parent's checkpoint at `at_tokens` it has the weights alone; position 0, no moments
    anew: bool = False

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def lab(self) -> Path:
        return self.path.parent.parent

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def start(self) -> int:
        """The position at which its own tokens begin."""
        return 0 if self.anew else self.at_tokens or 0

    @property
    def tokenizer(self) -> Path:
        """Its tokenizer.json: an imported model's own, or the corpus's."""
        own = self.path / "tokenizer.json"
        return (
            own
            if own.exists()
            else self.lab / "corpora" / self.recipe.data.corpus / "tokenizer.json"
        )

    def status(self) -> dict[str, Any]:
        """`status.json`, with a run that nobody trains any more as `interrupted`."""
        status = _read_json(self.path / "status.json")
        if status["status"] == "running" and not self._is_locked():
            status["status"] = "interrupted"
        elif status["status"] == "done" and status["tokens"] < self.recipe.total_tokens:
            status["status"] = "interrupted"  # a stem that was asked to go on
        return status

    def write_status(self, status: Status, tokens: int, **more: Any) -> None:
        write_whole(
            self.path / "status.json", json.dumps({"status": status, "tokens": tokens, **more})
        )

    def summary(self) -> dict[str, Any]:
        """The run as `windtunnel runs --json` lists it."""
        status = self.status()
        return {
            "id": self.id,
            "name": self.recipe.name,
            "kind": self.kind,
            "parent": self.parent,
            "at_tokens": self.at_tokens,
            "tokens": status["tokens"],
            "total_tokens": self.recipe.total_tokens,
            "status": status["status"],
            "loss": status.get("loss"),
            "bits_per_byte": status.get("bits_per_byte"),
            "reason": status.get("reason"),
            "path": str(self.path),
        }

    def engine(self, choice: Engine) -> Engine:
        """How the run is computed: what its first start chose. The device and threads are always
        the machine's.
        """
        from windtunnel.train.device import Engine

        file = self.path / "engine.json"
        if file.exists():
            chosen = _read_json(file)
            return Engine(**(chosen | {"device": choice.device, "threads": choice.threads}))
        write_whole(file, json.dumps(asdict(choice)))
        return choice

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; the last one may be half-written by a run that was killed,
        and is left out.
        """
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_metrics_until(self, tokens: int) -> None:
        """Drop what was recorded after a checkpoint: it will be recorded again."""
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["tokens"] <= tokens]
        write_whole(self.path / "metrics.jsonl", "".join(kept))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for training. Raises Busy when another process trains it."""
        with (self.path / "lock").open("w") as file:
            give_up = time.monotonic() + _LOOKED_AT
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > give_up:
                    raise Busy(f"{self.path}: another process is training this run")
                time.sleep(0.001)
            yield

    def _is_locked(self) -> bool:
        with (self.path / "lock").open("a") as file:
            return not _locked(file, fcntl.LOCK_SH)


def create(
    lab: Path,
    recipe: Recipe,
    corpus: Corpus,
    parent: Run | None = None,
    at_tokens: int | None = None,
    anew: bool = False,
) -> Run:
    """The run of this recipe on this corpus: the one that exists, longer or with more branch
    points if a stem is now asked for more, or a new folder. `anew`: it takes the weights of the
    parent's checkpoint at `at_tokens`, and begins at 0. Raises InputError for a recipe that the
    corpus does not fit, before anything is written.
    """
    check_fit(recipe, corpus, parent)
    begun = (f"{parent.id} anew" if anew else parent.id, at_tokens or 0) if parent else None
    path = lab / "runs" / identity(recipe, corpus.digest, begun)
    if path.exists():
        run = open_run(path)
        if recipe.is_stem:
            asked = recipe if recipe.total_tokens > run.recipe.total_tokens else run.recipe
            points = {*run.recipe.train.branch_points, *recipe.train.branch_points}
            asked = asked.change(train={"branch_points": sorted(points)})
            if asked != run.recipe:
                write_whole(path / "recipe.toml", dump(asked))
        return open_run(path)
    about_run = {
        "id": path.name,
        "kind": "stem" if recipe.is_stem else "branch" if parent and not anew else "run",
        "parent": parent and parent.id,
        "at_tokens": at_tokens,
        "corpus": corpus.digest,
        **({"anew": True} if anew else {}),
    }

    def fill(_: Path) -> None:
        if parent and keep_branch_start(parent, at_tokens or 0) != (at_tokens or 0) and anew:
            raise InputError(
                f"{parent.path}: its checkpoint at {at_tokens} tokens is no longer there"
            )

    return _make(path, recipe, about_run, "interrupted", fill)


def adopt(
    lab: Path, recipe: Recipe, content: str, origin: dict[str, Any], fill: Callable[[Path], None]
) -> Run:
    """The run of a model that was trained elsewhere: the one that exists with this content, or a
    new folder, to which `fill` adds the checkpoint at 0 tokens and the tokenizer. `content`:
    digest of both; `origin`: where it is from.
    """
    path = lab / "runs" / identity(recipe, content)
    if path.exists():
        return open_run(path)
    about_run = {
        "id": path.name,
        "kind": "stem",
        "parent": None,
        "at_tokens": None,
        "corpus": "",
        "origin": origin,
    }
    return _make(path, recipe, about_run, "done", fill)


def _make(
    path: Path,
    recipe: Recipe,
    about_run: dict[str, Any],
    status: Status,
    fill: Callable[[Path], None],
) -> Run:
    """A run's folder, which appears whole."""
    part = path.parent / f".{path.name}.{os.getpid()}"
    try:
        part.mkdir(parents=True)
        (part / "checkpoints").mkdir()
        (part / "recipe.toml").write_text(dump(recipe))
        (part / "run.json").write_text(json.dumps(about_run))
        (part / "status.json").write_text(json.dumps({"status": status, "tokens": 0}))
        fill(part)
        part.rename(path)
    except OSError as error:
        if not path.exists():  # else another process made the same run first
            raise InputError(
                f"{path}: the run's folder could not be made: {error.strerror}"
            ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return open_run(path)


def check_fit(recipe: Recipe, corpus: Corpus, parent: Run | str | None = None) -> None:
    """Raises InputError for a vocabulary or a mixture that the corpus does not have. A model that
    comes from elsewhere may have more rows than its tokenizer has tokens: engines like multiples
    of 64.
    """
    asked, vocab = recipe.model.vocab, corpus.manifest.vocab
    if asked < vocab or (asked > vocab and not parent):
        name = recipe.data.corpus
        raise InputError(
            f"model.vocab={asked}, but corpus '{name}' has a vocabulary of {vocab}: set model.vocab={vocab}"
        )
    Windows(corpus, recipe.data, recipe.seed)


def checkpoint_at(run: Run, tokens: int | None = None) -> int:
    """Where the run has a checkpoint: at `tokens` tokens, or its last. Raises InputError."""
    there = checkpoint.positions(run.checkpoints)
    if not there or (tokens is not None and tokens not in there):
        listed = ", ".join(map(str, there)) or "none"
        asked = "" if tokens is None else f" at {tokens} tokens"
        raise InputError(f"{run.path}: no checkpoint{asked}; there are: {listed}")
    return there[-1] if tokens is None else tokens


def branch_start(run: Run) -> tuple[Run, int]:
    """Where a run that has no checkpoint yet begins: an ancestor and its checkpoint, kept from
    now on; 0 tokens is the beginning of that ancestor, or of the run itself if it begins anew.
    """
    ancestor, start = run, 0
    while not start and ancestor.parent and not ancestor.anew:
        at = ancestor.at_tokens or 0
        ancestor = open_run(run.lab / "runs" / ancestor.parent)
        start = keep_branch_start(ancestor, at)
    return ancestor, start


def keep_branch_start(parent: Run, at: int) -> int:
    """The parent's last checkpoint at or before `at` tokens, kept from now on; 0 if there is
    none.
    """
    there = [tokens for tokens in checkpoint.positions(parent.checkpoints) if tokens <= at]
    for start in reversed(there):
        if checkpoint.pin(parent.checkpoints, start):
            return start
    return 0


def lineage(run: Run) -> list[Run]:
    """The run, its parent, and so on to the first."""
    line = [run]
    while line[-1].parent:
        line.append(open_run(run.lab / "runs" / line[-1].parent))
    return line


def context_of(run: Run, asked: int | None = None) -> int:
    """The most positions that the model has learned, or the fewer `asked` for. Raises InputError
    where those are more.
    """
    known = max(one.recipe.data.context for one in lineage(run))
    if asked and asked > known:
        raise InputError(f"--context {asked}: {run.id} knows {known} positions")
    return asked or known


def origin(run: Run) -> dict[str, Any]:
    """Where the weights of an imported model came from; empty for a run that was trained here."""
    return _read_json(run.path / "run.json").get("origin", {})


def open_corpus(lab: Path, recipe: Recipe) -> Corpus:
    """The corpus that a recipe names. Raises InputError."""
    if recipe.is_imported:
        raise InputError(
            f"{recipe.name}: an imported model names no corpus: give one with `branch --corpus NAME`"
        )
    return Corpus.open(lab / "corpora" / recipe.data.corpus)


def list_runs(lab: Path) -> list[Run]:
    """Every run of a lab, oldest first."""
    folders = [
        p
        for p in (lab / "runs").glob("*")
        if (p / "run.json").exists() and not p.name.startswith(".")
    ]
    return [open_run(p) for p in sorted(folders, key=lambda p: (p / "run.json").stat().st_mtime_ns)]


def find_run(lab: Path, reference: str) -> Run:
    """A run by the start of its id, its name if only one has it, or its path. Raises InputError."""
    if (Path(reference) / "run.json").exists():
        return open_run(Path(reference))
    runs = list_runs(lab)
    found = [r for r in runs if r.id.startswith(reference)] or [
        r for r in runs if r.recipe.name == reference
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{reference}: {len(found)} runs of {lab} are called so: {', '.join(r.id for r in found)}"
        )
    words = [r.id for r in runs] + [r.recipe.name for r in runs]
    raise InputError(
        f"{reference}: no run of {lab} has this id or name{did_you_mean(reference, words)}"
    )


def open_run(path: Path) -> Run:
    about_run = _read_json(path / "run.json")
    recipe = load(path / "recipe.toml")
    fields = {key: about_run[key] for key in ("corpus", "kind", "parent", "at_tokens")}
    return Run(path.resolve(), recipe, **fields, anew=about_run.get("anew", False))


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: missing or damaged: {error}") from None
