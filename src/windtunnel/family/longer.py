"""A longer context (paper section 7.2): a run goes on from its last stable checkpoint in longer
windows, with RoPE scaled for them, on long documents, short ones and long questions.

It is a curriculum of stages, each a run of its own that begins anew from the one before: a stage
makes the context at most `MOST_AT_ONCE` times as long. The first adjusts RoPE's base, those after
it scale NTK-aware on top; all but the last are stems.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.data.long import LONG, QUESTIONS_SOURCE, LongText, build_long, longer_than
from windtunnel.data.readers import Progress
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.anew import begin_anew, last_stable, mixture_at, warmup_of
from windtunnel.quantities import Length, about, share_of
from windtunnel.recipe import ROPE_SCALINGS, Mixture, Model
from windtunnel.recipe.rope import least_base, stretched
from windtunnel.train.branch import check_tokenizer
from windtunnel.train.run import Run, checkpoint_at, context_of, lineage, open_corpus

# Paper section 7.2: of what is read, 44% is long.
LONG_SHARE = 0.44
# Of what is read, out of the long part. The paper adds questions and does not say how many.
QUESTIONS_SHARE = 0.05
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


def stages(parent: Run, asked: Asked) -> list[int]:
    """Tokens of a window in each stage. Raises InputError for lengths that cannot be."""
    was = context_of(parent)
    for to in asked.to:
        if to <= was:
            raise InputError(f"--to {to}: expected more than the {was} tokens that it has")
        if to % was:
            raise InputError(f"--to {to}: expected a multiple of the {was} tokens before it")
        was = to
    if len(asked.to) > 1:
        return list(asked.to)
    was, found = context_of(parent), []
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
    if old.is_imported and asked.lr is None:
        raise InputError(
            f"--lr: {parent.id} is imported and has no learning rate; give one, such as 3e-5"
        )
    if corpus.manifest.packing:
        raise InputError(f"{corpus.folder}: expected a corpus of text, of documents as they are")
    check_tokenizer(parent, corpus)
    share_of("--long", asked.long)
    share_of("--questions", asked.questions, asked.long)
    batch = _batch(parent, asked, to)
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
    decay = asked.decay if last else Length()
    # a stage is not extended, so its warm-up may go by its length although it is a stem
    warmup = warmup_of(asked.tokens, decay if last else _DECAY, batch)
    run = begin_anew(
        parent,
        at,
        made,
        name=asked.name or f"{old.name}-{_short(to)}",
        seed=old.seed + 1,
        lr=old.optimizer.lr if asked.lr is None else asked.lr,
        batch=batch,
        tokens=asked.tokens,
        warmup=warmup,
        decay=decay,
        model=changes,
        data={
            "context": to,
            "mixture": _mixture(made, _read_before(parent, corpus, at), asked),
            "mask_documents": True,
        },
    )
    return Stage(run=run, corpus=made, notes=tuple(notes))


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


def _batch(parent: Run, asked: Asked, to: int) -> int:
    """Tokens of one step, whole windows. Raises InputError."""
    if asked.batch and asked.batch % to:
        raise InputError(f"--batch {asked.batch}: expected a multiple of the window of {to} tokens")
    batch = asked.batch or max(1, parent.recipe.train.batch // to) * to
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


def _mixture(made: Corpus, before: Mixture, asked: Asked) -> Mixture:
    """Long documents by their tokens, short ones as the parent read them."""
    sizes = {name: source.train.tokens for name, source in made.sources.items()}
    questions = asked.questions if QUESTIONS_SOURCE in sizes else 0.0
    long = {name: float(sizes[name]) for name in sizes if name.endswith(LONG)}
    short = {
        name: before.get(name, 0.0) if before else float(sizes[name])
        for name in sizes
        if name not in long and name != QUESTIONS_SOURCE
    }
    parts = [(long, asked.long - questions), (short, 1 - asked.long)]
    mixture = {QUESTIONS_SOURCE: questions} if questions else {}
    for part, share in parts:
        whole = sum(part.values())
        mixture |= {name: share * size / whole for name, size in part.items() if size}
    return {name: round(weight, 6) for name, weight in mixture.items() if weight}


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


def _short(tokens: int) -> str:
    """32,768 -> `32k`."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)
