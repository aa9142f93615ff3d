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
from windtunnel.recipe.preference import CHOSEN, Compared, PreferenceLoss

if TYPE_CHECKING:
    from torch import Tensor

DataKind = Literal["text", "conversations", "preferences"]
"""What a corpus holds. Conversations also say which of their tokens are to be learnt; preferences
are conversations of which each is there with two answers."""


@dataclass(frozen=True, kw_only=True)
class Preferred:
    """What a preference loss is told beside the nats. Documents are those of one split of the
    corpus.
    """

    loss: PreferenceLoss
    beta: Tensor
    """() or (P,)."""
    smoothing: float
    """The share of judgements that is taken to be wrong."""
    per_token: bool
    """Whether log-ratios are means over an answer's tokens."""
    reference: Tensor
    """Nats of each document's answer under the reference, (documents,)."""
    roles: Tensor
    """What each document's answer is, such as `CHOSEN`, (documents,)."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a batch or a part of one says of its targets: W windows of T, (..., W, T) each."""

    learnt: Tensor
    """Which targets count."""
    documents: Tensor
    """The number of each one's document in its split, where the corpus says so; else 0."""
    preferred: Preferred | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveKind:
    """One thing to learn. T: targets of a window."""

    name: str
    help: str
    needs: DataKind
    """What the corpus must hold. Conversations will do where text is needed."""
    learnt: Callable[[Tensor], Tensor]
    """Which targets count, (..., T), given which of them the corpus marks as to be learnt."""
    size: Callable[[Seen], Tensor]
    """What the loss is a mean over: how many a batch holds, () or (P,)."""
    loss: Callable[[Tensor, Seen, Tensor], Tensor]
    """What a part of a batch adds to the loss that is minimised: of the nats of its targets,
    (W * T,) or (P, W * T), and the size of the whole batch, () or (P,). Returns () or (P,)."""


def _targets(seen: Seen) -> Tensor:
    return seen.learnt.sum((-2, -1))


def _mean(nats: Tensor, seen: Seen, total: Tensor) -> Tensor:
    return nats.where(seen.learnt.flatten(-2), 0.0).sum(-1) / total


def by_document(values: Tensor, seen: Seen) -> Tensor:
    """Sums of the targets' values over each document of a window, in the order in which they
    stand; 0 where there is no further one. (..., W, T) -> (..., W, T).
    """
    first = seen.documents[..., :1]
    none = values.new_zeros(values.shape)
    return none.scatter_add(-1, seen.documents - first, values.where(seen.learnt, 0))


def _records(seen: Seen) -> Tensor:
    """How many tokens each document's answer has, two documents a record: (..., W, T / 2, 2)."""
    return by_document(seen.learnt.long(), seen).unflatten(-1, (-1, 2))


def compare(nats: Tensor, seen: Seen) -> Compared:
    """The records in some windows, of the nats of their targets, (..., W, T)."""
    told = seen.preferred
    if told is None:
        raise ValueError("preferences were not told")
    tokens = _records(seen)
    # a place without a document gathers from any, and counts for nothing
    places = seen.documents.new_ones(seen.documents.shape).cumsum(-1) - 1
    numbers = (seen.documents[..., :1] + places).clamp(max=told.reference.shape[0] - 1)
    reference = told.reference[numbers].unflatten(-1, (-1, 2))
    ratios = reference - by_document(nats, seen).unflatten(-1, (-1, 2))
    if told.per_token:
        ratios = ratios / tokens.clamp(min=1)
    good = told.roles[numbers].unflatten(-1, (-1, 2))[..., 0] == CHOSEN
    there = tokens[..., 0] > 0
    return Compared(first=ratios[..., 0], second=ratios[..., 1], good=good, there=there)


def _preference(nats: Tensor, seen: Seen, total: Tensor) -> Tensor:
    compared, told = compare(nats.view(seen.learnt.shape), seen), seen.preferred
    assert told is not None
    beta = told.beta[..., None, None]
    losses = told.loss.smoothed(compared, beta, told.smoothing)
    return losses.where(compared.there, 0.0).sum((-2, -1)) / total


OBJECTIVES = Table(
    "objective",
    [
        ObjectiveKind(
            name="next-token",
            help="every token of the text, from those before it",
            needs="text",
            learnt=lambda marked: marked.new_ones(marked.shape),
            size=_targets,
            loss=_mean,
        ),
        ObjectiveKind(
            name="answers",
            help="in conversations, what the assistant says, from all that was said before",
            needs="conversations",
            learnt=lambda marked: marked,
            size=_targets,
            loss=_mean,
        ),
        ObjectiveKind(
            name="preferences",
            help="which of two answers is the better one, by the loss of the section `preference`",
            needs="preferences",
            learnt=lambda marked: marked,
            size=lambda seen: (_records(seen)[..., 0] > 0).sum((-2, -1)),
            loss=_preference,
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
