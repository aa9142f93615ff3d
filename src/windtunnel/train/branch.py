"""How a run leaves its parent: a branch that decays, or a stem that goes on with another batch or
base rate.
"""

from collections.abc import Sequence
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.recipe import SCHEDULES, DecayShapeName, Mixture
from windtunnel.recipe.objective import ObjectiveName
from windtunnel.train import checkpoint
from windtunnel.train.run import Run, create


def branch(
    parent: Run,
    corpus: Corpus,
    at: int,
    decay: int,
    shape: DecayShapeName = "linear",
    floor: float = 0.0,
    mixture: Mixture | None = None,
    batch: int | None = None,
    lr: float | None = None,
    name: str | None = None,
    context: int | None = None,
    objective: ObjectiveName = None,
) -> Run:
    """The run that leaves `parent` at `at` tokens and decays over `decay` tokens, with its own
    shape and mixture, and from there on its own batch and base rate; where the parent has a
    checkpoint, also on its own corpus and context. `objective`: another than the parent's.

    It is computed from the parent's last checkpoint at or before `at`, or from the beginning: up
    to there the two are the same to the bit (with another micro-batch, to rounding).
    """
    growth = () if batch else parent.recipe.train.growth
    batch, lr = _left_with(parent, at, batch, lr)
    # only whole steps are trained, of the batch that the branch goes on with
    at = parent.recipe.whole_steps(at) if growth else at - at % batch
    step = parent.recipe.batch_at(at) if growth else batch
    decay = max(step, decay - decay % step)
    text = _text(parent, corpus, at, mixture, context)
    # the steps before `at` are computed as the parent computed them, to the bit; windows of another
    # length may not fit into its parts
    micro_batch = 0 if "context" in text else min(parent.recipe.train.micro_batch, batch)
    changed = parent.recipe.change(
        name=name or f"{parent.recipe.name}-branch",
        data=text,
        optimizer={"lr": lr},
        schedule={
            "tokens": at + decay,
            "warmup": parent.recipe.warmup_tokens,
            "decay": decay,
            "decay_shape": shape,
            "floor": floor,
            "half_life": 0,
        },
        train={
            "batch": batch,
            "growth": growth,
            "micro_batch": micro_batch,
            "branch_points": (),
            "objective": objective or parent.recipe.train.objective,
        },
    )
    return create(parent.lab, changed, corpus, parent, at)


def go_on(
    parent: Run,
    corpus: Corpus,
    at: int,
    tokens: int,
    batch: int | None = None,
    lr: float | None = None,
    branch_points: Sequence[int] = (),
    name: str | None = None,
) -> Run:
    """The stem that leaves `parent` at `at` tokens and goes on to `tokens` tokens with another
    batch or base rate.
    """
    growth = () if batch else parent.recipe.train.growth
    batch, lr = _left_with(parent, at, batch, lr)
    micro_batch = min(parent.recipe.train.micro_batch, batch)
    changed = parent.recipe.change(
        name=name or f"{parent.recipe.name}-on",
        optimizer={"lr": lr},
        schedule={"tokens": tokens, "warmup": parent.recipe.warmup_tokens, "decay": 0},
        train={
            "batch": batch,
            "growth": growth,
            "micro_batch": micro_batch,
            "branch_points": tuple(branch_points),
        },
    )
    return create(parent.lab, changed, corpus, parent, changed.whole_steps(at))


def _left_with(parent: Run, at: int, batch: int | None, lr: float | None) -> tuple[int, float]:
    """The batch and rate of a run that leaves `parent` at `at` tokens. Raises InputError where
    none can.
    """
    recipe = parent.recipe
    stable = recipe.total_tokens - recipe.decay_tokens
    if (
        not SCHEDULES[recipe.schedule.kind].stable
        or not recipe.warmup_tokens <= recipe.whole_steps(at) <= stable
    ):
        raise InputError(
            f"--at {about(at)}: a branch must leave {parent.id} in its stable phase, between "
            f"{about(recipe.warmup_tokens)} and {about(stable)} tokens"
        )
    # a checkpoint is there a moment before the run says so
    reached = max([parent.status().tokens, *checkpoint.positions(parent.checkpoints)])
    if recipe.whole_steps(at) > reached:
        raise InputError(
            f"--at {about(at)}: {parent.id} has been trained to {about(reached)} tokens only"
        )
    if recipe.is_imported and lr is None:
        raise InputError(
            f"--lr: {parent.id} is imported and has no learning rate; give one, such as 3e-4"
        )
    batch, lr = batch or recipe.train.batch, lr or recipe.optimizer.lr
    if (batch, lr) != (recipe.train.batch, recipe.optimizer.lr) and (
        at % batch or recipe.whole_steps(at) != at
    ):
        raise InputError(
            f"--at {at}: another batch or learning rate can only begin at a multiple of both "
            f"batches, {recipe.batch_at(at)} and {batch}"
        )
    return batch, lr


def _text(
    parent: Run, corpus: Corpus, at: int, mixture: Mixture | None, context: int | None
) -> dict[str, Any]:
    """What changes in the recipe's data from `at` tokens on: the mixture; or the corpus and the
    windows too, where the parent has a checkpoint. Raises InputError where that can't be.
    """
    own = parent.recipe.data
    # conversations beside the text: attention stays within each, and so within each text
    mask = own.mask_documents or corpus.holds == "conversations"
    if corpus.digest == parent.corpus and context in (None, own.context):
        stages = [stage.model_dump() for stage in own.stages if stage.at < at]
        return {"stages": [*stages, {"at": at, "mixture": mixture}] if mixture else stages}
    there = checkpoint.positions(parent.checkpoints)
    if at not in there:
        raise InputError(
            f"--at {about(at)}: another corpus or context can only begin at a checkpoint of "
            f"{parent.id}; there are: {', '.join(map(str, there)) or 'none'}"
        )
    check_tokenizer(parent, corpus)
    if context and context > own.context:
        raise InputError(
            f"--context {context}: {parent.id} was made for at most {own.context} tokens"
        )
    return {
        "corpus": corpus.folder.name,
        "context": context or own.context,
        "mixture": mixture or {},
        "stages": (),
        "mask_documents": mask,
    }


def check_tokenizer(parent: Run, corpus: Corpus) -> None:
    """Raises InputError for a corpus whose tokens mean something else to the parent's model."""
    if Tokenizer.load(parent.tokenizer).sha256 != corpus.manifest.tokenizer_sha256:
        raise InputError(
            f"{corpus.folder}: its tokenizer is not that of {parent.id}; build it with "
            f"`windtunnel corpus build NAME SOURCE=PATH --tokenizer {parent.id}`"
        )
