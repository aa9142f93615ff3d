"""Sparse upcycling (2212.05055; paper section 7.3): a run's feed-forwards become experts, and
training goes on.

Every expert begins as a copy, so the model begins as what the run was. The run begins anew: the
parent's weights, no moments, a schedule of its own; and it reads the corpus in another order.
"""

from dataclasses import dataclass
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.quantities import Length
from windtunnel.recipe import Mixture
from windtunnel.train import checkpoint
from windtunnel.train.branch import check_tokenizer
from windtunnel.train.run import Run, checkpoint_at, context_of, create

_DECAY = Length(share=0.1)
_WARMUP = 0.02  # of the tokens: the moments begin at zero
_STEM_WARMUP = 20  # steps


@dataclass(frozen=True)
class Asked:
    """What a person may choose; None: chosen. `tokens`: to train; `decay` of them: the last ones,
    none for a stem that can be branched. `at`: the parent's checkpoint, else its last one before
    a decay, or the last of all where none is left.
    """

    tokens: int
    experts: int = 8
    experts_per_token: int = 2
    decay: Length = _DECAY
    lr: float | None = None
    batch: int | None = None
    context: int | None = None
    at: int | None = None
    name: str | None = None


def upcycle(parent: Run, corpus: Corpus, asked: Asked) -> Run:
    """The run that goes on from `parent` with experts; to be trained like any other. The same
    question gives the same run. Raises InputError.
    """
    old = parent.recipe
    if old.model.experts:
        raise InputError(f"{parent.id} has {old.model.experts} experts already")
    if old.is_imported and asked.lr is None:
        raise InputError(
            f"--lr: {parent.id} is imported and brings no rate; expected one such as 3e-4"
        )
    batch, lr = asked.batch or old.train.batch, old.optimizer.lr if asked.lr is None else asked.lr
    if asked.tokens < batch:
        raise InputError(f"--tokens {asked.tokens}: less than one batch of {batch}")
    check_tokenizer(parent, corpus)
    context = context_of(parent, asked.context or old.data.context)
    at = checkpoint_at(parent, _stable(parent) if asked.at is None else asked.at)
    recipe = old.change(
        name=asked.name or f"{old.name}-experts",
        seed=old.seed + 1,
        model={"experts": asked.experts, "experts_per_token": asked.experts_per_token},
        data={
            "corpus": corpus.folder.name,
            "context": context,
            "mixture": _mixture(parent, corpus, at),
            "stages": (),
        },
        # the same decay a unit of rate
        optimizer={"lr": lr, "weight_decay": old.optimizer.weight_decay * lr / old.optimizer.lr},
        schedule=_schedule(asked, batch),
        train={"batch": batch, "micro_batch": 0, "branch_points": ()},
    )
    return create(parent.lab, recipe, corpus, parent, at, anew=True)


def _schedule(asked: Asked, batch: int) -> dict[str, Any]:
    """Up, on, and straight down to zero. A stem's warm-up does not depend on its length, so that
    it can be extended.
    """
    share = _WARMUP * asked.tokens if asked.decay.of(asked.tokens) else _STEM_WARMUP * batch
    return {
        "tokens": asked.tokens,
        "kind": "wsd",
        "warmup": max(batch, round(share / batch) * batch),
        "decay": asked.decay,
        "decay_shape": "linear",
        "floor": 0.0,
        "half_life": 0,
    }


def _stable(parent: Run) -> int | None:
    """Its last checkpoint before a decay, which a peak rate would undo."""
    decay = parent.recipe.total_tokens - parent.recipe.decay_tokens
    return max(
        (tokens for tokens in checkpoint.positions(parent.checkpoints) if tokens <= decay),
        default=None,
    )


def _mixture(parent: Run, corpus: Corpus, at: int) -> Mixture:
    """What the parent read at `at` tokens; each source by its size on another corpus."""
    data = parent.recipe.data
    begun = [stage.mixture for stage in data.stages if stage.at < at]
    return ([data.mixture, *begun][-1]) if corpus.digest == parent.corpus else {}
