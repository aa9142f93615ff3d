"""What a training step minimises: the mean next-token loss of a batch of windows."""

import warnings

import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.train.device import Engine
from windtunnel.train.graphs import Replayed

# Members' parameters and gradients are views into flat buffers, (P, out, in) with the buffer's stride over P; autograd
# finds that such a gradient is not dense, adds into it all the same, and says so.
warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract", UserWarning)


class Objective:
    """The loss of a model, or of each member of a population. `document_end`: the token at which attention is cut, or
    None to let it cross documents."""

    def __init__(self, model: Decoder, engine: Engine, document_end: int | None = None) -> None:
        self._model, self._engine, self._document_end = model, engine, document_end
        self._part = Replayed(self._add_part, engine.torch_device)

    def add_gradient(self, batch: Tensor) -> Tensor:
        """Add the gradient of the batch's mean loss to the parameters' `grad`; return that loss, () or (P,).

        batch: (windows, context + 1) on the model's device, or (P, windows, context + 1) where each member has its own.
        It goes through the model `engine.micro_batch` tokens of each member at a time. Nothing waits for the device.
        """
        windows, context = batch.shape[-2], batch.shape[-1] - 1
        parts = batch.split(self._engine.micro_batch // context, dim=-2)
        return torch.stack([self._part(part, part.shape[-2] / windows) for part in parts]).sum(0)

    def _add_part(self, part: Tensor, share: float) -> Tensor:
        inputs, targets = part[..., :-1].contiguous(), part[..., 1:].contiguous()
        documents = None if self._document_end is None else document_numbers(inputs, self._document_end)
        with self._engine.autocast():
            losses = self._model.losses(inputs, targets, documents).mean(-1) * share
        losses.sum().backward()
        return losses.detach()


def document_numbers(inputs: Tensor, end: int) -> Tensor:
    """Number the documents of each window: an end token is the last of its document. (..., T) -> (..., T)."""
    ends = (inputs == end).long()
    return ends.cumsum(-1) - ends
