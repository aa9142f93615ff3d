"""What a training step minimises: the mean next-token loss of a batch of windows."""

import warnings

import numpy as np
import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.train.device import Engine

# Members' parameters and gradients are views into flat buffers, (P, out, in) with the buffer's stride over P; autograd
# finds that such a gradient is not dense, adds into it all the same, and says so.
warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract", UserWarning)


def accumulate(model: Decoder, batch: np.ndarray, engine: Engine, document_end: int | None) -> Tensor:
    """Add the gradient of the batch's mean loss to the parameters' `grad`; return that loss, () or (P,).

    batch: (windows, context + 1). It goes through the model `engine.micro_batch` tokens at a time. `document_end`: the
    token at which attention is cut, or None to let it cross documents.
    """
    rows = engine.micro_batch // (batch.shape[1] - 1)
    parts = torch.from_numpy(batch).to(engine.device, non_blocking=True).split(rows)
    total = torch.zeros((), device=engine.device)
    for part in parts:
        inputs, targets = part[:, :-1].contiguous(), part[:, 1:].contiguous()
        documents = None if document_end is None else document_numbers(inputs, document_end)
        with engine.autocast():
            losses = model.losses(inputs, targets, documents).mean(-1) * (len(part) / len(batch))
        losses.sum().backward()
        total = total + losses.detach()
    return total


def document_numbers(inputs: Tensor, end: int) -> Tensor:
    """Number the documents of each window: an end token is the last of its document. (n, T) -> (n, T)."""
    ends = (inputs == end).long()
    return ends.cumsum(-1) - ends
