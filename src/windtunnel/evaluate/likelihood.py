"""Likelihoods of many continuations by our own decoder.

What texts begin with is computed once: the tokens that many contexts share (the examples of a
few-shot prompt), and then a context for all of its continuations (the choices of a question).
Logits are made only where a token is asked about. Texts of like length go through together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from windtunnel.evaluate.model import Done, Likelihood, Pair
from windtunnel.model.batches import batches, cache_of, padded, sharing, without_padding
from windtunnel.model.decoder import Cache, Decoder

# Tokens that go through a model at once: elsewhere enough to fill it; on a processor a token takes
# as long from here on, and texts of fewer lengths stand together, with less padding.
_ON_A_PROCESSOR, _ELSEWHERE = 256, 16_384
_LOGITS = 1 << 24  # numbers at once: 64 MiB


@dataclass
class _Family:
    """A context and what may follow it, each continuation with the pairs that asked for it."""

    context: tuple[int, ...]
    asked: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @property
    def read(self) -> tuple[int, ...]:
        """What goes through the model at once: with an only child, that as well."""
        if len(self.asked) > 1:
            return self.context
        (only,) = self.asked
        return self.context + only[:-1]


class _Found:
    """What was found so far, by pair."""

    def __init__(self, pairs: int, done: Done) -> None:
        self.nats = [0.0] * pairs
        self.greedy = [True] * pairs
        self._done = done

    def add(self, asking: Sequence[int], nats: float, greedy: bool) -> None:
        for pair in asking:
            self.nats[pair] += nats
            self.greedy[pair] &= greedy

    def finished(self, families: Sequence[_Family]) -> None:
        self._done(sum(len(asking) for family in families for asking in family.asked.values()))


@torch.no_grad()
def likelihoods(decoder: Decoder, pairs: Sequence[Pair], done: Done) -> list[Likelihood]:
    """Of each pair, of which none is longer than the decoder's context and one token more."""
    families: dict[tuple[int, ...], _Family] = {}
    for at, (context, continuation) in enumerate(pairs):
        family = families.setdefault(context, _Family(context))
        family.asked.setdefault(continuation, []).append(at)
    found = _Found(len(pairs), done)
    for shared, contexts in sharing(list(families)):
        beginning, before = cache_of(decoder, shared), len(shared)
        together = [families[context] for context in contexts]
        rests = [family.read[before:] for family in together]
        for part in batches(rests, before, _at_once(decoder)):
            chosen = [together[index] for index in part]
            _batch(decoder, beginning, before, chosen, found)
            found.finished(chosen)
    return [Likelihood(n, g) for n, g in zip(found.nats, found.greedy, strict=True)]


def _at_once(decoder: Decoder) -> int:
    """Tokens that go through the model at once."""
    return _ON_A_PROCESSOR if decoder.embedding.device.type == "cpu" else _ELSEWHERE


def _batch(
    decoder: Decoder, beginning: Cache, before: int, families: Sequence[_Family], found: _Found
) -> None:
    """The likelihoods of some families whose texts begin with the `before` tokens in the cache."""
    device = decoder.embedding.device
    texts = [family.read[before:] for family in families]
    tokens = padded(texts, device)
    cache = beginning.rows(torch.zeros(len(texts), dtype=torch.long, device=device))
    hidden = decoder(tokens, cache=cache).unflatten(0, tokens.shape)
    asks: list[_Ask] = []
    for row, (family, text) in enumerate(zip(families, texts, strict=True)):
        if len(family.asked) > 1:
            last = len(text) - 1
            asks += [_Ask(row, last, c[0], asking) for c, asking in family.asked.items()]
            continue
        ((continuation, asking),) = family.asked.items()
        first = len(text) - len(continuation)
        asks += [_Ask(row, first + i, token, asking) for i, token in enumerate(continuation)]
    _answer(decoder, hidden, asks, found)
    tails = [
        _Tail(row, len(family.context), continuation, asking)
        for row, family in enumerate(families)
        if len(family.asked) > 1
        for continuation, asking in family.asked.items()
        if len(continuation) > 1
    ]
    lengths = [tail.continuation for tail in tails]
    for part in batches(lengths, cache.tokens, _at_once(decoder)):
        _tails(decoder, cache, [tails[index] for index in part], found)


@dataclass(frozen=True)
class _Ask:
    """How likely is this token after what stands at a place of a batch, up to and with it?"""

    row: int
    place: int
    token: int
    asking: list[int]


@dataclass(frozen=True)
class _Tail:
    """The continuation of a context that lies in a row of a cache."""

    row: int
    context: int  # its tokens
    continuation: tuple[int, ...]
    asking: list[int]


def _tails(decoder: Decoder, cache: Cache, tails: Sequence[_Tail], found: _Found) -> None:
    """What follows the first token of each tail, which was asked about already."""
    device = decoder.embedding.device
    tokens = padded([tail.continuation[:-1] for tail in tails], device)
    lengths = torch.tensor([tail.context for tail in tails], device=device)[:, None]
    own = cache.rows(torch.tensor([tail.row for tail in tails], device=device))
    seen, new = own.tokens, tokens.shape[1]
    hidden = decoder(
        tokens,
        documents=without_padding(lengths, seen, new),
        cache=own,
        positions=(lengths + torch.arange(new, device=device)).clamp(max=decoder.context - 1),
    ).unflatten(0, tokens.shape)
    asks = [
        _Ask(row, place, token, tail.asking)
        for row, tail in enumerate(tails)
        for place, token in enumerate(tail.continuation[1:])
    ]
    _answer(decoder, hidden, asks, found)


def _answer(decoder: Decoder, hidden: Tensor, asks: Sequence[_Ask], found: _Found) -> None:
    """hidden: (rows, T, width)."""
    places = sorted({(ask.row, ask.place) for ask in asks})
    number = {place: at for at, place in enumerate(places)}
    by_place: list[list[_Ask]] = [[] for _ in places]
    for ask in asks:
        by_place[number[ask.row, ask.place]].append(ask)
    for start in range(0, len(places), step := max(1, _LOGITS // decoder.model.vocab)):
        part = torch.tensor(places[start : start + step], device=hidden.device)
        logits = (hidden[part[:, 0], part[:, 1]] @ decoder.unembedding.mT).float()
        total, best = logits.logsumexp(-1), logits.argmax(-1)
        told = [(at, ask) for at, one in enumerate(by_place[start : start + step]) for ask in one]
        rows = torch.tensor([at for at, _ in told], device=hidden.device)
        tokens = torch.tensor([ask.token for _, ask in told], device=hidden.device)
        nats = (logits[rows, tokens] - total[rows]).double().tolist()
        greedy = (best[rows] == tokens).tolist()
        for (_, ask), value, likeliest in zip(told, nats, greedy, strict=True):
            found.add(ask.asking, value, likeliest)
