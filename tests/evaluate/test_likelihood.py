"""Likelihoods of a batch are those of each pair by itself."""

import random
from collections.abc import Callable

import pytest
import torch
from ship_models import model_of, weights_of

from windtunnel.evaluate import likelihood
from windtunnel.evaluate.likelihood import likelihoods
from windtunnel.evaluate.model import Likelihood, Pair, nothing
from windtunnel.model.decoder import Decoder
from windtunnel.model.generate import generate
from windtunnel.ship.forward import decoder_of

CONTEXT, VOCAB = 96, 320


@pytest.fixture(params=["grouped", "untied", "experts"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    model = model_of(request.param)
    return decoder_of(model, weights_of(model), CONTEXT)


def alone(decoder: Decoder, pair: Pair) -> Likelihood:
    """By one forward pass over the whole pair."""
    ids = torch.tensor([[*pair.context, *pair.continuation]])
    with torch.no_grad():
        logits = decoder.logits(ids[:, :-1])[0, -len(pair.continuation) :]
    target = ids[0, -len(pair.continuation) :]
    nats = logits.double().log_softmax(-1).gather(-1, target[:, None]).sum()
    return Likelihood(float(nats), bool((logits.argmax(-1) == target).all()))


def some(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(VOCAB) for _ in range(length))


def pairs_of(seed: int = 0) -> list[Pair]:
    """Questions with choices, a few-shot beginning, single continuations, doubles, long texts."""
    draw = random.Random(seed)
    few_shot = some(draw, 60)
    pairs = []
    for _ in range(6):
        context = few_shot + some(draw, draw.randint(1, 12))
        pairs += [Pair(context, some(draw, draw.randint(1, 6))) for _ in range(4)]
    for _ in range(5):
        context = some(draw, draw.randint(1, 40))
        pairs += [Pair(context, some(draw, draw.randint(1, 9))) for _ in range(3)]
    pairs += [Pair(some(draw, draw.randint(1, 50)), some(draw, 5)) for _ in range(7)]
    pairs += [Pair((3,), some(draw, CONTEXT)), Pair((3,), some(draw, 20)), pairs[0], pairs[30]]
    # a context that is another pair's context and continuation
    pairs += [Pair((1, 2), (3, 4)), Pair((1, 2, 3), (4, 5)), Pair((1, 2, 3), (6,))]
    draw.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("tokens", [4096, 128])
def test_likelihoods_are_those_of_each_pair_alone(
    decoder: Decoder, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "_ON_A_PROCESSOR", tokens)
    monkeypatch.setattr(likelihood, "_LOGITS", VOCAB * 7)
    pairs, seen = pairs_of(), []
    # what is likeliest must be found to be so
    best = [_likeliest(decoder, pair.context, 3) for pair in pairs[:5]]
    pairs += [Pair(pair.context, tokens) for pair, tokens in zip(pairs[:5], best, strict=True)]
    found = likelihoods(decoder, pairs, seen.append)
    assert sum(seen) == len(pairs)
    for pair, got in zip(pairs, found, strict=True):
        expected = alone(decoder, pair)
        assert got.nats == pytest.approx(
            expected.nats, abs=2e-3 if abs(expected.nats) > 99 else 2e-4
        )
        assert got.greedy == expected.greedy
    assert all(one.greedy for one in found[-5:]) and not all(one.greedy for one in found)


def _likeliest(decoder: Decoder, context: tuple[int, ...], most: int) -> tuple[int, ...]:
    return tuple(generate(decoder, context, most, temperature=0))


def test_nothing_is_found_of_nothing(decoder: Decoder) -> None:
    assert likelihoods(decoder, [], nothing) == []


def test_shared_tokens_go_through_the_model_once(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain: Callable[..., torch.Tensor] = Decoder.forward

    def counted(self: Decoder, tokens: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        seen.append(tokens.numel())
        return plain(self, tokens, *rest, **more)

    monkeypatch.setattr(Decoder, "forward", counted)
    draw = random.Random(3)
    few_shot = some(draw, 80)
    contexts = [few_shot + some(draw, 4) for _ in range(10)]
    likelihoods(decoder, [Pair(c, some(draw, 3)) for c in contexts for _ in range(4)], nothing)
    # the examples, the questions, and two more tokens of each of their 40 answers
    assert sum(seen) == 80 + 10 * 4 + 40 * 2
