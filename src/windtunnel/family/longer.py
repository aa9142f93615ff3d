"""A longer context (paper section 7.2): a run goes on from its last stable checkpoint in longer
windows, with RoPE scaled for them, on long documents, short ones and long questions.

It is a curriculum of stages, each a run of its own that begins anew from the one before: a stage
makes the context at most `MOST_AT_ONCE` times as long. The first adjusts RoPE's base, those after
it scale NTK-aware on top; all but the last are stems.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.data.long import (
    LONG_SHARE,
    QUESTIONS_SHARE,
    LongText,
    build_long,
    long_mixture,
    longer_than,
)
from windtunnel.data.readers import Progress
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.quantities import Length, about, format_context, share_of
from windtunnel.recipe import ROPE_SCALINGS, Mixture, Model, Recipe
from windtunnel.recipe.rope import least_base, stretched
from windtunnel.train.anew import anew, begin_anew, last_stable, mixture_at, warmup_of
from windtunnel.train.branch import check_tokenizer
from windtunnel.train.run import Run, checkpoint_at, context_of, lineage, open_corpus

MOST_AT_ONCE = 8
_DECAY = Length(share=0.1)
# A long document that is read more often is said: more than four epochs are worth ever less
# (Muennighoff et al. 2023).
_EPOCHS = 4


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person may choose; what is None is taken from the parent, or chosen."""

    to: tuple[int, ...]
    """Tokens of a window at the end of each stage; one alone is reached in as many stages as it
    takes."""
    tokens: int
    """How many tokens to train, in each stage."""
    scaling: str = ""
    """How RoPE is scaled, in every stage."""
    base: float | None = None
    """RoPE's base after the first stage."""
    long: float = LONG_SHARE
    """The share of long documents and questions in what is read."""
    long_from: int | None = None
    """A document is long with more tokens than this; the context before."""
    questions: float = QUESTIONS_SHARE
    """The share of questions in what is read."""
    untie: bool = False
    """Whether the head gets weights of its own, which begin as the embedding."""
    decay: Length = _DECAY
    """How many of the last stage's tokens, at the end; none for a stem."""
    lr: float | None = None
    batch: int | None = None
    """Tokens of one step; the parent's, or one window where that is more."""
    at: int | None = None
    """Tokens of the parent's checkpoint; its last one before a decay."""
    name: str | None = None

    def of_stage(self, number: int, last: bool) -> "Asked":
        """What holds for one stage, counted from 1: the parent's checkpoint, the base and the new
        head belong to the first, and the name to the last.
        """
        first = number == 1
        return replace(
            self,
            at=self.at if first else None,
            base=self.base if first else None,
            untie=self.untie and first,
            name=self.name if last else None,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of the curriculum, before it is trained."""

    run: Run
    corpus: Corpus
    notes: tuple[str, ...]
    """What a person should know before it is trained, in sentences."""


def stages(was: int, asked: Asked) -> list[int]:
    """Tokens of a window in each stage, from one of `was`. Raises InputError for lengths that
    cannot be.
    """
    begun = was
    for to in asked.to:
        if to <= was:
            raise InputError(f"--to {to}: expected more than the {was} tokens that it has")
        if to % was:
            raise InputError(f"--to {to}: expected a multiple of the {was} tokens before it")
        was = to
    if len(asked.to) > 1:
        return list(asked.to)
    was, found = begun, []
    for to in asked.to:
        while was * MOST_AT_ONCE < to and not to % (was * MOST_AT_ONCE):
            was *= MOST_AT_ONCE
            found.append(was)
        found.append(to)
    return found


def longer(
    parent: Run, corpus: Corpus, to: int, asked: Asked, last: bool, progress: Progress | None = None
) -> Stage:
    """The run that goes on from `parent` in windows of `to` tokens of this text; it is trained like
    any other run. `last`: whether it is the last stage, which decays. Asking for the same again
    gives the same run. Raises InputError.
    """
    old, was = parent.recipe, context_of(parent)
    _check(old, parent.id, asked)
    if corpus.manifest.packing:
        raise InputError(f"{corpus.folder}: expected a corpus of text, of documents as they are")
    check_tokenizer(parent, corpus)
    _batch(old, asked, to)  # refused before anything is written
    changes = _model(old.model, was, to, asked)
    text = LongText(
        context=to,
        beyond=_beyond(asked, was, to),
        questions=_questions(asked, to),
        seed=old.seed,
    )
    notes = _notes(corpus, text, asked, old.model.model_copy(update=changes))
    made = build_long(parent.lab / "corpora", corpus, text, progress)
    at = checkpoint_at(parent, last_stable(parent) if asked.at is None else asked.at)
    before = _read_before(parent, corpus, at)
    mixture = long_mixture(made, before, asked.long, asked.questions)
    run = begin_anew(parent, at, made, **_settings(old, was, to, asked, last, mixture))
    return Stage(run=run, corpus=made, notes=tuple(notes))


def planned(old: Recipe, was: int, asked: Asked, corpus: str | None = None) -> Iterator[Recipe]:
    """The recipe of every stage, for a model with windows of `was` tokens, of which nothing
    is built or trained; what is read is not decided yet, of this corpus or the model's own. Raises
    InputError.
    """
    _check(old, old.name, asked)
    if not (corpus or old.data.corpus):
        raise InputError(f"--corpus: {old.name} is imported and has none; name one of the lab's")
    lengths = stages(was, asked)
    for number, to in enumerate(lengths, 1):
        last = number == len(lengths)
        settings = _settings(old, was, to, asked.of_stage(number, last), last, {})
        old, was = anew(old, corpus or old.data.corpus, **settings), to
        yield old


def _check(old: Recipe, parent: str, asked: Asked) -> None:
    """Raises InputError for what can't be, whatever is read."""
    if old.is_imported and asked.lr is None:
        raise InputError(
            f"--lr: {parent} is imported and has no learning rate; give one, such as 3e-5"
        )
    share_of("--long", asked.long)
    share_of("--questions", asked.questions, asked.long)


def _settings(
    old: Recipe, was: int, to: int, asked: Asked, last: bool, mixture: Mixture
) -> dict[str, Any]:
    """What a stage changes, as `train.anew` takes it."""
    batch, decay = _batch(old, asked, to), asked.decay if last else Length()
    return {
        "name": asked.name or f"{old.name}-{format_context(to)}",
        "seed": old.seed + 1,
        "lr": old.optimizer.lr if asked.lr is None else asked.lr,
        "batch": batch,
        "tokens": asked.tokens,
        # a stage is not extended, so its warm-up may go by its length although it is a stem
        "warmup": warmup_of(asked.tokens, decay if last else _DECAY, batch),
        "decay": decay,
        "model": _model(old.model, was, to, asked),
        "data": {"context": to, "mixture": mixture, "mask_documents": True},
        "train": {"evaluate_tokens": _evaluated(old, asked.tokens, to)},
    }


def _evaluated(old: Recipe, tokens: int, to: int) -> int:
    """Held-out tokens of each source that a validation reads, of which there are two or more: a
    twentieth of the stage's at most, and a window at least. Long windows are dear, and a stage is
    short: ten validations of as much as the parent's could take longer than its training.
    """
    return max(to, min(old.train.evaluate_tokens, tokens // 20))


def text_of(parent: Run) -> Corpus:
    """The text that the run learnt from, or the nearest of its ancestors, as it was before it was
    packed into windows. Raises InputError.
    """
    for run in lineage(parent):
        corpus = open_corpus(run.lab, run.recipe)
        if not corpus.manifest.packing:
            return corpus
    raise InputError(f"{parent.id}: no run before it learnt from a corpus of text: give --corpus")


def _read_before(parent: Run, corpus: Corpus, at: int) -> Mixture:
    """The mixture in which the run, or the nearest of its ancestors, read this text."""
    for run in lineage(parent):
        if run.corpus == corpus.digest:
            return mixture_at(run, corpus, at)
        at = run.at_tokens or 0
    return {}


def _batch(old: Recipe, asked: Asked, to: int) -> int:
    """Tokens of one step, whole windows. Raises InputError."""
    if asked.batch and asked.batch % to:
        raise InputError(f"--batch {asked.batch}: expected a multiple of the window of {to} tokens")
    batch = asked.batch or max(1, old.train.batch // to) * to
    if asked.tokens < batch:
        raise InputError(f"--tokens {asked.tokens}: less than one batch of {batch}")
    return batch


def _model(old: Model, was: int, to: int, asked: Asked) -> dict[str, Any]:
    changes = stretched(old, was, to, asked.scaling, asked.base)
    return changes | ({"tied": False} if asked.untie else {})


def _beyond(asked: Asked, was: int, to: int) -> int:
    beyond = was if asked.long_from is None else asked.long_from
    if beyond >= to:
        raise InputError(f"--long-from {beyond}: expected less than the window of {to} tokens")
    return beyond


def _questions(asked: Asked, to: int) -> int:
    """Windows of questions: as many as are read."""
    return math.ceil(asked.questions * asked.tokens / to)


def _notes(corpus: Corpus, text: LongText, asked: Asked, model: Model) -> list[str]:
    """What is found of long documents, and what speaks against the asked."""
    found = longer_than(corpus, text.beyond)
    documents = sum(one.documents for one in found.values())
    tokens = sum(one.tokens for one in found.values())
    notes = [
        f"{documents:,} documents are longer than {text.beyond} tokens; they hold {about(tokens)}"
    ]
    read = (asked.long - asked.questions) * asked.tokens
    if not documents:
        notes.append("without long documents, the long part is questions alone")
    elif read > _EPOCHS * tokens:
        notes.append(f"each of them is read {read / tokens:.0f} times: there are few")
    base = ROPE_SCALINGS[model.rope_scaling].base
    if base and base(model) < (least := least_base(text.context, model.head_size)):
        notes.append(
            f"RoPE's base of {base(model):g} is too small for {text.context} tokens by the bound "
            f"of Men et al. (2024), which is {least:.2g} for heads of {model.head_size}; --base "
            "sets it"
        )
    return notes
