"""What a fleet is asked for: recipes, runs that have been created, and branches, each as a task
that knows its run as soon as there is one. A stem that only branches ask for is a task, too.
"""

from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import DecayShapeName, Mixture, Recipe
from windtunnel.results.run import RunStatus
from windtunnel.results.study import Experiment, want_runs
from windtunnel.train import checkpoint
from windtunnel.train.branch import branch, go_on
from windtunnel.train.run import Run, check_fit, check_validated, create, open_run

_OVER = ("done", "failed")


@dataclass(frozen=True)
class Branch:
    """A run that is wanted from a checkpoint of a stem.

    It leaves at `at` tokens and decays over `decay` tokens; with `decay` 0 it goes on as a stem
    up to `tokens` tokens. `batch` and `lr` hold from there on.
    """

    stem: "Recipe | Run | Branch"
    at: int
    decay: int
    _: KW_ONLY
    tokens: int = 0
    shape: DecayShapeName = "linear"
    floor: float = 0.0
    mixture: Mixture | None = None
    batch: int | None = None
    lr: float | None = None
    name: str | None = None

    @property
    def end(self) -> int:
        """Tokens at its end, as far as they follow from what is asked."""
        return self.at + self.decay if self.decay else self.tokens

    @property
    def key(self) -> Hashable:
        """Everything but the stem. As text, since a mixture can't be hashed."""
        own = [one.name for one in fields(self) if one.name != "stem"]
        return tuple(repr(getattr(self, name)) for name in own)


@dataclass(eq=False, kw_only=True)
class Task:
    """One wanted run; `run` is None until it can be created."""

    wanted: Recipe | Run | Branch
    stem: "Task | None" = None
    points: set[int] = field(default_factory=set)  # tokens at which branches leave it
    run: Run | None = None
    _ended: bool = False  # its run was found done or failed, and stays so

    @property
    def at(self) -> int:
        """Tokens at which it leaves its stem."""
        return self.wanted.at if isinstance(self.wanted, Branch) else 0

    @property
    def recipe(self) -> Recipe:
        """That of the stem which it goes back to: of the same model and text."""
        wanted = self.wanted
        while isinstance(wanted, Branch):
            wanted = wanted.stem
        return wanted.recipe if isinstance(wanted, Run) else wanted

    @property
    def begun(self) -> Run:
        """The run of a task that could be created."""
        assert self.run
        return self.run

    def over(self) -> bool:
        """Whether there is nothing left to train: done, failed, or never to be begun, since its
        stem failed before it.
        """
        if self.run is None:
            return self.stem is not None and self.stem.failed_before(self.at)
        self._ended = self._ended or self.run.status().status in _OVER
        return self._ended

    def hear(self, status: RunStatus) -> None:
        """What its worker says of its run, which may not be seen here yet on a file system that
        machines share.
        """
        self._ended = self._ended or status.status in _OVER

    @property
    def saved(self) -> int:
        """Tokens at its last checkpoint; 0 where there is none."""
        return max(checkpoint.positions(self.begun.checkpoints), default=0)

    def failed_before(self, at: int) -> bool:
        """Whether no branch will ever leave it at `at` tokens."""
        if self.run is None:
            return self.over()
        return self.run.status().status == "failed" and not self.has(at)

    def has(self, at: int) -> bool:
        """Whether it keeps a checkpoint at `at` tokens."""
        return self.run is not None and at in checkpoint.positions(self.run.checkpoints)

    def can_be_left(self, at: int) -> bool:
        """Whether a branch can leave it at `at` tokens now. A stem that is done without a
        checkpoint there can be left, too: the branch is computed from an earlier one.
        """
        if self.run is None:
            return False
        return self.has(at) or self.run.status().status == "done"

    def work_left(self) -> float:
        """FLOPs, as far as the schedule goes."""
        if self.over():
            return 0.0
        recipe, wanted = self.recipe, self.wanted
        # a run may not exist yet, so the length is that which was asked for
        end = wanted.end if isinstance(wanted, Branch) else recipe.total_tokens
        # what lies before `at` is its stem's work
        reached = max(self.at, self.run.status().tokens if self.run else 0)
        each = flops_per_token(recipe.model, recipe.data.context)
        return float(each * max(0, end - reached))

    def result(self) -> Run:
        """The run as it is on the disk now; its stem's, where that failed before it."""
        if self.run:
            return open_run(self.run.path)
        assert self.stem
        return self.stem.result()


class Tasks:
    """The tasks of a fleet, stems among them, each once. `study`: which wants their runs."""

    def __init__(
        self, lab: Path, corpus: Corpus, study: Experiment[Any, Any] | None = None
    ) -> None:
        self.lab = lab
        self.corpus = corpus
        self._study = study
        self._told: list[str] = []  # ids, to those who look for unused runs
        self._by_key: dict[Hashable, Task] = {}

    @property
    def all(self) -> list[Task]:
        """In the order in which they were asked for, stems before their branches."""
        return list(self._by_key.values())

    def add(self, wanted: Recipe | Run | Branch) -> Task:
        """The task of what is wanted, and of the stems that it needs. Raises InputError where the
        recipe and the corpus do not fit, or would give no held-out loss.
        """
        if not isinstance(wanted, Branch):
            there = wanted if isinstance(wanted, Run) else None
            recipe = wanted.recipe if isinstance(wanted, Run) else wanted
            check_fit(recipe, self.corpus, there and there.parent)
            check_validated(recipe, self.corpus)
            run = there or create(self.lab, recipe, self.corpus)
            return self._by_key.setdefault(run.path, Task(wanted=wanted, run=run))
        stem = self.add(wanted.stem)
        stem.points.add(wanted.at)
        # a branch has no run yet, and so no path: it is known by its stem and what is asked of it
        return self._by_key.setdefault((id(stem), wanted.key), Task(wanted=wanted, stem=stem))

    @property
    def unvalidated(self) -> list[str]:
        """Of which sources no held-out loss will say anything, a line each."""
        lines: dict[str, None] = {}
        for task in self.all:
            recipe = task.recipe
            for source in Windows(self.corpus, recipe.data, recipe.seed).unvalidated:
                lines[
                    f"the source '{source}' holds out no whole window of {recipe.data.context} "
                    "tokens, and is left out of validation"
                ] = None
        return list(lines)

    def open_stems(self) -> None:
        """Tell the stems where their branches leave, so that they keep checkpoints there."""
        for task in self.all:
            # branch points are no part of a run's id: this is the same run, told of them
            if task.points and not isinstance(task.wanted, Branch):
                told = task.recipe.change(train={"branch_points": sorted(task.points)})
                begun = task.begun
                parent = open_run(self.lab / "runs" / begun.parent) if begun.parent else None
                task.run = create(
                    self.lab, told, self.corpus, parent, begun.at_tokens, anew=begun.anew
                )
        self.open_branches()

    def open_branches(self) -> None:
        """Create the branches whose stems have come to where they leave."""
        for task in self.all:
            if task.run is None and task.stem and task.stem.can_be_left(task.at):
                task.run = self._leave(task, task.stem.begun)
        begun = [task.run.id for task in self.all if task.run]
        if self._study and begun != self._told:
            want_runs(self.lab, self._study, begun)
            self._told = begun

    def waiting(self) -> list[Task]:
        """Tasks that could be trained now, those with most work first: the longest runs decide
        when a study ends.
        """
        self.open_branches()
        ready = [task for task in self.all if task.run and not task.over()]
        return sorted(ready, key=Task.work_left, reverse=True)

    def _leave(self, task: Task, stem: Run) -> Run:
        wanted = task.wanted
        assert isinstance(wanted, Branch)
        if wanted.decay:
            return branch(
                stem,
                self.corpus,
                at=wanted.at,
                decay=wanted.decay,
                shape=wanted.shape,
                floor=wanted.floor,
                mixture=wanted.mixture,
                batch=wanted.batch,
                lr=wanted.lr,
                name=wanted.name,
            )
        return go_on(
            stem,
            self.corpus,
            at=wanted.at,
            tokens=wanted.tokens,
            batch=wanted.batch,
            lr=wanted.lr,
            branch_points=sorted(task.points),
            name=wanted.name,
        )
