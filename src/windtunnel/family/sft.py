"""Supervised fine-tuning: a run's model learns to answer, from conversations.

The run begins anew: the parent's weights, no moments, positions from 0, a schedule of its own. Of
each conversation only what the assistant says is learnt (`data/chat.py`), and attention stays
within a conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.data.chat import build_chat
from windtunnel.data.readers import Progress
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.quantities import Length, about
from windtunnel.train.run import Run, checkpoint_at, context_of, create, open_corpus

# Of the base rate. The paper's decay goes from 0.01 to 0.001, and its fine-tuning on from there
# (paper section 6.2; the author in issue 40 of its repository).
RATE = 0.1
EPOCHS = 3.0
_LONGEST = 2048  # tokens of a window, where nothing else is asked for
# at least, where no batch is asked for: a pre-training batch can be most of a set of
# conversations
_STEPS = 100
_WARMUP = 0.05  # of the steps: the moments begin at zero


@dataclass(frozen=True)
class Asked:
    """What a person may choose; None: chosen. Lengths in tokens; `at`: the parent's checkpoint,
    else its last one.
    """

    epochs: float | None = None
    tokens: int | None = None
    lr: float | None = None
    batch: int | None = None
    context: int | None = None
    at: int | None = None
    name: str | None = None
    max_bad: float = 0.01


def sft(
    parent: Run, data: Sequence[str | Path], asked: Asked, progress: Progress | None = None
) -> tuple[Run, Corpus]:
    """The run that fine-tunes `parent` on the conversations in these files, folders or globs, and
    their corpus; to be trained like any other. The same question gives the same run. Raises
    InputError.
    """
    at = checkpoint_at(parent, asked.at)
    lr = _rate(parent, asked.lr)
    context = context_of(parent, asked.context or min(parent.recipe.data.context, _LONGEST))
    corpus = build_chat(
        parent.lab / "corpora", data, parent.tokenizer, context, asked.max_bad, progress
    )
    tokens, batch = _length(parent, corpus, context, asked)
    recipe = parent.recipe.change(
        name=asked.name or f"{parent.recipe.name}-sft",
        data={
            "corpus": corpus.folder.name,
            "context": context,
            "mixture": {},
            "stages": (),
            "mask_documents": True,
        },
        # the same decay a unit of rate
        optimizer={
            "lr": lr,
            "weight_decay": parent.recipe.optimizer.weight_decay * lr / parent.recipe.optimizer.lr,
        },
        schedule=_schedule(tokens, batch),
        train={"batch": batch, "micro_batch": 0, "branch_points": (), **_every_tenth()},
    )
    return create(parent.lab, recipe, corpus, parent, at, anew=True), corpus


def _rate(parent: Run, lr: float | None) -> float:
    if lr is not None:
        return lr
    if parent.recipe.is_imported:
        raise InputError(
            f"--lr: {parent.id} is imported and brings no rate; expected one, mostly from 1e-5 to 1e-3"
        )
    tuned = open_corpus(parent.lab, parent.recipe).manifest.packing
    return parent.recipe.optimizer.lr * (1 if tuned else RATE)


def _length(parent: Run, corpus: Corpus, context: int, asked: Asked) -> tuple[int, int]:
    """Tokens in whole steps, and of one step. An epoch counts whole windows, what fills them up
    included.
    """
    if asked.tokens and asked.epochs:
        raise InputError("--epochs and --tokens say the same: expected one of them")
    epoch = sum(source.train.tokens - 1 for source in corpus.sources.values())
    tokens = asked.tokens or round((asked.epochs or EPOCHS) * epoch)
    batch = asked.batch or context * max(
        1, min(parent.recipe.train.batch, tokens // _STEPS) // context
    )
    if tokens < batch:
        raise InputError(
            f"{about(tokens)} tokens are less than one batch of {about(batch)}; an epoch is {about(epoch)}"
        )
    return tokens - tokens % batch, batch


def _schedule(tokens: int, batch: int) -> dict[str, Any]:
    """Up, and straight down to zero: a fine-tuning is a decay that begins at once."""
    warmup = batch * round(_WARMUP * tokens / batch)
    return {
        "tokens": tokens,
        "kind": "wsd",
        "warmup": warmup,
        "decay": tokens - warmup,
        "decay_shape": "linear",
        "floor": 0.0,
        "half_life": 0,
    }


def _every_tenth() -> dict[str, Any]:
    return {"checkpoint_every": Length(share=0.1), "evaluate_every": Length(share=0.1)}
