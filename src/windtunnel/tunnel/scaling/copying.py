"""Whether a model has learnt to copy: how much less a text of random tokens costs it when it reads
the text for the second time (Olsson et al. 2022).

Models learn it within few steps, at a length that their earlier losses do not tell, and losses fall
faster from then on. So a law of models that do not copy yet says too much of those that do.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.train.loop import load_model
from windtunnel.train.objective import Batch
from windtunnel.train.run import Run

_TEXTS, _LONGEST = 32, 64  # texts, and tokens of one of them

# (inputs, targets), both (n, T) -> nats of each target.
Losses = Callable[[Tensor, Tensor], Tensor]


def copied(run: Run, corpus: Corpus) -> float | None:
    """1 - nats/token of the second reading / nats/token of the first: near 0 of a model that does
    not copy, near 1 of one that does. The tokens are those of held-out text, in random order. None
    where there is no held-out text, or none of two tokens fits a window twice.
    """
    data = run.recipe.data
    length = min(_LONGEST, data.context // 2)
    tokens = _tokens(Windows(corpus, data, run.recipe.seed))
    if not len(tokens) or length < 2:
        return None
    texts = np.random.default_rng(0).choice(tokens, (_TEXTS, length))
    return saved(load_model(run).losses, torch.from_numpy(texts))


def saved(losses: Losses, texts: Tensor) -> float:
    """By which share texts, (n, T), cost less when they are read for the second time."""
    T = texts.shape[1]
    twice = torch.cat([texts, texts], dim=1)
    with torch.no_grad():
        nats = losses(twice[:, :-1].contiguous(), twice[:, 1:].contiguous()).view(len(texts), -1)
    # the first token of a reading can't be told from what stands before it
    first, second = nats[:, : T - 1].mean(), nats[:, T:].mean()
    return float(1 - second / first)


def _tokens(windows: Windows) -> np.ndarray:
    """Held-out tokens of all sources."""
    found = [np.zeros(0, np.int64)]
    for name in windows.corpus.sources:
        held = windows.validation(name, _TEXTS * _LONGEST)
        found.append(Batch.read(torch.from_numpy(held)).inputs.flatten().numpy())
    return np.concatenate(found)
