"""A run in training: where it stands, what it has been told to keep, and who watches it. A run
that trains alone is the only member.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.quantities import Length, about
from windtunnel.recipe import Recipe
from windtunnel.results.run import Engine, Score, Status, StepLine, Validation, ValidationLine
from windtunnel.train import checkpoint
from windtunnel.train.parallel import ALONE, Ranks
from windtunnel.train.recorder import Diverged, Recorder
from windtunnel.train.run import Run, check_fit
from windtunnel.train.schedule import rate
from windtunnel.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the caller hears of a run, or of a study, while it is made, and how it asks it to
    stop.
    """

    say: Callable[[str], None] = lambda line: None
    """A line for a person."""
    step: Callable[[int, int, StepLine], None] = lambda tokens, total, line: None
    """Steps were recorded: tokens so far, tokens of the whole run, and the last step."""
    saving: Callable[[int], None] = lambda tokens: None
    """A checkpoint is being written while training goes on: its tokens."""
    saved: Callable[[int], None] = lambda tokens: None
    """That checkpoint is on the disk: its tokens."""
    stop: Callable[[], bool] = lambda: False
    """Whether to save and end; asked after each step."""
    show: Callable[[str, float, float | None, str], None] = lambda what, done, total, note: None
    """How far something has come: its name, what is done, of how much if that is known, a note."""
    gradient: Callable[[Step, int], None] = lambda step, position: None
    """Of a run alone: the gradient of the batch at this position stands in the parameters of the
    step's model, and the step has not been taken."""


@dataclass(eq=False, kw_only=True)
class Member:
    """One run in training."""

    run: Run
    watch: Watch
    windows: Windows
    ranks: Ranks = ALONE
    position: int = 0  # tokens
    steps: int = 0
    over: bool = False
    failure: str | None = None  # why it is over before its end
    recorded: bool = False  # whether the disk says that it is over, and how
    score: Score | None = None  # of its last validation
    validated: int | None = None  # tokens at that validation

    @classmethod
    def of(cls, run: Run, corpus: Corpus, watch: Watch, ranks: Ranks = ALONE) -> Self:
        """Raises InputError for a corpus that the recipe does not fit, or that is not the one on
        which the run was begun.
        """
        check_fit(run.recipe, corpus, run.parent)
        if run.corpus != corpus.digest:
            raise InputError(
                f"{corpus.folder}: its content is not that on which run {run.id} began"
            )
        windows = Windows(corpus, run.recipe.data, run.recipe.seed)
        return cls(run=run, watch=watch, windows=windows, ranks=ranks)

    def begin(self, position: int, steps: int, engine: Engine) -> None:
        """Go on from a position, in tokens and in updates."""
        self.position, self.steps = position, steps
        if self.ranks.first:
            checkpoint.clear(self.run.checkpoints)
            self.run.keep_metrics_until(position)
        self.ranks.wait()
        self._recorder = Recorder(self.run, writes=self.ranks.first)
        # an earlier process may have made the last validation before this position
        made = self.run.validations()
        if made:
            self.score, self.validated = made[-1].validation, made[-1].tokens
        total = self.recipe.total_tokens
        stands = f"{about(position)} of {about(total)} tokens"
        self.watch.say(f"{self.run.id} {self.recipe.name}: {stands}; {engine}")
        for source in self.windows.unvalidated:
            self.watch.say(
                f"{self.run.id}: the source '{source}' holds out no whole window of "
                f"{self.windows.context} tokens, and is left out of validation"
            )
        self.write_status("running")

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.run.recipe

    @property
    def rate(self) -> float:
        """Share of the peak rate in the next step; a member that is over stands still."""
        return 0.0 if self.over else rate(self.recipe, self.position, self.batch)

    @property
    def batch(self) -> int:
        """Tokens of the next step."""
        return self.recipe.batch_at(self.position)

    @cached_property
    def branch_points(self) -> set[int]:
        """Positions at which a checkpoint is kept for branches."""
        return {self.recipe.whole_steps(tokens) for tokens in self.recipe.train.branch_points}

    @cached_property
    def milestones(self) -> set[int]:
        """The branch points, where a decay begins, and the end."""
        end = self.recipe.total_tokens
        return {end, end - self.recipe.decay_tokens, *self.branch_points}

    def due(self, every: Length) -> bool:
        """Whether what is done every so many tokens, and at the milestones, is due now."""
        tokens = every.of(self.recipe.total_tokens)
        before = self.recipe.whole_steps(self.position - 1)
        passed = tokens > 0 and self.position // tokens > before // tokens
        return passed or self.position in self.milestones

    def validation_missing(self) -> bool:
        """Whether this run has a checkpoint here, at which a validation is due that was never
        made.
        """
        trained = self.position > self.run.start
        made = self.validated == self.position
        missing = trained and not made and self.due(self.recipe.train.evaluate_every)
        # what one rank reads of a shared disk may be older than what another one does
        return self.ranks.agree(missing)

    def step_taken(self) -> None:
        """Count a step."""
        self.position += self.batch
        self.steps += 1

    def record_steps(self, lines: list[StepLine]) -> None:
        """Write steps that were taken; the run is over where they diverge."""
        try:
            self._recorder.steps(lines)
        except Diverged as error:
            self.over, self.failure = True, str(error)
        else:
            self.watch.step(self.position, self.recipe.total_tokens, lines[-1])

    def record_validation(self, found: Validation) -> None:
        """Write a validation of this position; the run is over where it is not a number."""
        try:
            self._recorder.validation(ValidationLine(tokens=self.position, validation=found))
        except Diverged as error:
            self.over, self.failure = True, str(error)
        else:
            self.score, self.validated = found, self.position
            self.write_status("running")

    def saved(self, tokens: int) -> None:
        """Say that the checkpoint at this position is on the disk, and remove those that the recipe
        does not keep; where the validation there was not a number, that one alone.
        """
        folder = self.run.checkpoints
        if not self.ranks.first:
            return
        if self.over and self.position == tokens:
            checkpoint.remove(folder, tokens)
            return
        # all that are there: a process may have been killed between saving one and pinning it
        for kept in self.branch_points.intersection(checkpoint.positions(folder)):
            checkpoint.pin(folder, kept)
        checkpoint.prune(folder, self.recipe.train.keep)
        if tokens >= (self.validated or 0):
            self.run.write_status("running", tokens, self.score)
        self.watch.saved(tokens)

    def end(self, status: Status, reason: str | None = None) -> None:
        """Take no more steps, and say so on the disk."""
        self.over = self.recorded = True
        self.write_status(status, reason)

    def write_status(self, status: Status, reason: str | None = None) -> None:
        """Write status.json as of this position."""
        if self.ranks.first:
            self.run.write_status(status, self.position, self.score, reason)
