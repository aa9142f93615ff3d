"""What a training step minimises: what its objective makes of a batch of windows, and how
unevenly experts are used.
"""

import warnings
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from windtunnel.data.shards import NUMBER_BIT
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, PRECISIONS, ObjectiveKind, Preferred, Seen
from windtunnel.results.run import Engine
from windtunnel.train.device import autocast
from windtunnel.train.graphs import Replayed
from windtunnel.train.parallel import ALONE, Ranks, begin_part

# Members' parameters and gradients are views into flat buffers, (P, out, in) with the buffer's
# stride over P; autograd finds that such a gradient is not dense, adds into it all the same, and
# says so.
warnings.filterwarnings(
    "ignore", "grad and param do not obey the gradient layout contract", UserWarning
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What windows of a corpus say; each field is (..., windows, T)."""

    inputs: Tensor
    """Tokens that the model reads."""
    targets: Tensor
    """The token after each of them."""
    marked: Tensor
    """Which targets the corpus marks as to be learnt: all of a text, the assistant's words of a
    conversation."""
    numbers: Tensor
    """Of the document in which each input stands, in its split of the corpus, where that says so;
    else 0."""

    @classmethod
    def read(cls, windows: Tensor) -> "Batch":
        """From windows (..., windows, T + 1), as `data.shards.TokenStream.marked` gives them: a
        token that is read but not learnt is below 0, and the number of its document stands above
        its own bits.
        """
        plain = torch.where(windows < 0, ~windows, windows)
        tokens, numbers = plain & ((1 << NUMBER_BIT) - 1), plain >> NUMBER_BIT
        return cls(
            inputs=tokens[..., :-1].contiguous(),
            targets=tokens[..., 1:].contiguous(),
            marked=windows[..., 1:] >= 0,
            numbers=numbers[..., :-1],
        )

    def documents(self, end: int | None) -> Tensor | None:
        """The document of each input, for attention to stay within it: a token `end` is the last
        of its own. None, where attention crosses documents, without such a token.
        """
        return None if end is None else self.numbers + document_numbers(self.inputs, end)

    def seen(self, kind: ObjectiveKind, preferred: Preferred | None = None) -> Seen:
        """What an objective is told of the targets."""
        return Seen(learnt=kind.learnt(self.marked), documents=self.numbers, preferred=preferred)


class Objective:
    """The loss of a model, or of each member of a population. `document_end`: the token at which
    attention is cut, or None to let it cross documents. `balance`: the weight of the
    load-balancing loss of experts, one number, or (P,). `preferred`: what the objective is told of
    preferences.
    """

    def __init__(
        self,
        model: Decoder,
        engine: Engine,
        document_end: int | None = None,
        balance: float | Tensor = 0.0,
        kind: ObjectiveKind = OBJECTIVES["next-token"],
        preferred: Preferred | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._engine, self._kind, self._ranks, self._model = engine, kind, ranks, model
        # a function of its own, and no method: nothing that holds the model holds itself, or an
        # old population would live on until Python's collector comes by
        part = partial(_add_part, model, engine, document_end, balance, kind, preferred)
        replayable = _replayable(model, engine) and ranks.world == 1
        self._part = Replayed(part, torch.device(engine.device)) if replayable else part

    def add_gradient(self, batch: Tensor) -> Tensor:
        """Add the gradient of the mean loss of what is to be learnt, and of how unevenly experts
        are used, to the parameters' `grad`; return that loss, () or (P,), without the latter.

        batch: (windows, context + 1) on the model's device, or (P, windows, context + 1) where
        each member has its own; of several ranks, each has its share of the batch, and returns
        its part of the mean. It goes through the model `engine.micro_batch` tokens of each member
        at a time. Nothing waits for the device.
        """
        # counted over the whole batch, so that its parts add up to one mean; a batch in which
        # nothing is to be learnt has a loss of 0, and not of 0 / 0
        mine = self._kind.size(Batch.read(batch).seen(self._kind))
        total = self._ranks.sum(mine).clamp(min=1)
        parts = batch.split(self._engine.micro_batch // (batch.shape[-1] - 1), dim=-2)
        # on the device: a replayed graph holds tensors, and would keep a plain number for ever
        windows = torch.full((), batch.shape[-2] * self._ranks.world, device=batch.device)
        losses = []
        for number, part in enumerate(parts, 1):
            begin_part(self._model, self._ranks, last=number == len(parts))
            losses.append(self._part(part, total, windows))
        return torch.stack(losses).sum(0)


def _add_part(
    model: Decoder,
    engine: Engine,
    document_end: int | None,
    balance: float | Tensor,
    kind: ObjectiveKind,
    preferred: Preferred | None,
    part: Tensor,
    total: Tensor,
    windows: Tensor,
) -> Tensor:
    """The gradient of a part of a batch, with the `total` that its objective takes the mean over,
    () or (P,), and the number of windows, (), of the whole batch.
    """
    read = Batch.read(part)
    documents = read.documents(document_end)
    with autocast(engine.device, engine.precision):
        nats, unevenness = model.losses_and_unevenness(read.inputs, read.targets, documents)
    loss = kind.loss(nats, read.seen(kind, preferred), total)
    minimised = loss
    if unevenness is not None:
        minimised = loss + balance * unevenness.sum(-1) / windows
    # members share no parameter, so the gradient of the sum is each one's own
    minimised.sum().backward()
    return loss.detach()


def document_numbers(inputs: Tensor, end: int) -> Tensor:
    """Number the documents of each window: an end token is the last of its document. (..., T) ->
    (..., T).
    """
    ends = (inputs == end).long()
    return ends.cumsum(-1) - ends


def _replayable(model: Decoder, engine: Engine) -> bool:
    """Whether nothing in it waits for a GPU: torch's grouped product does but for bf16 on Hopper
    and data-centre Blackwell.
    """
    if not model.model.experts or engine.device != "cuda":
        return True
    return PRECISIONS[engine.precision].half and torch.cuda.get_device_capability()[0] in (9, 10)
