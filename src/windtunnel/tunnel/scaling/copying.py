"""Whether a model has learnt to copy what stands before in its window, and how much of its loss
copying could tell (Olsson et al. 2022).

Models learn it within few steps, at a length that their earlier losses do not tell, and losses fall
faster from then on.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from windtunnel.data.windows import Windows
from windtunnel.results.scaling import Copying
from windtunnel.train.objective import Batch

_TEXTS, _LONGEST = 32, 64  # random texts, and tokens of one of them
_HELD_OUT, _AT_ONCE = 32, 8  # windows of a source, and how many go through the model at once

# (inputs, targets), both (n, T) -> nats of each target, (n * T,).
Losses = Callable[[Tensor, Tensor], Tensor]


def copying_of(losses: Losses, windows: Windows) -> Copying | None:
    """Of a model, by its losses. The random texts are of held-out tokens. None where nothing is
    held out, or a window is too short to hold a text twice.
    """
    length = min(_LONGEST, windows.context // 2)
    batch = held_out(windows, _HELD_OUT * windows.context)
    if not len(batch.inputs) or length < 2:
        return None
    tokens = batch.inputs.flatten().numpy()
    texts = np.random.default_rng(0).choice(tokens, (_TEXTS, length))
    return Copying(
        saved=saved(losses, torch.from_numpy(texts)),
        copyable=copyable(losses, batch.inputs, batch.targets),
    )


def held_out(windows: Windows, tokens: int) -> Batch:
    """So many tokens of each source."""
    held = [windows.validation(name, tokens) for name in windows.corpus.sources]
    return Batch.read(torch.from_numpy(np.concatenate(held)))


def saved(losses: Losses, texts: Tensor) -> float:
    """By which share texts, (n, T), cost less when they are read for the second time: near 0 of a
    model that does not copy, near 1 of one that does.
    """
    T = texts.shape[1]
    twice = torch.cat([texts, texts], dim=1)
    nats = nats_of(losses, twice[:, :-1].contiguous(), twice[:, 1:].contiguous())
    # the first token of a reading can't be told from what stands before it
    first, second = nats[:, : T - 1].mean(), nats[:, T:].mean()
    return float(1 - second / first)


def copyable(losses: Losses, inputs: Tensor, targets: Tensor) -> float:
    """The share of the loss that lies on targets, (n, T), that came after the same token before in
    their window.
    """
    nats = nats_of(losses, inputs, targets)
    return float(nats[seen_before(inputs.numpy(), targets.numpy())].sum() / nats.sum())


def seen_before(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n, T): whether a target came after the same input before in its window."""
    found = np.zeros(inputs.shape, bool)
    for window, (reads, follows) in enumerate(zip(inputs, targets, strict=True)):
        pairs: set[tuple[int, int]] = set()
        for at, pair in enumerate(zip(reads.tolist(), follows.tolist(), strict=True)):
            found[window, at] = pair in pairs
            pairs.add(pair)
    return found


def nats_of(losses: Losses, inputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Of each target, (n, T), a few windows at a time."""
    found = []
    with torch.no_grad():
        parts = zip(inputs.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True)
        for some, following in parts:
            found.append(losses(some, following).view(following.shape))
    return torch.cat(found).double().numpy()
