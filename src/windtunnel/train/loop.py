"""The one training loop: from the last checkpoint of a run, or of each member of a population, to
its last token.
"""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import torch
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Prefetched, Windows
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import multipliers
from windtunnel.model.shape import flops_per_token
from windtunnel.quantities import about
from windtunnel.recipe import Recipe
from windtunnel.results.run import Engine, RunSummary, Score, Status, StepLine, ValidationLine
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.compiled import Compiled, so_far
from windtunnel.train.device import choose_engine, matrix_peak
from windtunnel.train.recorder import Diverged, Recorder
from windtunnel.train.restore import put, replays, restore, take
from windtunnel.train.run import Run, check_fit, checkpoint_at
from windtunnel.train.schedule import rate
from windtunnel.train.step import Step
from windtunnel.train.validation import validate

_FLUSH_EVERY = 10  # steps; a device is not waited for in between
# of a model's settings, what members of a population need not share
_OWN = {
    "init_std",
    "scale_emb",
    "scale_depth",
    "parametrization",
    "base_width",
    "base_depth",
    "embedding_as",
}


@dataclass(frozen=True)
class Watch:
    """What the caller hears of a run, or of a study, while it is made, and how it asks it to
    stop.
    """

    say: Callable[[str], None] = lambda line: None
    step: Callable[[int, int, StepLine], None] = lambda tokens, total, line: None
    stop: Callable[[], bool] = lambda: False
    show: Callable[[str, float, float | None, str], None] = lambda what, done, total, note: None
    # (model, position): the batch's gradient stands in the parameters, the step has not been
    # taken; of a run alone
    gradient: Callable[[Decoder, int], None] = lambda model, position: None


def train(run: Run, corpus: Corpus, watch: Watch | None = None) -> RunSummary:
    """Start the run, resume it, or find it done; returns its summary.

    A run that diverges ends as `failed` with its last good checkpoint kept. Raises InputError for
    a run that can't be computed as asked: a corpus that does not fit, a damaged checkpoint, a
    full disk.
    """
    return train_together([run], corpus, [watch or Watch()])[0]


def train_together(
    runs: Sequence[Run], corpus: Corpus, watches: Sequence[Watch]
) -> list[RunSummary]:
    """The same for runs of one `population_key`, as members of a population: one set of kernels
    trains them all.

    Each member has its own seed, data order, settings, schedule, beginning and end, and ends as
    it would alone, but for rounding. One that diverges leaves the others as they are. When any
    watch asks to stop, all do.
    """
    begun = [
        (r, w)
        for r, w in zip(runs, watches, strict=True)
        if r.status().status not in ("done", "failed")
    ]
    with ExitStack() as locks:
        for run, _ in sorted(begun, key=lambda pair: pair[0].id):
            locks.enter_context(run.lock())
        if begun:
            _Trainer([_Seat(run, watch) for run, watch in begun], corpus).go()
    return [run.summary() for run in runs]


def population_key(run: Run) -> Hashable:
    """What runs must have in common to train together; one of its own for a run that can only
    train alone.
    """
    recipe = run.recipe
    model = frozenset((k, v) for k, v in recipe.model.model_dump().items() if k not in _OWN)
    carried_out = tuple(
        recipe.train.model_dump(
            include={"batch", "micro_batch", "precision", "compile", "device"}
        ).items()
    )
    attention = multipliers(recipe.model).attention  # which kernels take as a plain number
    text = (recipe.data.context, recipe.data.mask_documents, recipe.train.evaluate_tokens)
    shared = (model, attention, text)
    return (run.corpus, shared, carried_out, run.begun_on(), run.id if replays(run) else None)


def load_model(run: Run, tokens: int | None = None, device: str = "cpu") -> Decoder:
    """The run's model at its last checkpoint, or at the one of `tokens` tokens."""
    state = checkpoint.load(run.checkpoints, checkpoint_at(run, tokens), device)
    model = Decoder(run.recipe.model, run.recipe.data.context, run.recipe.seed).to(device)
    take(model, state)
    return model


@dataclass(eq=False)
class _Seat:
    """One run in training: where it stands and what was last measured of it."""

    run: Run
    watch: Watch
    position: int = 0
    steps: int = 0
    over: bool = False
    score: Score | None = None

    def open(self, corpus: Corpus) -> None:
        check_fit(self.recipe, corpus, self.run.parent)
        if self.run.corpus != corpus.digest:
            raise InputError(
                f"{corpus.folder}: its content is not that on which run {self.run.id} began"
            )
        self.windows = Windows(corpus, self.recipe.data, self.recipe.seed)

    def begin(self, position: int, steps: int, engine: Engine) -> None:
        self.position, self.steps = position, steps
        self.run.keep_metrics_until(position)
        self.recorder = Recorder(self.run)
        # an earlier process may have made the last validation before this position
        made = self.run.validations()
        self.score = made[-1].validation if made else None
        total = self.recipe.total_tokens
        self.watch.say(
            f"{self.run.id} {self.recipe.name}: {about(position)} of {about(total)} tokens; {engine}"
        )
        self.write_status("running")
        self.over = position >= total
        if self.over:
            self.write_status("done")

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @property
    def rate(self) -> float:
        """Share of the peak rate in the next step; a member that is over stands still."""
        return 0.0 if self.over else rate(self.recipe, self.position, self.recipe.train.batch)

    def write_status(self, status: Status, reason: str | None = None) -> None:
        self.run.write_status(status, self.position, self.score, reason)

    def fail(self, error: Diverged) -> None:
        self.over = True
        self.write_status("failed", str(error))

    @cached_property
    def branch_points(self) -> set[int]:
        return {self.recipe.whole_steps(tokens) for tokens in self.recipe.train.branch_points}

    @cached_property
    def milestones(self) -> set[int]:
        """The branch points, where a decay begins, and the end."""
        end = self.recipe.total_tokens
        return {end, end - self.recipe.decay_tokens, *self.branch_points}

    def due(self, every: int) -> bool:
        """At every so many tokens, and at the milestones."""
        before = self.position - self.recipe.train.batch
        return self.position in self.milestones or (
            every > 0 and self.position // every > before // every
        )

    def save(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        checkpoint.save(
            self.run.checkpoints, Checkpoint(self.position, self.steps, weights, moments)
        )
        # all that are there: a process may have been killed between saving one and pinning it
        for tokens in self.branch_points.intersection(checkpoint.positions(self.run.checkpoints)):
            checkpoint.pin(self.run.checkpoints, tokens)
        checkpoint.prune(self.run.checkpoints, self.recipe.train.keep)
        self.write_status("running")


class _Trainer:
    """Trains what sits in it: one run, or the members of a population."""

    def __init__(self, seats: list[_Seat], corpus: Corpus) -> None:
        for seat in seats:
            seat.open(corpus)
        self.seats, self.batch = seats, seats[0].recipe.train.batch
        recipe = seats[0].recipe
        engines = [seat.run.engine(choose_engine(seat.recipe, len(seats))) for seat in seats]
        self.engine = min(
            engines, key=lambda engine: engine.micro_batch
        )  # they were begun in other company
        self.document_end = corpus.document_end if recipe.data.mask_documents else None
        self.flops, self.peak = (
            flops_per_token(recipe.model, recipe.data.context),
            matrix_peak(self.engine),
        )
        self.step = self._seated()
        for seat in seats:
            seat.begin(*restore(self.step, seat.run, corpus, self._member(seat)), self.engine)
        self.reader = Prefetched()
        self._waiting: list[tuple[Tensor, Tensor, dict[int, tuple[int, float]]]] = []
        self._compiled: Compiled | None = (
            so_far() if self.engine.compiled else None
        )  # until it was told
        self._clock = perf_counter()

    def go(self) -> None:
        with _collector_out_of_the_way():
            while live := [seat for seat in self.seats if not seat.over]:
                self._advance(live)
                stopping = any(seat.watch.stop() for seat in self.seats)
                self._look_after(live, stopping)
                if stopping:
                    return
                self._close_ranks()

    def _advance(self, live: list[_Seat]) -> None:
        places = [
            (s.windows, s.position) for s in (live[0] if seat.over else seat for seat in self.seats)
        ]
        batch = self.reader.read(places, self.batch)
        loss = self.step.gradient(batch[0] if len(self.seats) == 1 else batch)
        if len(self.seats) == 1:
            live[0].watch.gradient(self.step.model, live[0].position)
        norm = self.step.update([seat.rate for seat in self.seats])
        taken = {}
        for place, seat in enumerate(self.seats):
            if not seat.over:
                lr = seat.rate * seat.recipe.optimizer.lr
                seat.position, seat.steps = seat.position + self.batch, seat.steps + 1
                taken[place] = (seat.position, lr)
        self._waiting.append((loss, norm, taken))

    def _look_after(self, live: list[_Seat], stopping: bool) -> None:
        """Record, evaluate and save what is due; let go of who has failed or come to the end."""
        evaluated = [
            seat
            for seat in live
            if seat.due(seat.recipe.train.evaluate_every.of(seat.recipe.total_tokens))
        ]
        saved = [
            seat
            for seat in live
            if stopping or seat.due(seat.recipe.train.checkpoint_every.of(seat.recipe.total_tokens))
        ]
        if not (evaluated or saved or len(self._waiting) >= _FLUSH_EVERY):
            return
        self._flush()
        with self._paused():
            self._evaluate([seat for seat in evaluated if not seat.over])
            for seat in saved:
                if not seat.over:
                    seat.save(*self._state(seat))
            for seat in live:
                if not seat.over and seat.position >= seat.recipe.total_tokens:
                    seat.over = True
                    seat.write_status("done")
                elif not seat.over and stopping:
                    seat.write_status("interrupted")

    def _flush(self) -> None:
        """Write the steps since the last time. The only place where a step's numbers are waited
        for.
        """
        shape = (len(self._waiting), len(self.seats))
        losses = torch.stack([loss.float() for loss, _, _ in self._waiting]).view(shape).tolist()
        norms = torch.stack([norm for _, norm, _ in self._waiting]).view(shape).tolist()
        now = perf_counter()
        speed = sum(len(taken) for _, _, taken in self._waiting) * self.batch / (now - self._clock)
        self._clock = now
        for place, seat in enumerate(self.seats):
            lines = [
                StepLine(
                    tokens=taken[place][0],
                    loss=loss[place],
                    lr=taken[place][1],
                    grad_norm=norm[place],
                    # of all members together: a run's own time is then its tokens over this
                    tokens_per_s=round(speed),
                    peak_share=round(speed * self.flops / self.peak, 4),
                )
                for (_, _, taken), loss, norm in zip(self._waiting, losses, norms, strict=True)
                if place in taken
            ]
            if lines:
                self._record(seat, lines)
        self._waiting.clear()
        if self._compiled and (new := so_far() - self._compiled) != Compiled():
            for seat in self.seats:
                seat.watch.say(f"{seat.run.id}: {new}")
        self._compiled = None

    def _record(self, seat: _Seat, lines: list[StepLine]) -> None:
        try:
            seat.recorder.steps(lines)
        except Diverged as error:
            seat.fail(error)
        else:
            seat.watch.step(seat.position, seat.recipe.total_tokens, lines[-1])

    def _evaluate(self, seats: list[_Seat]) -> None:
        if not seats:
            return
        train, mask = seats[0].recipe.train, seats[0].recipe.data.mask_documents
        results = validate(
            self.step.model, seats[0].windows, self.engine, train.evaluate_tokens, mask
        )
        for seat in seats:
            found = results[self.seats.index(seat)]
            try:
                seat.recorder.validation(ValidationLine(tokens=seat.position, validation=found))
            except Diverged as error:
                seat.fail(error)
            else:
                seat.score = found
                seat.write_status("running")

    def _state(self, seat: _Seat) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and moments of one seat; views."""
        member = self._member(seat)
        weights = {
            n: p.detach() if member is None else p.detach()[member]
            for n, p in self.step.model.named_parameters()
        }
        return weights, self.step.optimizer.state(member)

    def _seated(self) -> Step:
        return Step([seat.recipe for seat in self.seats], self.engine, self.document_end)

    def _member(self, seat: _Seat) -> int | None:
        return None if len(self.seats) == 1 else self.seats.index(seat)

    def _close_ranks(self) -> None:
        """Go on without the members that are over, once they are half of all: each size is
        compiled anew.
        """
        live = [seat for seat in self.seats if not seat.over]
        if not live or len(live) > len(self.seats) // 2 or self._waiting:
            return
        with self._paused():
            states = [self._state(seat) for seat in live]
            self.seats = live
            self.step = self._seated()
            for seat, (weights, moments) in zip(live, states, strict=True):
                put(
                    self.step,
                    Checkpoint(seat.position, seat.steps, weights, moments),
                    self._member(seat),
                )

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Time inside is not counted as training."""
        start = perf_counter()
        yield
        gc.collect()
        self._clock += perf_counter() - start


@contextmanager
def _collector_out_of_the_way() -> Iterator[None]:
    """Python's collector stops everything for up to half a second where many objects live: it is
    called in pauses.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
