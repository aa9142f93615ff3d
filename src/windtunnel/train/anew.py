"""What the members of the family share: a run that begins anew from the weights of a parent's
checkpoint, with no moments, positions from 0, and a schedule of its own.
"""

from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.quantities import Length
from windtunnel.recipe import Mixture, Recipe
from windtunnel.train import checkpoint
from windtunnel.train.run import Run, create

_WARMUP = 0.02  # of the tokens: the moments begin at zero
_STEM_WARMUP = 20  # steps


def begin_anew(parent: Run, at: int, corpus: Corpus, **settings: Any) -> Run:
    """The run that begins at the parent's checkpoint of `at` tokens, on this corpus; `settings` as
    `anew` takes them. Raises InputError.
    """
    recipe = anew(parent.recipe, corpus.folder.name, **settings)
    return create(parent.lab, recipe, corpus, parent, at, anew=True)


def anew(
    old: Recipe,
    corpus: str,
    *,
    lr: float,
    batch: int,
    tokens: int,
    warmup: int,
    decay: int | Length,
    data: dict[str, Any],
    train: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    preference: dict[str, Any] | None = None,
    **changes: Any,
) -> Recipe:
    """The recipe of a run that begins with a parent's weights: `tokens` on this corpus, in batches
    of `batch`, with a warm-up to `lr` and, unless `schedule` says otherwise, a straight decay down
    to zero at the end. `data`, `train`, `schedule`, `optimizer`, `preference` and `changes`: what
    else of the parent's recipe `old` changes. Raises InputError.
    """
    goes = {
        "tokens": tokens,
        "kind": "wsd",
        "warmup": warmup,
        "decay": decay,
        "decay_shape": "linear",
        "floor": 0.0,
        "half_life": 0,
        **(schedule or {}),
    }
    # Weight decay is a share of the weights at every step: per unit of rate it stays the same.
    weight_decay = old.optimizer.weight_decay * lr / old.optimizer.lr
    plain: dict[str, Any] = {
        "batch": batch,
        "growth": (),
        "micro_batch": 0,
        "branch_points": (),
    }
    if old.preference and not preference:
        plain["objective"] = None  # what the parent learnt by is left behind
    return old.change(
        data={"corpus": corpus, "stages": (), **data},
        optimizer={
            "lr": lr,
            "weight_decay": weight_decay,
            "lr_by_role": True,
            **(optimizer or {}),
        },
        schedule=goes,
        train={**plain, **(train or {})},
        preference=preference,
        **changes,
    )


def warmup_of(tokens: int, decay: Length, batch: int) -> int:
    """Tokens of the warm-up, in whole steps, of a run of so many tokens with this decay. A stem's
    does not depend on its length, so that it can be extended.
    """
    if not decay.of(tokens):
        return _STEM_WARMUP * batch
    return max(batch, round(_WARMUP * tokens / batch) * batch)


def last_stable(parent: Run) -> int | None:
    """The tokens of its last checkpoint before a decay, whose work a peak rate would undo; None
    where there is none.
    """
    decay = parent.recipe.total_tokens - parent.recipe.decay_tokens
    positions = checkpoint.positions(parent.checkpoints)
    return max((tokens for tokens in positions if tokens <= decay), default=None)


def mixture_at(parent: Run, corpus: Corpus, at: int) -> Mixture:
    """What the parent read at `at` tokens; on another corpus, each source by its size."""
    if corpus.digest != parent.corpus:
        return {}
    data = parent.recipe.data
    # a stage holds from its token on, until the next
    begun = [stage.mixture for stage in data.stages if stage.at < at]
    return begun[-1] if begun else data.mixture
