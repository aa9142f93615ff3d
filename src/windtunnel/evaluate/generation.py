"""Text after many prompts by our own decoder, a batch of them at a time: what prompts share is
read once, each row stands at its own position, and a row that has ended leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from windtunnel.evaluate.likelihood import (
    batches,
    cache_of,
    padded,
    sharing,
    without_padding,
)
from windtunnel.model.decoder import Cache, Decoder

_ROWS = 64  # of a batch, at most: each writes one token a step
_TOKENS = 16_384  # of the prompts of a batch, padding counted

# A row's logits (vocab,) and its number among the prompts -> its next token.
Choose = Callable[[Tensor, int], int]
# The tokens of a row so far -> whether it has ended.
Ended = Callable[[list[int]], bool]


@torch.no_grad()
def continued(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    most: int,
    choose: Choose,
    ended: Ended,
    done: Callable[[int], None],
) -> list[list[int]]:
    """Up to `most` tokens after each prompt; a token that ends a row is its last. A prompt is not
    empty, and with `most` tokens more no longer than the decoder's context.
    """
    asking: dict[tuple[int, ...], list[int]] = {}
    for at, prompt in enumerate(prompts):
        asking.setdefault(tuple(prompt), []).append(at)
    written: list[list[int]] = [[] for _ in prompts]
    for shared, texts in sharing(list(asking)):
        beginning = cache_of(decoder, shared)
        # a prompt that is asked for more than once is a row each time: it may be sampled
        numbers = [(at, text) for text in texts for at in asking[text]]
        rests = [text[len(shared) :] for _, text in numbers]
        for part in batches(rests, len(shared) + most, _TOKENS):
            for start in range(0, len(part), _ROWS):
                rows = part[start : start + _ROWS]
                batch = _Batch(decoder, [numbers[row][0] for row in rows], written)
                batch.read(beginning, len(shared), [rests[row] for row in rows])
                batch.write(most, choose, ended, done)
    return written


class _Batch:
    """Rows that are written together."""

    def __init__(self, decoder: Decoder, numbers: list[int], written: list[list[int]]) -> None:
        self._decoder, self._device = decoder, decoder.embedding.device
        self._numbers, self._written = numbers, written

    def read(self, beginning: Cache, before: int, rests: Sequence[Sequence[int]]) -> None:
        """Read the prompts, which begin with the `before` tokens of a cache of one row."""
        rows = torch.arange(len(rests), device=self._device)
        tokens = padded(rests, self._device)
        self._cache = beginning.rows(torch.zeros_like(rows))
        hidden = self._decoder(tokens, cache=self._cache).unflatten(0, tokens.shape)
        own = torch.tensor([len(rest) for rest in rests], device=self._device)
        self._lengths, self._prompts = (before + own)[:, None], self._cache.tokens
        self._logits = self._of(hidden[rows, own - 1])

    def write(self, most: int, choose: Choose, ended: Ended, done: Callable[[int], None]) -> None:
        """Write until every row has ended, or has `most` tokens."""
        for count in range(most):
            going, new = [], []
            for row, number in enumerate(self._numbers):
                token = choose(self._logits[row], number)
                self._written[number].append(token)
                if not ended(self._written[number]):
                    going.append(row)
                    new.append([token])
            done(len(self._numbers) - len(going))
            if not going or count + 1 == most:
                done(len(going))
                return
            if len(going) < len(self._numbers):
                self._keep(going)
            self._step(torch.tensor(new, device=self._device), count)

    def _keep(self, going: list[int]) -> None:
        which = torch.tensor(going, device=self._device)
        self._cache, self._lengths = self._cache.rows(which), self._lengths[which]
        self._numbers = [self._numbers[row] for row in going]

    def _step(self, tokens: Tensor, count: int) -> None:
        # no padding, no mask: all prompts of one length, as of one prompt
        alike = bool((self._lengths == self._prompts).all())
        documents = without_padding(self._lengths, self._prompts, count + 1)
        hidden = self._decoder(
            tokens,
            documents=None if alike else documents,
            cache=self._cache,
            positions=None if alike else self._lengths + count,
        )
        self._logits = self._of(hidden)

    def _of(self, hidden: Tensor) -> Tensor:
        """On the host, where tokens are chosen."""
        return (hidden @ self._decoder.unembedding.mT).float().cpu()
