"""What fine-tuning and upcycling share: a run that begins anew from the weights of a parent's
checkpoint, with no moments, positions from 0, and a schedule of its own.
"""

from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.quantities import Length
from windtunnel.train.run import Run, create


def begin_anew(
    parent: Run,
    at: int,
    corpus: Corpus,
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
) -> Run:
    """The run that begins at the parent's checkpoint of `at` tokens: `tokens` on this corpus, in
    batches of `batch`, with a warm-up to `lr` and, unless `schedule` says otherwise, a straight
    decay down to zero at the end. `data`, `train`, `schedule`, `optimizer`, `preference` and
    `changes`: what else of the parent's recipe changes. Raises InputError.
    """
    old = parent.recipe
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
    plain = {"batch": batch, "micro_batch": 0, "branch_points": ()}
    recipe = old.change(
        data={"corpus": corpus.folder.name, "stages": (), **data},
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
    return create(parent.lab, recipe, corpus, parent, at, anew=True)
