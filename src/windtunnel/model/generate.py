"""Sampling from a model with a cache of keys and values."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from windtunnel.model.decoder import Cache, Decoder


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


@torch.no_grad()
def answers(
    model: Decoder,
    prompt: Sequence[int],
    count: int,
    most: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    ends: Collection[int] = (),
) -> list[list[int]]:
    """`count` answers to one prompt, sampled side by side: each of up to `most` tokens, and no
    longer than the model's context has room for, without the end that it came to. Arguments as in
    `generate`; the same seed gives the same answers.
    """
    generator = torch.Generator().manual_seed(seed)
    given: list[list[int]] = [[] for _ in range(count)]
    live, cache = list(range(count)), Cache(model.model.depth)
    fresh = torch.tensor([list(prompt)] * count, device=model.embedding.device)
    for _ in range(min(most, model.context - len(prompt))):
        logits = model.logits(fresh, cache)[:, -1].cpu()
        tokens = [sample(row, temperature, top_p, generator) for row in logits]
        for answer, token in zip(live, tokens, strict=True):
            if token not in ends:
                given[answer].append(token)
        going = [place for place, token in enumerate(tokens) if token not in ends]
        if not going:
            break
        if len(going) < len(live):
            cache = cache.rows(torch.tensor(going, device=fresh.device))
        live = [live[place] for place in going]
        fresh = fresh.new_tensor([[tokens[place]] for place in going])
    return given
