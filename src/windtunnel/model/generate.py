"""Sampling from a model with a cache of keys and values: one text token by token, or many texts
together.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from windtunnel.model.batches import batches, cache_of, padded, sharing, without_padding
from windtunnel.model.decoder import Cache, Decoder

_ROWS = 64  # of a batch, at most: each writes one token a step
_TOKENS = 16_384  # of the prompts of a batch, padding counted
_LEAVE = 0.75  # ended rows leave when so many are left: the cache of the others is copied for it

# A row's logits (vocab,) and its number among the prompts -> its next token.
Choose = Callable[[Tensor, int], int]
# The tokens of a row so far -> whether it has ended.
Ended = Callable[[list[int]], bool]
# Called with how many rows have ended since the last call.
Done = Callable[[int], None]


@torch.no_grad()
def generate(
    model: Decoder,
    prompt: Sequence[int],
    most: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    end: int | None = None,
) -> Iterator[int]:
    """Yield up to `most` tokens after `prompt`, which has at least one, until `end`.

    `temperature` divides the logits, and 0 takes the likeliest token; `top_p` is that of `sample`.
    Past the model's context the older half of what it has seen is dropped. The same seed gives the
    same tokens.
    """
    device = model.embedding.device
    generator = torch.Generator().manual_seed(seed)
    seen = list(prompt)[-model.context + 1 :]
    cache, fresh = Cache(model.model.depth), seen  # fresh: what the cache has not taken in yet
    for _ in range(most):
        if cache.tokens + len(fresh) > model.context:
            seen = seen[-model.context // 2 :]
            cache, fresh = Cache(model.model.depth), seen
        # (1, fresh, vocab), of which the last tells what comes next
        logits = model.logits(torch.tensor([fresh], device=device), cache)[0, -1].cpu()
        token = sample(logits, temperature, top_p, generator)
        if token == end:
            return
        yield token
        fresh = [token]
        seen.append(token)


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """A token by its probability, out of the fewest likeliest that hold `top_p` of it together
    (nucleus sampling, Holtzman et al. 2020). logits: (vocab,).
    """
    if temperature == 0:
        return int(logits.argmax())
    chances, tokens = (logits / temperature).softmax(-1).sort(descending=True)
    # by what stands before a token, so that the likeliest one always stays
    chances[chances.cumsum(0) - chances > top_p] = 0
    return int(tokens[torch.multinomial(chances, 1, generator=generator)])


def sampler(temperature: float, top_p: float, seeds: Sequence[int]) -> Choose:
    """Each row by `sample`, with numbers of its own from its seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: Tensor, number: int) -> int:
        return sample(logits, temperature, top_p, generators[number])

    return choose


def answers(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    most: int,
    choose: Choose,
    ends: Collection[int],
    done: Done = lambda _: None,
) -> list[list[int]]:
    """An answer to each prompt, as `continued` has them, without the end that it came to."""
    written = continued(model, prompts, most, choose, lambda ids: ids[-1] in ends, done)
    return [ids[:-1] if ids and ids[-1] in ends else ids for ids in written]


@torch.no_grad()
def continued(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    most: int,
    choose: Choose,
    ended: Ended,
    done: Done,
) -> list[list[int]]:
    """Up to `most` tokens after each prompt, as many as the model's context has room for; a token
    that ends a row is its last. A prompt is not empty, and may be there more than once.

    What prompts share is read once, each row stands at its own position, and rows that have ended
    leave the batch.
    """
    rooms = [min(most, model.context - len(prompt)) for prompt in prompts]
    asking: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, room) in enumerate(zip(prompts, rooms, strict=True)):
        if room > 0:
            asking.setdefault(tuple(prompt), []).append(number)
    written: list[list[int]] = [[] for _ in prompts]
    done(sum(room <= 0 for room in rooms))
    for shared, texts in sharing(list(asking)):
        beginning, before = cache_of(model, shared), len(shared)
        rests = [text[before:] for text in texts]
        for part in batches(rests, before + min(most, model.context), _TOKENS):
            rows = [(text, number) for text in part for number in asking[texts[text]]]
            for start in range(0, len(rows), _ROWS):
                batch = _Batch(model, rows[start : start + _ROWS], written, rooms)
                batch.read(beginning, before, rests)
                batch.write(choose, ended, done)
    return written


class _Batch:
    """Rows that are written together, each of a text and with its number among the prompts."""

    def __init__(
        self,
        model: Decoder,
        rows: Sequence[tuple[int, int]],
        written: list[list[int]],
        rooms: Sequence[int],
    ) -> None:
        self._model, self._device = model, model.embedding.device
        self._texts, self._numbers = map(list, zip(*rows, strict=True))
        self._written, self._rooms = written, rooms

    def read(self, beginning: Cache, before: int, rests: Sequence[Sequence[int]]) -> None:
        """Read the texts, each once, which begin with the `before` tokens of a cache of one row and
        go on with one of the `rests`.
        """
        different = list(dict.fromkeys(self._texts))
        own = [rests[text] for text in different]
        cache = beginning.rows(torch.zeros(len(own), dtype=torch.long, device=self._device))
        tokens = padded(own, self._device)
        hidden = self._model(tokens, cache=cache).unflatten(0, tokens.shape)
        place = {text: row for row, text in enumerate(different)}
        which = torch.tensor([place[text] for text in self._texts], device=self._device)
        lengths = torch.tensor([len(rest) for rest in own], device=self._device)[which]
        self._cache = cache.rows(which)
        self._lengths, self._prompts = (before + lengths)[:, None], cache.tokens
        self._logits = self._of(hidden[which, lengths - 1])

    def write(self, choose: Choose, ended: Ended, done: Done) -> None:
        """Write until every row has ended, or has no room left."""
        going, count = list(range(len(self._numbers))), 0  # the rows that have not ended
        while going:
            for row in going:
                number = self._numbers[row]
                self._written[number].append(choose(self._logits[row], number))
            left = [row for row in going if self._goes_on(self._numbers[row], ended)]
            done(len(going) - len(left))
            going = left
            if going:
                going = self._kept(going)
                self._step(going, count)
            count += 1

    def _goes_on(self, number: int, ended: Ended) -> bool:
        text = self._written[number]
        return not ended(text) and len(text) < self._rooms[number]

    def _kept(self, going: list[int]) -> list[int]:
        """The rows that go on, by their places where those that have ended left the batch."""
        if len(going) > _LEAVE * len(self._numbers):
            return going
        self._numbers = [self._numbers[row] for row in going]
        which = torch.tensor(going, device=self._device)
        self._cache, self._lengths = self._cache.rows(which), self._lengths[which]
        return list(range(len(going)))

    def _step(self, going: list[int], count: int) -> None:
        """Read what the rows that go on wrote last, and any token in the others."""
        tokens = torch.zeros(len(self._numbers), 1, dtype=torch.long)
        tokens[going, 0] = torch.tensor([self._written[self._numbers[row]][-1] for row in going])
        # no padding, no mask: all prompts of one length, as of one prompt
        alike = bool((self._lengths == self._prompts).all())
        documents = without_padding(self._lengths, self._prompts, count + 1)
        last = self._model.context - 1
        hidden = self._model(
            tokens.to(self._device),
            documents=None if alike else documents,
            cache=self._cache,
            # what has no room left and is still here is beyond the context
            positions=None if alike else (self._lengths + count).clamp(max=last),
        )
        self._logits = self._of(hidden)

    def _of(self, hidden: Tensor) -> Tensor:
        """On the host, where tokens are chosen."""
        return (hidden @ self._model.unembedding.mT).float().cpu()
