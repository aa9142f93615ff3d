"""Runs: folders addressed by content, as a tree of stems and branches.

    lab/runs/ID/  recipe.toml  run.json  status.json  metrics.jsonl  checkpoints/TOKENS/

An id is a hash of the recipe and the parent, so asking for a run that exists gives that run. An
imported model is a stem of no tokens, with its weights as the checkpoint at 0 and a tokenizer of
its own beside it. A run that begins anew takes a parent's weights and nothing else, and counts
its tokens from 0.

Nothing here imports torch, and numpy only where a corpus is read: runs are listed, and plans
audited, without waiting for them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from windtunnel.errors import InputError, did_you_mean
from windtunnel.files import named, write_whole
from windtunnel.quantities import about
from windtunnel.recipe import (
    RESULTS_VERSION,
    ObjectiveKind,
    Recipe,
    dump,
    identity,
    load,
    objective_of,
)
from windtunnel.results.run import (
    AboutRun,
    Engine,
    Kind,
    MetricsLine,
    Origin,
    RunStatus,
    RunSummary,
    Score,
    Status,
    StepLine,
    ValidationLine,
)
from windtunnel.train import checkpoint
from windtunnel.train.owner import Lease, is_owned, own

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus

# Seconds to wait for a lock that somebody may only be looking at: `Run.status` takes it for a
# moment.
_LOOKED_AT = 0.5
_VALIDATION = b'"validation"'  # in the lines of metrics.jsonl that are one
# Of an id, that may stand for all of it.
_FEWEST_DIGITS = 4


class Busy(InputError):
    """Another process trains this run."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's folder: what `AboutRun` says of it, and its recipe. What can change while it
    trains is read from disk each time it is asked for.
    """

    path: Path
    recipe: Recipe
    corpus: str  # digest of its content; empty for an imported model
    kind: Kind
    parent: str | None
    at_tokens: int | None  # of the parent, where this run leaves it
    results_version: int
    anew: bool = False
    origin: Origin | None = None

    @property
    def id(self) -> str:
        """Twelve hex digits, the name of its folder."""
        return self.path.name

    @property
    def present_id(self) -> str:
        """The id that asking for this run gives now; its own, unless an earlier release made it."""
        return _identity(self.recipe, self.corpus, self.parent, self.at_tokens, self.anew)

    @property
    def lab(self) -> Path:
        """The lab's folder."""
        return self.path.parent.parent

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.path / "checkpoints"

    @property
    def start(self) -> int:
        """The position at which its own tokens begin."""
        return 0 if self.anew else self.at_tokens or 0

    @property
    def tokenizer(self) -> Path:
        """Its tokenizer.json: an imported model's own, or the corpus's."""
        own = self.path / "tokenizer.json"
        corpus = self.lab / "corpora" / self.recipe.data.corpus
        return own if own.exists() else corpus / "tokenizer.json"

    def status(self) -> RunStatus:
        """status.json, with a run that nobody trains any more as `interrupted`, and also a stem
        that was done and is now asked for more. Raises InputError.
        """
        found = RunStatus.read(self.path / "status.json")
        abandoned = found.status == "running" and not self._is_trained()
        extended = found.status == "done" and found.tokens < self.recipe.total_tokens
        if abandoned or extended:
            return found.model_copy(update={"status": "interrupted"})
        return found

    def write_status(
        self, status: Status, tokens: int, score: Score | None = None, reason: str | None = None
    ) -> None:
        """Write status.json. `tokens`: trained; `score`: of the last validation, over all
        sources; `reason`: why the run failed.
        """
        RunStatus(
            status=status,
            tokens=tokens,
            loss=score and score.loss,
            bits_per_byte=score and score.bits_per_byte,
            reason=reason,
        ).write(self.path / "status.json")

    def summary(self, status: RunStatus | None = None) -> RunSummary:
        """The run as `windtunnel runs --json` lists it. `status`: where it was read already."""
        status = status or self.status()
        return RunSummary(
            id=self.id,
            name=self.recipe.name,
            kind=self.kind,
            parent=self.parent,
            at_tokens=self.at_tokens,
            tokens=status.tokens,
            total_tokens=self.recipe.total_tokens,
            status=status.status,
            loss=status.loss,
            bits_per_byte=status.bits_per_byte,
            reason=status.reason,
            path=self.path,
        )

    def begun_on(self) -> Engine | None:
        """How the run's first start chose to compute it; None for one that was never started."""
        file = self.path / "engine.json"
        return Engine.read(file) if file.exists() else None

    def keep_engine(self, engine: Engine) -> None:
        """Remember how the run is computed, at its first start."""
        engine.write(self.path / "engine.json")

    def forget_engine(self) -> None:
        """Have the next start choose anew how the run is computed. Raises Busy."""
        with self.lock():
            (self.path / "engine.json").unlink(missing_ok=True)

    def steps(self) -> list[StepLine]:
        """The steps in metrics.jsonl, in order. Raises InputError for a damaged line."""
        lines = self._metrics()
        return [StepLine.parse(text, at) for at, text in lines if _VALIDATION not in text]

    def validations(self) -> list[ValidationLine]:
        """The validations in metrics.jsonl, in order. Raises InputError for a damaged line."""
        lines = self._metrics()
        return [ValidationLine.parse(text, at) for at, text in lines if _VALIDATION in text]

    def keep_metrics_until(self, tokens: int) -> None:
        """Drop what was recorded after a checkpoint: it will be recorded again."""
        lines = self._metrics()
        kept = [text for at, text in lines if MetricsLine.parse(text, at).tokens <= tokens]
        write_whole(self.path / "metrics.jsonl", b"".join(text + b"\n" for text in kept))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run, to train it or to remove it. Raises Busy when another process trains it,
        and InputError where nothing may be written, or where the run was removed meanwhile.
        """
        if is_owned(self.path):
            raise Busy(f"{self.path}: a fleet on another machine is training this run")
        path = self.path / "lock"
        try:
            file = path.open("wb")
        except FileNotFoundError:
            raise self._removed() from None
        except OSError as error:
            raise InputError(f"{path}: could not be written: {error.strerror}") from None
        with file:
            give_up = time.monotonic() + _LOOKED_AT
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > give_up:
                    raise Busy(f"{self.path}: another process is training this run")
                time.sleep(0.001)
            if not _is_at(file, path):  # it was waited for while another process removed the run
                raise self._removed()
            yield

    def own(self, lost: Lease | None = None) -> Lease | None:
        """`owner.own`; None also where a process of this machine trains the run."""
        return None if self._is_locked() else own(self.path, lost)

    def _removed(self) -> InputError:
        return InputError(f"{self.path}: there is no such run any more: it was removed")

    def _is_trained(self) -> bool:
        return self._is_locked() or is_owned(self.path)

    def _is_locked(self) -> bool:
        # Looking writes nothing: a lab may lie where nothing can be written.
        try:
            with (self.path / "lock").open("rb") as file:
                return not _locked(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def _metrics(self) -> list[tuple[str, bytes]]:
        """Each whole line of metrics.jsonl, and where it stands. The last one may be half-written
        by a run that was killed, and is left out.
        """
        file = self.path / "metrics.jsonl"
        whole = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [(f"{file}, line {number}", text) for number, text in enumerate(whole, 1)]


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
    at = at_tokens or 0
    run = _identity(recipe, corpus.digest, parent and parent.id, at_tokens, anew)
    path = lab / "runs" / run
    if path.exists():
        return _extended(open_run(path), recipe)

    def keep_start(_: Path) -> None:
        if parent and keep_branch_start(parent, at) != at and anew:
            raise InputError(f"{parent.path}: its checkpoint at {at} tokens is no longer there")

    about = AboutRun(
        id=path.name,
        kind="stem" if recipe.is_stem else "branch" if parent and not anew else "run",
        parent=parent and parent.id,
        at_tokens=at_tokens,
        corpus=corpus.digest,
        anew=anew,
        results_version=RESULTS_VERSION,
    )
    return _make(path, recipe, about, "interrupted", keep_start)


def _extended(run: Run, recipe: Recipe) -> Run:
    """A run that exists, as long as it is or is now asked for, with the branch points of both."""
    if not recipe.is_stem:
        return run
    asked = recipe if recipe.total_tokens > run.recipe.total_tokens else run.recipe
    points = {*run.recipe.train.branch_points, *recipe.train.branch_points}
    asked = asked.change(train={"branch_points": sorted(points)})
    if asked == run.recipe:
        return run
    write_whole(run.path / "recipe.toml", dump(asked))
    return open_run(run.path)


def adopt(
    lab: Path, recipe: Recipe, content: str, origin: Origin, fill: Callable[[Path], None]
) -> Run:
    """The run of a model that was trained elsewhere: the one that exists with this content, or a
    new folder, to which `fill` adds the checkpoint at 0 tokens and the tokenizer. `content`:
    digests of all that it adds.
    """
    path = lab / "runs" / identity(recipe, content)
    if path.exists():
        return open_run(path)
    about = AboutRun(
        id=path.name,
        kind="stem",
        parent=None,
        at_tokens=None,
        corpus="",
        origin=origin,
        results_version=RESULTS_VERSION,
    )
    return _make(path, recipe, about, "done", fill)


def _make(
    path: Path, recipe: Recipe, about: AboutRun, status: Status, fill: Callable[[Path], None]
) -> Run:
    """A run's folder, which appears whole."""
    if named(path) != str(path):
        raise InputError(
            f"{named(path)}: this path is not UTF-8 here, and no checkpoint could be read from it "
            "again; expected another --lab, or a locale in UTF-8"
        )
    part = path.parent / f".{path.name}.{os.getpid()}"
    try:
        part.mkdir(parents=True)
        (part / "checkpoints").mkdir()
        write_whole(part / "recipe.toml", dump(recipe))
        about.write(part / "run.json")
        RunStatus(status=status, tokens=0).write(part / "status.json")
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
    """Raises InputError for a vocabulary, a mixture or an objective for which the corpus is not
    made.

    A model that comes from elsewhere may have more rows than its tokenizer has tokens: engines
    like multiples of 64.
    """
    from windtunnel.data.windows import Windows

    asked, vocab = recipe.model.vocab, corpus.manifest.vocab
    if asked < vocab or (asked > vocab and not parent):
        raise InputError(
            f"model.vocab={asked}, but corpus '{recipe.data.corpus}' has a vocabulary of {vocab}: "
            f"set model.vocab={vocab}"
        )
    objective = objective_of(recipe.train.objective, corpus.holds)
    _check_preference(recipe, corpus, objective)
    Windows(corpus, recipe.data, recipe.seed)


def _check_preference(recipe: Recipe, corpus: Corpus, objective: ObjectiveKind) -> None:
    """Raises InputError for preferences without a section that says how they are learnt, for one
    without preferences, and for a loss that needs others than the corpus holds.
    """
    asked, packing = recipe.preference, corpus.manifest.packing
    learns = objective.needs == "preferences"
    if learns != (asked is not None):
        expected = "expected" if learns else "did not expect"
        raise InputError(
            f"preference: {corpus.folder.name} holds {corpus.holds}, and the objective is "
            f"'{objective.name}': {expected} a section 'preference' in the recipe"
        )
    if asked and packing and packing.answers != asked.kind.needs:
        raise InputError(
            f"preference.loss='{asked.loss}' learns from {asked.kind.needs}, but the answers of "
            f"{corpus.folder.name} are {packing.answers}"
        )


def check_validated(recipe: Recipe, corpus: Corpus) -> None:
    """Raises InputError where the run would have no held-out loss, for those who need one."""
    from windtunnel.data.windows import Windows

    if not Windows(corpus, recipe.data, recipe.seed).are_validated:
        raise InputError(
            f"{corpus.folder}: no source of the mixture holds out a whole window of "
            f"{recipe.data.context} tokens, and a study needs a held-out loss: build the corpus "
            "with more text or a larger --validation, or take a shorter context"
        )


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
    known = longest_seen(lineage(run))
    if asked and asked > known:
        raise InputError(f"--context {asked}: {run.id} was made for at most {known} tokens")
    return asked or known


def longest_seen(line: Sequence[Run]) -> int:
    """Tokens of the longest text that attention has seen in these runs: half a window where that
    holds a question with two answers, since it stays within each.
    """
    return max(one.recipe.data.context // (2 if one.recipe.preference else 1) for one in line)


def open_corpus(lab: Path, recipe: Recipe) -> Corpus:
    """The corpus that a recipe names. Raises InputError."""
    if recipe.is_imported:
        raise InputError(
            f"{recipe.name}: an imported model names no corpus: "
            "give one with --corpus NAME, as `branch` and `longer` take it"
        )
    from windtunnel.data.shards import Corpus

    return Corpus.open(lab / "corpora" / recipe.data.corpus)


@dataclass(frozen=True, kw_only=True)
class RunsFound:
    """What a lab's folder of runs holds."""

    runs: list[Run]
    """Oldest first."""
    statuses: dict[str, RunStatus]
    """By the run's id."""
    unreadable: dict[str, str]
    """Why a folder can't be read as a run, in one line that names the file, by the folder's
    name.
    """


def read_runs(lab: Path) -> RunsFound:
    """Every run of a lab, and every folder of it that is damaged, which hides no other."""
    runs: list[tuple[float, Run]] = []
    statuses: dict[str, RunStatus] = {}
    unreadable: dict[str, str] = {}
    there = (lab / "runs").resolve()
    for path in sorted(_folders(lab / "runs")):
        try:
            run = _opened(path, there / path.name)
            statuses[run.id] = run.status()
            runs.append(((path / "run.json").stat().st_mtime_ns, run))
        except InputError as error:
            unreadable[path.name] = str(error)
        except OSError as error:
            unreadable[path.name] = f"{error.filename or path}: {error.strerror}"
    by_age = sorted(runs, key=lambda made: made[0])
    return RunsFound(runs=[run for _, run in by_age], statuses=statuses, unreadable=unreadable)


def list_runs(lab: Path) -> list[Run]:
    """Every run of a lab that can be read, oldest first."""
    return read_runs(lab).runs


def find_run(lab: Path, reference: str, found: RunsFound | None = None) -> Run:
    """A run by its id, its name, its path, or the first digits of its id, four at least: in this
    order, so that a name is never taken for the beginning of an id. `found`: what the lab holds,
    where that was read already. Raises InputError, with the runs that are meant where they are
    several.
    """
    found = found or read_runs(lab)
    meant = [run for run in found.runs if run.id == reference]
    meant = meant or [run for run in found.runs if run.recipe.name == reference]
    if not meant and (Path(reference) / "run.json").exists():
        return open_run(Path(reference))
    if not meant and len(reference) >= _FEWEST_DIGITS:
        ids = [*(run.id for run in found.runs), *found.unreadable]
        begun = [one for one in ids if one.startswith(reference)]
        if len(begun) == 1 and begun[0] in found.unreadable:
            raise InputError(found.unreadable[begun[0]])
        if len(begun) > 1:
            listed = ", ".join(begun)
            raise InputError(f"{reference}: {len(begun)} runs of {lab} have such an id: {listed}")
        meant = [run for run in found.runs if run.id in begun]
    if len(meant) == 1:
        return meant[0]
    if meant:
        ids = ", ".join(_told_apart(run) for run in meant)
        raise InputError(
            f"{reference}: {len(meant)} runs of {lab} have this name; give an id: {ids}"
        )
    raise InputError(f"{reference}: no run of {lab} has this id or name{_hint(found, reference)}")


def _told_apart(run: Run) -> str:
    return f"{run.id} ({about(run.recipe.total_tokens)} tokens, lr {run.recipe.optimizer.lr:g})"


def called(run: Run) -> str:
    """What to type for this run: its name where no other of its lab has it, else its id."""
    name = run.recipe.name
    alike = [one for one in list_runs(run.lab) if one.recipe.name == name]
    return name if len(alike) == 1 and not name.startswith("-") else run.id


def _hint(found: RunsFound, reference: str) -> str:
    """What to add where there is no such run."""
    if any(run.id.startswith(reference) for run in found.runs):
        return f"; expected at least {_FEWEST_DIGITS} digits of an id"
    known = [run.id for run in found.runs] + [run.recipe.name for run in found.runs]
    hint = did_you_mean(reference, known)
    if found.unreadable:
        hint += f"; {len(found.unreadable)} of its runs cannot be read, see `windtunnel runs`"
    return hint


def _folders(runs: Path) -> list[Path]:
    """The folders of runs, those that are still being made left out. Raises InputError where they
    can't be listed.
    """
    if not runs.is_dir():
        return []
    try:
        return [path for path in runs.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as error:
        raise InputError(f"{runs}: cannot be read: {error.strerror}") from None


def open_run(path: Path) -> Run:
    """The run in a folder. Raises InputError for a file that is missing or damaged."""
    return _opened(path, path.resolve())


def _opened(path: Path, whole: Path) -> Run:
    """`whole`: the path as the run keeps it, wherever the process goes."""
    about = AboutRun.read(path / "run.json")
    return Run(
        path=whole,
        recipe=load(path / "recipe.toml"),
        corpus=about.corpus,
        kind=about.kind,
        parent=about.parent,
        at_tokens=about.at_tokens,
        anew=about.anew,
        origin=about.origin,
        results_version=about.results_version,
    )


def _identity(
    recipe: Recipe, corpus: str, parent: str | None, at_tokens: int | None, anew: bool
) -> str:
    """The id of a run that leaves its parent, if it has one, at `at_tokens` tokens."""
    if parent is None:
        return identity(recipe, corpus)
    return identity(recipe, corpus, (f"{parent} anew" if anew else parent, at_tokens or 0))


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one that lies there now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
