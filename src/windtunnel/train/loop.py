"""The one training loop: from a run's last checkpoint to its last token."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.model.shape import flops_per_token
from windtunnel.quantities import about
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.device import Engine, choose_engine, matrix_peak
from windtunnel.train.objective import accumulate
from windtunnel.train.optimizer import AdamW
from windtunnel.train.run import Run, branch_start, check_fit, open_run
from windtunnel.train.schedule import rate
from windtunnel.train.validation import validate

_FLUSH_EVERY = 10  # steps; a device is not waited for in between
_WATCHED = 20  # steps whose mean loss tells a diverged run
_DIVERGED = 1.5  # times the loss of a uniform guess, or of the first step if that was worse


class Diverged(Exception):
    """The run's loss is not a number any more, or far above that of a uniform guess."""


@dataclass(frozen=True)
class Watch:
    """What the caller hears of a run, or of a study, while it is made, and how it asks it to stop."""

    say: Callable[[str], None] = lambda line: None
    step: Callable[[int, int, dict[str, Any]], None] = lambda tokens, total, metrics: None
    stop: Callable[[], bool] = lambda: False
    show: Callable[[str, float, float | None, str], None] = lambda what, done, total, note: None
    # (model, position): the batch's gradient stands in the parameters, the step has not been taken
    gradient: Callable[[Decoder, int], None] = lambda model, position: None


def train(run: Run, corpus: Corpus, watch: Watch | None = None) -> dict[str, Any]:
    """Start the run, resume it, or find it done; returns its summary.

    A run that diverges ends as `failed` with its last good checkpoint kept. Raises InputError for a run that can't be
    computed as asked: a corpus that does not fit, a damaged checkpoint, a full disk.
    """
    watch = watch or Watch()
    if run.status()["status"] in ("done", "failed"):
        return run.summary()
    with run.lock():
        trainer = _Trainer(run, corpus, watch)
        try:
            trainer.go()
        except Diverged as error:
            run.write_status("failed", trainer.position, **trainer.scores, reason=str(error))
    return run.summary()


def load_model(run: Run, tokens: int | None = None, device: str = "cpu") -> Decoder:
    """The run's model at its last checkpoint, or at the one of `tokens` tokens."""
    there = checkpoint.positions(run.checkpoints)
    if not there or (tokens is not None and tokens not in there):
        listed = ", ".join(str(t) for t in there) or "none"
        asked = "" if tokens is None else f" at {tokens} tokens"
        raise InputError(f"{run.path}: no checkpoint{asked}; there are: {listed}")
    model = Decoder(run.recipe.model, run.recipe.data.context, run.recipe.seed).to(device)
    _take(model, checkpoint.load(run.checkpoints, there[-1] if tokens is None else tokens, device))
    return model


class _Trainer:
    """The state of one run while it trains: model, optimiser, position and what was last measured."""

    def __init__(self, run: Run, corpus: Corpus, watch: Watch) -> None:
        self.run, self.recipe, self.watch = run, run.recipe, watch
        check_fit(run.recipe, corpus, run.parent)
        if run.corpus != corpus.digest:
            raise InputError(f"{corpus.folder}: not the content that run {run.id} was begun on")
        self.windows = Windows(corpus, self.recipe.data, self.recipe.seed)
        self.document_end = corpus.tokenizer.eos if self.recipe.data.mask_documents else None
        self.engine = run.engine(choose_engine(self.recipe))
        self.model = Decoder(self.recipe.model, self.recipe.data.context, self.recipe.seed).to(self.engine.device)
        self.optimizer = AdamW(self.model, [self.recipe])
        self.position = self._restore()
        run.keep_metrics_until(self.position)
        if self.engine.compiled:
            self.model.compile_parts()
            self.optimizer.compile_parts()
        self.recorder = _Recorder(run, self.engine, flops_per_token(self.recipe.model, self.recipe.data.context))
        self.scores = self._last_scores()

    def go(self) -> None:
        recipe, total = self.recipe, self.recipe.total_tokens
        watch = self.watch
        watch.say(f"{self.run.id} {recipe.name}: {about(self.position)} of {about(total)} tokens; {self.engine}")
        self.run.write_status("running", self.position, **self.scores)
        while self.position < total:
            share = rate(recipe, self.position, recipe.train.batch)
            batch = self.windows.read(self.position, recipe.train.batch)
            loss = accumulate(self.model, batch, self.engine, self.document_end)
            watch.gradient(self.model, self.position)
            norm = self.optimizer.step(share)
            self.position += recipe.train.batch
            self.recorder.add(self.position, loss, norm, share * recipe.optimizer.lr)
            stopping = watch.stop()
            evaluated = self._due(recipe.train.evaluate_every.of(total))
            saved = self._due(recipe.train.checkpoint_every.of(total)) or stopping
            if evaluated or saved or self.recorder.full:
                watch.step(self.position, total, self.recorder.flush())
            if evaluated:
                self._evaluate()
            if saved:
                self._save()
            if stopping and self.position < total:
                self.run.write_status("interrupted", self.position, **self.scores)
                return
        self.run.write_status("done", self.position, **self.scores)

    def _due(self, every: int) -> bool:
        """At every so many tokens, at the branch points, where a decay begins, and at the end."""
        recipe, batch = self.recipe, self.recipe.train.batch
        fixed = {recipe.total_tokens, recipe.total_tokens - recipe.decay_tokens, *self._branch_points()}
        crossed = every > 0 and self.position // every > (self.position - batch) // every
        return crossed or self.position in fixed

    def _branch_points(self) -> set[int]:
        return {self.recipe.whole_steps(tokens) for tokens in self.recipe.train.branch_points}

    def _evaluate(self) -> None:
        with self.recorder.paused():
            train, mask = self.recipe.train, self.recipe.data.mask_documents
            result = validate(self.model, self.windows, self.engine, train.evaluate_tokens, mask).as_dict()
        self.recorder.write({"tokens": self.position, "validation": result})
        self.scores = {"loss": result["loss"], "bits_per_byte": result["bits_per_byte"]}
        self.run.write_status("running", self.position, **self.scores)

    def _save(self) -> None:
        with self.recorder.paused():
            weights = {name: p.detach() for name, p in self.model.named_parameters()}
            state = Checkpoint(self.position, self.optimizer.steps, weights, self.optimizer.state())
            checkpoint.save(self.run.checkpoints, state)
            # all that are there: a process may have been killed between saving one and pinning it
            for tokens in self._branch_points().intersection(checkpoint.positions(self.run.checkpoints)):
                checkpoint.pin(self.run.checkpoints, tokens)
            checkpoint.prune(self.run.checkpoints, self.recipe.train.keep)
            self.run.write_status("running", self.position, **self.scores)

    def _last_scores(self) -> dict[str, Any]:
        """Those of the last validation before this position: an earlier process may have made it."""
        scores = [line["validation"] for line in self.run.metrics() if "validation" in line]
        return {key: scores[-1][key] for key in ("loss", "bits_per_byte")} if scores else {}

    def _restore(self) -> int:
        """Load the run's own last checkpoint, or a branch's start in its parent; returns the token position."""
        holder, start = self.run, max(checkpoint.positions(self.run.checkpoints), default=0)
        if not start:
            holder, start = branch_start(self.run)
        if start in checkpoint.positions(holder.checkpoints):
            state = checkpoint.load(holder.checkpoints, start, self.engine.device)
            _take(self.model, state)
            if state.moments:  # an imported model brings none
                self.optimizer.load_state(state.moments, state.steps)
        parent = open_run(self.run.lab / "runs" / self.run.parent).recipe if self.run.parent else self.recipe
        mine, theirs = ((r.train.batch, r.optimizer.lr) for r in (self.recipe, parent))
        if mine != theirs and start < (self.run.at_tokens or 0):
            return self._replay(parent, start)
        return start

    def _replay(self, parent: Recipe, position: int) -> int:
        """Go on with the parent's batch and rate to where this run takes up its own: no checkpoint was kept there."""
        own, at = self.optimizer, self.run.at_tokens or 0
        self.optimizer = AdamW(self.model, [parent])
        self.optimizer.load_state(own.state(), own.steps)
        while position < at:
            accumulate(self.model, self.windows.read(position, parent.train.batch), self.engine, self.document_end)
            self.optimizer.step(rate(parent, position, parent.train.batch))
            position += parent.train.batch
        moments, steps = self.optimizer.state(), self.optimizer.steps
        self.optimizer = AdamW(self.model, [self.recipe])
        self.optimizer.load_state(moments, steps)
        return at


@dataclass
class _Recorder:
    """Writes metrics.jsonl: a line a step, and one a validation. Losses stay on the device until they are flushed."""

    run: Run
    engine: Engine
    flops: int  # a token
    _waiting: list[tuple[int, Tensor, Tensor, float]] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WATCHED))
    _first_loss: float | None = None
    _last_tokens: int | None = None

    def __post_init__(self) -> None:
        self.peak = matrix_peak(self.engine)
        self.file = (self.run.path / "metrics.jsonl").open("a")
        self._clock = time.perf_counter()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= _FLUSH_EVERY

    def add(self, tokens: int, loss: Tensor, norm: Tensor, lr: float) -> None:
        self._waiting.append((tokens, loss, norm, lr))

    def flush(self) -> dict[str, Any]:
        """Write the waiting steps; returns the last one's line. Raises Diverged."""
        losses = torch.stack([step[1].float() for step in self._waiting]).reshape(-1).tolist()
        norms = torch.stack([step[2].float() for step in self._waiting]).reshape(-1).tolist()
        now = time.perf_counter()
        batch = self.run.recipe.train.batch
        speed = len(self._waiting) * batch / (now - self._clock)
        self._clock = now
        measured = {"tokens_per_s": round(speed), "peak_share": round(speed * self.flops / self.peak, 4)}
        lines = []
        for (tokens, _, _, lr), loss, norm in zip(self._waiting, losses, norms, strict=True):
            self._check(tokens, loss, norm)
            lines.append({"tokens": tokens, "loss": loss, "lr": lr, "grad_norm": norm, **measured})
        self.write(*lines)
        self._waiting.clear()
        return lines[-1]

    def write(self, *lines: dict[str, Any]) -> None:
        try:
            self.file.write("".join(json.dumps(line) + "\n" for line in lines))
            self.file.flush()
        except OSError as error:
            raise InputError(f"{self.file.name}: could not be written: {error.strerror}") from None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside is not counted as training."""
        start = time.perf_counter()
        yield
        self._clock += time.perf_counter() - start

    def _check(self, tokens: int, loss: float, norm: float) -> None:
        step = tokens // self.run.recipe.train.batch
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"loss {loss} and gradient norm {norm} at step {step}, token {tokens}")
        self._first_loss = self._first_loss or loss
        self._recent.append(loss)
        limit = _DIVERGED * max(self._first_loss, math.log(self.run.recipe.model.vocab))
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) == _WATCHED and mean > limit:
            raise Diverged(
                f"mean loss {mean:.3f} of {_WATCHED} steps is over {limit:.3f} at step {step}, token {tokens}"
            )


def _take(model: Decoder, state: Checkpoint) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state.weights[name])
