"""Objectives: what a batch asks the model to learn.

An objective is a pure function of the nats of a batch's targets, written with tensors' own methods
and arithmetic: nothing here imports torch.

To add one, add its record to `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from windtunnel.choices import Table
from windtunnel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

DataKind = Literal["text", "conversations"]
"""What a corpus holds. Conversations also say which of their tokens are to be learnt."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveKind:
    """One thing to learn. T: targets of a window."""

    name: str
    help: str
    needs: DataKind
    """What the corpus must hold. Conversations will do where text is needed."""
    learnt: Callable[[Tensor], Tensor]
    """Which targets count, (..., T), given which of them the corpus marks as to be learnt."""
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    """What a part of a batch adds to the loss that is minimised: of the nats of its targets and
    which of them count, (n,) or (P, n) each, and how many of the whole batch do, () or (P,).
    Returns () or (P,)."""


def _mean(nats: Tensor, learnt: Tensor, total: Tensor) -> Tensor:
    return nats.where(learnt, 0.0).sum(-1) / total


OBJECTIVES = Table(
    "objective",
    [
        ObjectiveKind(
            name="next-token",
            help="every token of the text, from those before it",
            needs="text",
            learnt=lambda marked: marked.new_ones(marked.shape),
            loss=_mean,
        ),
        ObjectiveKind(
            name="answers",
            help="in conversations, what the assistant says, from all that was said before",
            needs="conversations",
            learnt=lambda marked: marked,
            loss=_mean,
        ),
    ],
)

ObjectiveName = Annotated[str | None, OBJECTIVES]


def objective_of(asked: ObjectiveName, held: DataKind) -> ObjectiveKind:
    """The objective that a recipe asks for, on a corpus that holds this; where it asks for none,
    the one that is for such a corpus. Raises InputError for one that needs another.
    """
    if asked is None:
        return next(kind for kind in OBJECTIVES.values() if kind.needs == held)
    kind = OBJECTIVES[asked]
    if kind.needs not in ("text", held):
        raise InputError(f"train.objective='{asked}' needs {kind.needs}, but the corpus is {held}")
    return kind
