"""The one training loop: from the last checkpoint of a run, or of each member of a population, to
its last token.
"""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Prefetched, Wanted
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder, shared_by_members
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import objective_of
from windtunnel.results.run import Engine, RunSummary, StepLine
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.clock import RunningClock
from windtunnel.train.compiled import Compiled, so_far
from windtunnel.train.device import as_deterministic, check_fits, choose_engine, matrix_peak
from windtunnel.train.member import Member, Watch
from windtunnel.train.parallel import ALONE, Ranks, check_shares
from windtunnel.train.preference import Reference
from windtunnel.train.restore import put, replays, restore, take
from windtunnel.train.run import Run, checkpoint_at
from windtunnel.train.saver import Saver
from windtunnel.train.step import Step
from windtunnel.train.validation import validate

_FLUSH_EVERY = 10  # steps; the device is not waited for in between
_UNDER_WAY = ("running", "interrupted")
# Of how a run is carried out, what members of a population must share.
_CARRIED_OUT = {
    "batch",
    "objective",
    "micro_batch",
    "precision",
    "compile",
    "device",
    "deterministic",
    "evaluate_tokens",
}


def train(run: Run, corpus: Corpus, watch: Watch | None = None, ranks: Ranks = ALONE) -> RunSummary:
    """Start the run, resume it, or find it done; returns its summary. `ranks`: of the processes
    that train it together, each of which calls this.

    A run that diverges ends as `failed` with its last good checkpoint kept. Raises InputError for
    a run that can't be computed as asked: a corpus that does not fit, a damaged checkpoint, a
    full disk.
    """
    return train_together([run], corpus, [watch or Watch()], ranks=ranks)[0]


def train_together(
    runs: Sequence[Run],
    corpus: Corpus,
    watches: Sequence[Watch],
    hold: Callable[[Run], AbstractContextManager[None]] = Run.lock,
    ranks: Ranks = ALONE,
) -> list[RunSummary]:
    """The same for runs of one `population_key`, as members of a population: one set of kernels
    trains them all.

    Each member has its own seed, data order, settings, schedule, beginning and end, and ends as
    it would alone, but for rounding. One that diverges leaves the others as they are. When any
    watch asks to stop, all do. `hold` keeps others from training a run at the same time.
    """
    pairs = zip(runs, watches, strict=True)
    begun = [(run, watch) for run, watch in pairs if ranks.agree(run.status().status in _UNDER_WAY)]
    with ExitStack() as locks:
        # always in one order: two processes that each wait for the other's would wait for ever
        for run, _ in sorted(begun, key=lambda pair: pair[0].id):
            if ranks.first:
                locks.enter_context(hold(run))
        if begun:
            ranks.wait()
            with _collector_out_of_the_way():
                members = [Member.of(run, corpus, watch, ranks) for run, watch in begun]
                _Trainer(members, corpus, ranks).go()
    ranks.wait()
    return [run.summary() for run in runs]


def population_key(run: Run) -> Hashable:
    """What runs must have in common to train together; one of its own for a run that can only
    train alone.
    """
    recipe = run.recipe
    shared = (
        run.corpus,
        shared_by_members(recipe.model),
        recipe.data.context,
        recipe.data.mask_documents,
        recipe.optimizer.kind,
        recipe.preference and recipe.preference.model_copy(update={"beta": 0.0}),
        tuple(recipe.train.model_dump(include=_CARRIED_OUT).items()),
    )
    alone = replays(run) or recipe.train.growth
    return (shared, run.begun_on(), run.id if alone else None)


def load_model(run: Run, tokens: int | None = None, device: str = "cpu") -> Decoder:
    """The run's model at its last checkpoint, or at the one of `tokens` tokens."""
    state = checkpoint.load(run.checkpoints, checkpoint_at(run, tokens))
    model = Decoder(run.recipe.model, run.recipe.data.context, run.recipe.seed).to(device)
    take(model, state)
    return model


def _engine(member: Member, members: int) -> Engine:
    """How a member is computed: as it was begun. Where this machine would choose otherwise now, it
    says so.
    """
    run, recipe, ranks = member.run, member.recipe, member.ranks
    begun = run.begun_on()
    choice = choose_engine(recipe, members, None, ranks.world, ranks.machine)
    kept = choose_engine(recipe, members, begun, ranks.world, ranks.machine)
    ranks.wait()
    if ranks.first and (begun is None or kept.worlds != begun.worlds):
        run.keep_engine(kept if begun is None else begun.model_copy(update={"worlds": kept.worlds}))
    if begun is None:
        return choice
    choice = choice.model_copy(update={"worlds": kept.worlds})
    if members == begun.members and kept != choice:
        member.watch.say(
            f"{run.id}: it is computed as it was begun, and not as this machine would choose: "
            f"{choice}. `--engine anew` takes that; its result then has other bits."
        )
    return kept


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A step that was taken. Its numbers stand on the device until they are recorded."""

    loss: Tensor  # () or (P,)
    norm: Tensor
    batch: int  # tokens of each member
    members: dict[Member, tuple[int, float]]  # that took it: the position after it, and the rate


class _Trainer:
    """Trains its members: one run alone, or a population; or, of a run alone, one rank's share."""

    def __init__(self, members: list[Member], corpus: Corpus, ranks: Ranks) -> None:
        recipe = members[0].recipe
        check_shares(recipe, ranks.world)
        if len(members) > 1 and ranks.world > 1:
            raise InputError(
                f"{recipe.name}: runs train together in one process, and {ranks.world} were started"
            )
        self._members, self._ranks = members, ranks
        self._document_end = corpus.document_end if recipe.data.mask_documents else None
        self._objective = objective_of(recipe.train.objective, corpus.holds)
        # each may have been begun in another company
        engines = [_engine(member, len(members)) for member in members]
        self._engine = min(engines, key=lambda engine: engine.micro_batch)
        if len(members) == 1:
            check_fits(recipe, self._engine, ranks.machine)
        self._flops = flops_per_token(recipe.model, recipe.data.context)
        self._peak = matrix_peak(self._engine)
        self._reference = Reference.of(
            recipe, members[0].run.lab, corpus, self._engine, _shown(members[0].watch), ranks
        )
        self._step = self._made_step()
        with as_deterministic(self._engine):
            for member in members:
                start = restore(self._step, member.run, corpus, self._place(member), ranks)
                member.begin(*start, self._engine)
        self._reader, self._saver = Prefetched(), Saver(ranks)
        # positions of checkpoints that are being written
        self._saving: dict[Member, int] = {}
        self._waiting: list[_Taken] = []
        # what was compiled before the first steps; None once that was told
        self._compiled: Compiled | None = so_far() if self._engine.compiled else None
        self._clock = RunningClock()
        self._flushed = self._clock.now()

    def go(self) -> None:
        """Train until every member is over or a watch asks to stop."""
        with self._clock, as_deterministic(self._engine), self._saver:
            self._make_up_for_validations()
            while live := self._live:
                self._advance(live)
                asked = any(member.watch.stop() for member in self._members)
                stopping = self._ranks.agree(asked)
                if self._saver.has_ended():
                    with self._paused():
                        self._say_saved()
                self._look_after(live, stopping)
                if stopping:
                    return
                self._shrink()

    @property
    def _live(self) -> list[Member]:
        return [member for member in self._members if not member.over]

    def _advance(self, live: list[Member]) -> None:
        """One step of all members; those that are over read along and stand still."""
        # no place is left empty: the kernels are compiled for this number of members
        reading = [live[0] if member.over else member for member in self._members]
        after = live[0].position + live[0].batch
        batch = self._reader.read(
            self._wanted(reading, 0, live[0].batch),
            self._wanted(reading, live[0].batch, live[0].recipe.batch_at(after)),
        )
        alone = len(self._members) == 1
        loss = self._step.gradient(batch[0] if alone else batch)
        if alone:
            live[0].watch.gradient(self._step, live[0].position)
        rates = [member.rate for member in self._members]
        norm = self._step.update(rates)
        took, tokens = {}, live[0].batch
        for member, share in zip(self._members, rates, strict=True):
            if member.over:
                continue
            member.step_taken()
            took[member] = (member.position, share * member.recipe.optimizer.lr)
        self._waiting.append(_Taken(loss=loss, norm=norm, batch=tokens, members=took))

    def _wanted(self, reading: list[Member], later: int, batch: int) -> Wanted:
        """What this rank reads of the batch that begins so many tokens later."""
        places = [self._ranks.place(member.position + later, batch) for member in reading]
        windows = [member.windows for member in reading]
        return [(one, at) for one, (at, _) in zip(windows, places, strict=True)], places[0][1]

    def _look_after(self, live: list[Member], stopping: bool) -> None:
        """Record, evaluate and save what is due; let go of members that have failed or have come
        to their end.
        """
        # each by its own recipe: members may begin and end at different tokens
        evaluated = [one for one in live if one.due(one.recipe.train.evaluate_every)]
        saved = [one for one in live if stopping or one.due(one.recipe.train.checkpoint_every)]
        if not (evaluated or saved or len(self._waiting) >= _FLUSH_EVERY):
            return
        self._flush()
        with self._paused():
            # saved first: what was trained is safe, whatever becomes of the validation
            self._save([member for member in saved if not member.over])
            evaluated = [member for member in evaluated if not member.over]
            self._evaluate(evaluated)
            self._agree(live)
            left = [member for member in live if not member.over]
            ending = [one for one in left if one.position >= one.recipe.total_tokens]
            if evaluated or ending or stopping:
                self._say_saved()
            for member in ending:
                member.end("done")
            if stopping:
                for member in self._live:
                    member.write_status("interrupted")

    def _save(self, members: list[Member]) -> None:
        """Begin to write a checkpoint of these members, once the last ones are written."""
        if not members:
            return
        self._say_saved()
        self._saver.begin([(member.run.checkpoints, self._state(member)) for member in members])
        self._saving = {member: member.position for member in members}
        for member in members:
            member.watch.saving(member.position)

    def _say_saved(self) -> None:
        """Wait for the checkpoints that are being written, and say that they are there."""
        self._saver.end()
        for member, position in self._saving.items():
            member.saved(position)
        self._saving = {}

    def _make_up_for_validations(self) -> None:
        """Evaluate where an earlier process ended between a checkpoint and its validation."""
        missing = [member for member in self._live if member.validation_missing()]
        if missing:
            with self._paused():
                self._evaluate(missing)
                self._agree(missing)
        for member in self._live:
            if member.position >= member.recipe.total_tokens:
                member.end("done")

    def _flush(self) -> None:
        """Record the steps since the last time. The only place where a step's numbers are waited
        for.
        """
        shape = (len(self._waiting), len(self._members))
        parts = torch.stack([taken.loss.float() for taken in self._waiting]).view(shape)
        losses = self._ranks.sum(parts).tolist()
        norms = torch.stack([taken.norm for taken in self._waiting]).view(shape).tolist()
        now = self._clock.now()
        tokens = sum(len(taken.members) * taken.batch for taken in self._waiting)
        speed = tokens / (now - self._flushed)
        self._flushed = now
        for place, member in enumerate(self._members):
            lines = []
            for taken, loss, norm in zip(self._waiting, losses, norms, strict=True):
                if member in taken.members:
                    position, lr = taken.members[member]
                    lines.append(self._line(position, lr, loss[place], norm[place], speed))
            if lines:
                member.record_steps(lines)
        self._agree(self._members)
        self._waiting.clear()
        self._tell_compiled()

    def _line(self, position: int, lr: float, loss: float, norm: float, speed: float) -> StepLine:
        """`speed`: tokens a second of all members; a run's own time is its tokens over this."""
        return StepLine(
            tokens=position,
            loss=loss,
            lr=lr,
            grad_norm=norm,
            tokens_per_s=max(1, round(speed)),
            peak_share=round(speed * self._flops / self._peak / self._ranks.world, 4),
        )

    def _tell_compiled(self) -> None:
        """After the first steps, which compile what there is to compile."""
        if self._compiled and (new := so_far() - self._compiled) != Compiled():
            for member in self._members:
                member.watch.say(f"{member.run.id}: {new}")
        self._compiled = None

    def _evaluate(self, members: list[Member]) -> None:
        if not members:
            return
        recipe = members[0].recipe
        # one set of kernels scores all members, so all are scored wherever one is due
        found = validate(
            self._step.model,
            [member.windows for member in self._members],
            self._engine,
            tokens=recipe.train.evaluate_tokens,
            mask_documents=recipe.data.mask_documents,
            objective=self._objective,
            reference=self._reference,
            recipes=[member.recipe for member in self._members],
            ranks=self._ranks,
        )
        # it belongs to a checkpoint, and is recorded of one that is there
        self._saver.end()
        for member in members:
            validation = found[self._members.index(member)]
            if validation is not None:
                member.record_validation(validation)

    def _agree(self, members: list[Member]) -> None:
        """On who is over: what one rank could not record ends the run for all. Who failed is said
        to have once its checkpoint is written.
        """
        for member in members:
            member.over = self._ranks.agree(member.over)
        failed = [member for member in members if member.over and not member.recorded]
        if failed:
            self._say_saved()
        for member in failed:
            member.end("failed", member.failure)

    def _state(self, member: Member) -> Checkpoint:
        """What a checkpoint of a member holds; views."""
        place = self._place(member)
        weights = {
            name: parameter.detach() if place is None else parameter.detach()[place]
            for name, parameter in self._step.optimizer.parameters.items()
        }
        moments = self._step.optimizer.state(place)
        return Checkpoint(member.position, member.steps, weights, moments)

    def _made_step(self) -> Step:
        recipes = [member.recipe for member in self._members]
        objective, ranks = self._objective, self._ranks
        return Step(recipes, self._engine, self._document_end, objective, self._reference, ranks)

    def _place(self, member: Member) -> int | None:
        """On the members' axis of the model; None for a model without one."""
        return None if len(self._members) == 1 else self._members.index(member)

    def _shrink(self) -> None:
        """Go on without the members that are over, once they are half of all: a population of
        each size is compiled anew.
        """
        live = self._live
        if not live or len(live) > len(self._members) // 2 or self._waiting:
            return
        with self._paused():
            # the views are of the old buffers, which live until all is copied out of them
            states = [self._state(member) for member in live]
            self._members = live
            self._step = self._made_step()
            for member, state in zip(live, states, strict=True):
                put(self._step, state, self._place(member))

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Time inside is not counted as training."""
        start = self._clock.now()
        yield
        gc.collect()
        self._flushed += self._clock.now() - start


def _shown(watch: Watch) -> Callable[[str, float, float | None], None]:
    return lambda what, done, total: watch.show(what, done, total, "")


@contextmanager
def _collector_out_of_the_way() -> Iterator[None]:
    """Python's collector stops everything for up to half a second where many objects live: it is
    called in pauses, and looks only at what came after. Where a process that trains many runs has
    frozen what it imported, that stays frozen.
    """
    gc.collect()
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if ours:
            gc.unfreeze()
