"""Supervised fine-tuning: a run's model learns to answer, from conversations.

The run begins anew from the parent's weights. Of each conversation it learns only to say what the
assistant says (`data/chat.py`), and attention stays within a conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from windtunnel.data.chat import SOURCE, build_chat
from windtunnel.data.join import join
from windtunnel.data.readers import Progress
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.quantities import Length, about
from windtunnel.recipe import Mixture
from windtunnel.train.anew import begin_anew
from windtunnel.train.run import Run, checkpoint_at, context_of, lineage, open_corpus

# Of the base rate. The paper's decay goes from 0.01 to 0.001, and its fine-tuning goes on from
# there (paper section 6.2; the author in issue 40 of its repository).
RATE = 0.1
EPOCHS = 3.0
_LONGEST = 2048  # tokens of a window, where nothing else is asked for
# At least so many, where no batch is asked for: one batch of pre-training can be most of a set of
# conversations.
_STEPS = 100
_WARMUP = 0.05  # of the steps: the moments begin at zero
# The paper's fine-tuning is a WSD run of its own, whose decay is exponential to a tenth (section
# 6.2; the author in issue 40 of its repository). How long that decay was is not said.
_PAPER = {"decay_shape": "exponential", "floor": 0.1}
_DECAY = 0.5


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person may choose; what is None is chosen for them."""

    epochs: float | None = None
    """How many times each conversation is read; `EPOCHS`, unless `tokens` is given."""
    tokens: int | None = None
    """How many tokens are read, instead of `epochs`."""
    lr: float | None = None
    """Base rate; `RATE` of the parent's."""
    batch: int | None = None
    """Tokens of one step; the parent's, or fewer for `_STEPS` steps."""
    context: int | None = None
    """Tokens of a window; the parent's, at most `_LONGEST`."""
    at: int | None = None
    """Tokens of the parent's checkpoint; its last one."""
    name: str | None = None
    max_bad: float = 0.01
    """The share of the conversations that may be malformed."""
    format: str | None = None
    """What the files are; seen from what each of them holds."""
    all_turns: bool = False
    """Whether all of a conversation is learnt, and not what the assistant says alone."""
    pretraining: float = 0.0
    """Share of the tokens that is text of the pre-training."""
    wsd: bool = False
    """Whether the rate stays at its peak before it decays, and not down to zero but to a tenth, as
    in the paper; else it decays at once."""


def sft(
    parent: Run, data: Sequence[str | Path], asked: Asked, progress: Progress | None = None
) -> tuple[Run, Corpus]:
    """The run that fine-tunes `parent` on the conversations in these files, folders or globs, and
    their corpus; it is trained like any other run. Asking for the same again gives the same run.
    Raises InputError.
    """
    at = checkpoint_at(parent, asked.at)
    lr = _rate(parent, asked.lr)
    context = context_of(parent, asked.context or min(context_of(parent), _LONGEST))
    corpus = build_chat(
        parent.lab / "corpora",
        data,
        parent.tokenizer,
        context,
        asked.max_bad,
        progress,
        asked.format,
    )
    tokens, batch = _length(parent, corpus, context, asked)
    warmup = batch * round(_WARMUP * tokens / batch)
    tenth = Length(share=0.1)
    mixture: Mixture = {}
    if asked.pretraining:
        text = _pretraining(parent)
        corpus = join(parent.lab / "corpora", text, {_free(text): corpus})
        mixture = _mixed(corpus, asked.pretraining)
    run = begin_anew(
        parent,
        at,
        corpus,
        name=asked.name or f"{parent.recipe.name}-sft",
        lr=lr,
        batch=batch,
        tokens=tokens,
        warmup=warmup,
        decay=tokens - warmup if not asked.wsd else batch * round(_DECAY * tokens / batch),
        schedule=_PAPER if asked.wsd else {},
        data={"context": context, "mixture": mixture, "mask_documents": True},
        train={
            "checkpoint_every": tenth,
            "evaluate_every": tenth,
            **({"objective": "next-token"} if asked.all_turns else {}),
        },
    )
    return run, corpus


def _pretraining(parent: Run) -> Corpus:
    """The text that the nearest ancestor was trained on. Raises InputError where there is none."""
    for run in lineage(parent):
        folder = run.lab / "corpora" / run.recipe.data.corpus
        if run.corpus and (folder / "manifest.json").exists():
            corpus = Corpus.open(folder)
            if corpus.holds == "text":
                return corpus
    raise InputError(f"--pretraining: no ancestor of {parent.id} has a corpus of text in this lab")


def _free(text: Corpus) -> str:
    """What the conversations can be called beside the sources of a text."""
    return SOURCE if SOURCE not in text.sources else "conversations"


def _mixed(corpus: Corpus, share: float) -> Mixture:
    """Weights by source: this share for the text, each of its sources by its size."""
    *text, chat = corpus.sources
    total = sum(corpus.sources[name].train.tokens for name in text)
    weights = {name: share * corpus.sources[name].train.tokens / total for name in text}
    return {**weights, chat: 1 - share}


def _rate(parent: Run, lr: float | None) -> float:
    if lr is not None:
        return lr
    if parent.recipe.is_imported:
        raise InputError(
            f"--lr: {parent.id} is imported and has no learning rate; give one, usually between "
            "1e-5 and 1e-3"
        )
    # A run that was fine-tuned already has a rate for it, which was `RATE` of the base rate. A
    # decay with conversations among its sources is no fine-tuning.
    tuned = parent.anew and open_corpus(parent.lab, parent.recipe).is_chat
    return parent.recipe.optimizer.lr * (1 if tuned else RATE)


def _length(parent: Run, corpus: Corpus, context: int, asked: Asked) -> tuple[int, int]:
    """Tokens in whole steps, and tokens of one step. An epoch counts whole windows, and so the
    tokens that fill them up; a last step that it does not fill reads on into the next epoch, so
    that no window is left out. Raises InputError.
    """
    if asked.tokens and asked.epochs:
        raise InputError("--epochs and --tokens both say how long to train: give only one of them")
    # Each split ends with one token more, the last target, which no window begins with.
    epoch = sum(source.train.tokens - 1 for source in corpus.sources.values())
    # of which the text of the pre-training has its share
    epoch = round(epoch / (1 - asked.pretraining))
    whole = asked.tokens or round((asked.epochs or EPOCHS) * epoch)
    most = min(parent.recipe.train.batch, whole // _STEPS)
    batch = asked.batch or context * max(1, most // context)
    if whole < batch:
        raise InputError(
            f"{about(whole)} tokens are less than one batch of {about(batch)}; an epoch is "
            f"{about(epoch)}"
        )
    steps = whole // batch if asked.tokens else -(-whole // batch)
    return steps * batch, batch
