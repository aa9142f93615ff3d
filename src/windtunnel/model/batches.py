"""Many texts through a model together: what they begin with is read once, and texts of like length
make up a batch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from windtunnel.model.decoder import Cache, Decoder

_HELD = 65_536  # of a cache, in tokens of all rows together
_SHARED = 48  # tokens that texts must share for them to be read once
_SHARERS = 4  # texts that share them, at least
_PAD = 0  # any token does: nothing looks at it


def sharing(texts: Sequence[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], list[tuple]]]:
    """Groups of different texts with the tokens that all of a group begin with; of each text at
    least one token is left. Those that share too little come last, as one group that shares none.
    """
    alone: list[tuple[int, ...]] = []
    group: list[tuple[int, ...]] = []
    shared = 0

    def closed() -> Iterator[tuple[tuple[int, ...], list[tuple]]]:
        if len(group) >= _SHARERS:
            yield group[0][:shared], list(group)
        else:
            alone.extend(group)

    for text in sorted(texts):
        both = _common(group[-1], text) if group else 0
        if both >= _SHARED and both >= shared // 2:
            # a little less is shared by more; where it would be far less, another group begins
            shared = min(shared or both, both)
            group.append(text)
            continue
        yield from closed()
        group, shared = [text], 0
    yield from closed()
    if alone:
        yield (), alone


def batches(texts: Sequence[Sequence[int]], before: int, most: int) -> Iterator[list[int]]:
    """Their indices, longest first, as many together as make up at most `most` tokens with their
    padding, and hold a cache of `_HELD` tokens with what is `before` them.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    while order:
        longest = max(1, len(texts[order[0]]))
        rows = max(1, min(most // longest, _HELD // (before + longest)))
        yield order[:rows]
        order = order[rows:]


def cache_of(decoder: Decoder, shared: Sequence[int]) -> Cache:
    """A cache of one row that holds these tokens."""
    cache = Cache(decoder.model.depth)
    if shared:
        decoder(torch.tensor([list(shared)], device=decoder.embedding.device), cache=cache)
    return cache


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Ids (texts, longest), filled up behind."""
    longest = max(len(text) for text in texts)
    rows = [[*text, *[_PAD] * (longest - len(text))] for text in texts]
    return torch.tensor(rows, device=device)


def without_padding(lengths: Tensor, seen: int, new: int) -> Tensor:
    """As `documents` of the decoder, (rows, seen + new): of the `seen` tokens in a row of the cache
    only the first `lengths`, (rows, 1), are the text that `new` ones follow.
    """
    place = torch.arange(seen + new, device=lengths.device)
    return ((place < lengths) | (place >= seen)).long()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with; of each one token at least is left."""
    most = min(len(one), len(other)) - 1
    for at in range(most):
        if one[at] != other[at]:
            return at
    return most
