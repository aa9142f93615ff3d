"""What a training step minimises: the mean next-token loss of a batch of windows.

A token of a window that is read but not learnt (what a user says in a chat) stands there below 0,
and the number of its document may stand above its bits (`data.shards.TokenStream.marked`).
"""

import warnings

import torch
from torch import Tensor

from windtunnel.data.shards import NUMBER_BIT
from windtunnel.model.decoder import Decoder
from windtunnel.results.run import Engine
from windtunnel.train.device import autocast
from windtunnel.train.graphs import Replayed

# Members' parameters and gradients are views into flat buffers, (P, out, in) with the buffer's
# stride over P; autograd finds that such a gradient is not dense, adds into it all the same, and
# says so.
warnings.filterwarnings(
    "ignore", "grad and param do not obey the gradient layout contract", UserWarning
)


class Objective:
    """The loss of a model, or of each member of a population. `document_end`: the token at which
    attention is cut, or None to let it cross documents. `balance`: the weight of the
    load-balancing loss of experts, one number, or (P,).
    """

    def __init__(
        self,
        model: Decoder,
        engine: Engine,
        document_end: int | None = None,
        balance: float | Tensor = 0.0,
    ) -> None:
        self._model, self._engine, self._document_end, self._balance = (
            model,
            engine,
            document_end,
            balance,
        )
        self._part = (
            Replayed(self._add_part, torch.device(engine.device))
            if _replayable(model, engine)
            else self._add_part
        )

    def add_gradient(self, batch: Tensor) -> Tensor:
        """Add the gradient of the mean loss of what is to be learnt, and of how unevenly experts
        are used, to the parameters' `grad`; return that loss, () or (P,), without the latter.

        batch: (windows, context + 1) on the model's device, or (P, windows, context + 1) where
        each member has its own. It goes through the model `engine.micro_batch` tokens of each
        member at a time. Nothing waits for the device.
        """
        learnt = (batch[..., 1:] >= 0).sum((-2, -1)).clamp(min=1)
        parts = batch.split(self._engine.micro_batch // (batch.shape[-1] - 1), dim=-2)
        windows = torch.full((), batch.shape[-2], device=batch.device)
        return torch.stack([self._part(part, learnt, windows) for part in parts]).sum(0)

    def _add_part(self, part: Tensor, learnt: Tensor, windows: Tensor) -> Tensor:
        """`learnt`: targets of the whole batch, () or (P,); `windows` of it, ()."""
        inputs, targets, asked, numbers = split(part)
        documents = (
            None
            if self._document_end is None
            else numbers + document_numbers(inputs, self._document_end)
        )
        with autocast(self._engine):
            losses, unevenness = self._model.losses_and_unevenness(inputs, targets, documents)
        loss = torch.where(asked.flatten(-2), losses, 0.0).sum(-1) / learnt
        learn = loss if unevenness is None else loss + self._balance * unevenness.sum(-1) / windows
        learn.sum().backward()
        return loss.detach()


def _replayable(model: Decoder, engine: Engine) -> bool:
    """Whether nothing in it waits for a GPU: torch's grouped product does but for bf16 on Hopper
    and data-centre Blackwell.
    """
    if not model.model.experts or engine.device != "cuda":
        return True
    return engine.precision == "bf16" and torch.cuda.get_device_capability()[0] in (9, 10)


def split(windows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows (..., T + 1) -> inputs, targets, which targets are to be learnt, and the numbers of
    documents that the inputs carry, (..., T) each.
    """
    marked, asked = torch.where(windows < 0, ~windows, windows), windows[..., 1:] >= 0
    tokens = marked & ((1 << NUMBER_BIT) - 1)
    return (
        tokens[..., :-1].contiguous(),
        tokens[..., 1:].contiguous(),
        asked,
        marked[..., :-1] >> NUMBER_BIT,
    )


def document_numbers(inputs: Tensor, end: int) -> Tensor:
    """Number the documents of each window: an end token is the last of its document. (..., T) ->
    (..., T).
    """
    ends = (inputs == end).long()
    return ends.cumsum(-1) - ends
