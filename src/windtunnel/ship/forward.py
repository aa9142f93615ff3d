"""Our own forward pass in fp32, with which every engine is compared."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Model

_TOKENS = 4096  # that go through a model at once


def decoder_of(model: Model, weights: Mapping[str, Tensor], context: int) -> Decoder:
    """The decoder with these weights, in fp32, for sequences of up to `context` tokens."""
    decoder = Decoder(model, context)
    decoder.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return decoder


def log_probabilities(
    model: Model, weights: Mapping[str, Tensor], windows: np.ndarray, skip: int = 0
) -> np.ndarray:
    """Windows of token ids (n, T + 1) -> the log-probability of each token but the first and the
    `skip` after it, given those before it: (n, T - skip), nats.
    """
    decoder = decoder_of(model, weights, windows.shape[1])
    return windows_scored(decoder.logits, windows, skip)


@torch.no_grad()
def windows_scored(
    logits_of: Callable[[Tensor], Tensor], windows: np.ndarray, skip: int = 0
) -> np.ndarray:
    """The same as `log_probabilities`, by any function from ids (n, T) to logits (n, T,
    vocabulary).
    """
    found = []
    for part in rows(windows):
        log_probabilities = logits_of(part[:, :-1])[:, skip:].double().log_softmax(-1)
        chosen = log_probabilities.gather(-1, part[:, 1 + skip :, None])
        found.append(chosen[..., 0].cpu().numpy())
    return np.concatenate(found)


def rows(windows: np.ndarray) -> Iterator[Tensor]:
    """Windows (n, T), as many at a time as go through a model at once."""
    yield from torch.from_numpy(windows).split(max(1, _TOKENS // windows.shape[1]))
