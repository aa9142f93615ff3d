"""Sparse upcycling (2212.05055; paper section 7.3): a run's feed-forwards become experts, and
training goes on.

Every expert begins as a copy, so the model begins as what the run was. The run begins anew from the
parent's weights, and reads the corpus in another order.
"""

from dataclasses import dataclass

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.quantities import Length
from windtunnel.train.anew import begin_anew, last_stable, mixture_at, warmup_of
from windtunnel.train.branch import check_tokenizer
from windtunnel.train.run import Run, checkpoint_at, context_of

_DECAY = Length(share=0.1)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person may choose; what is None is taken from the parent."""

    tokens: int
    """How many tokens to train."""
    experts: int = 8
    experts_per_token: int = 2
    decay: Length = _DECAY
    """How many of the tokens, at the end; none for a stem that can be branched."""
    lr: float | None = None
    batch: int | None = None
    """Tokens of one step."""
    context: int | None = None
    """Tokens of a window."""
    at: int | None = None
    """Tokens of the parent's checkpoint; its last one before a decay, or the last of all where
    none of those is left."""
    name: str | None = None


def upcycle(parent: Run, corpus: Corpus, asked: Asked) -> Run:
    """The run that goes on from `parent` with experts; it is trained like any other run. Asking
    for the same again gives the same run. Raises InputError.
    """
    old = parent.recipe
    if old.model.experts:
        raise InputError(f"{parent.id} has {old.model.experts} experts already")
    if old.is_imported and asked.lr is None:
        raise InputError(
            f"--lr: {parent.id} is imported and has no learning rate; give one, such as 3e-4"
        )
    batch = asked.batch or old.train.batch
    if asked.tokens < batch:
        raise InputError(f"--tokens {asked.tokens}: less than one batch of {batch}")
    check_tokenizer(parent, corpus)
    context = context_of(parent, asked.context or min(old.data.context, context_of(parent)))
    at = checkpoint_at(parent, last_stable(parent) if asked.at is None else asked.at)
    return begin_anew(
        parent,
        at,
        corpus,
        name=asked.name or f"{old.name}-experts",
        seed=old.seed + 1,  # another order of the corpus
        lr=old.optimizer.lr if asked.lr is None else asked.lr,
        batch=batch,
        tokens=asked.tokens,
        warmup=warmup_of(asked.tokens, asked.decay, batch),
        decay=asked.decay,
        model={"experts": asked.experts, "experts_per_token": asked.experts_per_token},
        data={"context": context, "mixture": mixture_at(parent, corpus, at)},
    )
