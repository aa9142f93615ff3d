"""Text that is generated with a cache is the text that is generated without."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch

from windtunnel.model import generate as module
from windtunnel.model.decoder import Cache, Decoder
from windtunnel.model.generate import answers, continued, generate, sampler
from windtunnel.recipe import Recipe

CONTEXT = 32


@pytest.fixture(params=["mha", "gqa"])
def model(request: pytest.FixtureRequest, recipe: Callable[..., Recipe]) -> Decoder:
    heads = {"heads": 4, "kv_heads": 2} if request.param == "gqa" else {"heads": 2}
    shape = {"width": 32, "depth": 2, "vocab": 320, "base_width": 32, "init_std": 0.4} | heads
    return Decoder(recipe(model=shape).model, CONTEXT, 1)


def likeliest(model: Decoder, prompt: Sequence[int], most: int) -> list[int]:
    """Greedy, each token from a forward pass over all that it may see; past the context only the
    newer half is kept.
    """
    seen, written = list(prompt)[-(CONTEXT - 1) :], []
    for _ in range(most):
        if len(seen) > CONTEXT:
            seen = seen[-CONTEXT // 2 :]
        written.append(int(model.logits(torch.tensor([seen]))[0, -1].argmax()))
        seen.append(written[-1])
    return written


@pytest.mark.parametrize("first", [1, 7])
def test_cached_logits_are_the_uncached_ones_step_by_step(model: Decoder, first: int) -> None:
    tokens = torch.randint(0, 320, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    expected, cache = model.logits(tokens), Cache(2)
    for start, stop in pairwise([0, *range(first, CONTEXT + 1)]):
        assert cache.tokens == start
        logits = model.logits(tokens[:, start:stop], cache)
        torch.testing.assert_close(logits, expected[:, start:stop], rtol=1e-4, atol=1e-5)


def test_a_cache_may_be_fed_in_parts_of_any_length(model: Decoder) -> None:
    tokens = torch.randint(0, 320, (1, CONTEXT), generator=torch.Generator().manual_seed(0))
    expected, cache = model.logits(tokens), Cache(2)
    parts = [model.logits(tokens[:, a:b], cache) for a, b in pairwise([0, 5, 6, 20, CONTEXT])]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompt", [[3], [5, 8, 13, 21], list(range(CONTEXT - 1))])
def test_greedy_tokens_are_the_likeliest_also_past_the_context(
    model: Decoder, prompt: list[int]
) -> None:
    written = list(generate(model, prompt, 3 * CONTEXT, temperature=0))
    assert written == likeliest(model, prompt, 3 * CONTEXT)
    assert len(written) == 3 * CONTEXT and len(set(written)) > 5


def test_of_a_prompt_past_the_context_the_end_counts(model: Decoder) -> None:
    prompt = [i * 7 % 320 for i in range(3 * CONTEXT)]
    written = list(generate(model, prompt, 10, temperature=0))
    assert written == likeliest(model, prompt, 10)
    assert written == list(generate(model, prompt[-CONTEXT:], 10, temperature=0))


def test_the_same_seed_writes_the_same(model: Decoder) -> None:
    texts = [list(generate(model, [1, 2], 50, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    for text in texts:
        assert min(text) >= 0 and max(text) < 320


def test_it_does_not_touch_torchs_own_random_numbers(model: Decoder) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(generate(model, [1], 5))
    assert torch.equal(torch.rand(3), expected)


def test_it_stops_at_the_end_token_and_leaves_it_out(model: Decoder) -> None:
    written = list(generate(model, [1, 2], 40, seed=4))
    end = written[25]
    assert list(generate(model, [1, 2], 40, seed=4, end=end)) == written[: written.index(end)]


def test_of_a_small_top_p_only_the_likeliest_remains(model: Decoder) -> None:
    greedy = list(generate(model, [1, 2], 20, temperature=0))
    assert list(generate(model, [1, 2], 20, temperature=1.0, top_p=1e-6)) == greedy
    assert list(generate(model, [1, 2], 20, temperature=1e-4, top_p=1.0)) == greedy


def test_tokens_are_drawn_by_their_probability_within_top_p(model: Decoder) -> None:
    logits = model.logits(torch.tensor([[1, 2]]))[0, -1].detach()
    chances, order = (logits / 1.5).softmax(-1).sort(descending=True)
    kept = int((chances.cumsum(0) < 0.5).sum()) + 1  # the fewest that hold half of the probability
    assert 2 <= kept < 320
    drawn = torch.tensor([next(generate(model, [1, 2], 1, 1.5, 0.5, seed)) for seed in range(1500)])
    counts = torch.bincount(drawn, minlength=320)[order]
    assert counts[kept:].sum() == 0
    expected = chances[:kept] / chances[:kept].sum()
    error = (expected * (1 - expected) / 1500).sqrt()
    assert ((counts[:kept] / 1500 - expected).abs() < 5 * error + 1e-3).all()


def test_nothing_is_written_where_nothing_is_asked_for(model: Decoder) -> None:
    assert list(generate(model, [1], 0)) == []


def some(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(320) for _ in range(length))


@pytest.fixture(params=[{"heads": 2}, {"heads": 4, "kv_heads": 2}, {"heads": 2, "experts": 4}])
def decoder(request: pytest.FixtureRequest, recipe: Callable[..., Recipe]) -> Decoder:
    """That sees enough for prompts which share a beginning."""
    shape = {"width": 32, "depth": 2, "vocab": 320, "base_width": 32, "init_std": 0.4}
    return Decoder(recipe(model=shape | request.param).model, 96, 1)


@pytest.mark.parametrize("rows", [64, 3])
def test_texts_of_a_batch_are_those_of_each_prompt_alone(
    decoder: Decoder, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    draw = random.Random(1)
    few_shot = some(draw, 55)
    prompts = [few_shot + some(draw, draw.randint(1, 11)) for _ in range(5)]
    prompts += [some(draw, draw.randint(1, 40)) for _ in range(6)]
    prompts += [prompts[0], prompts[7], *(some(draw, 9) for _ in range(3))]
    draw.shuffle(prompts)
    most, seen = 12, list[int]()

    said: dict[int, int] = defaultdict(int)

    def choose(logits: torch.Tensor, number: int) -> int:
        """The likeliest token; prompt 0 ends at once, each next one a token later."""
        said[number] += 1
        return -1 if said[number] > number else int(logits.argmax())

    def ended(written: list[int]) -> bool:
        return written[-1] == -1

    written = continued(decoder, prompts, most, choose, ended, seen.append)
    assert sum(seen) == len(prompts)
    for number, (prompt, got) in enumerate(zip(prompts, written, strict=True)):
        greedy = list(generate(decoder, prompt, most, temperature=0))
        assert got == ([*greedy[:number], -1] if number < most else greedy)


def test_answers_end_where_they_say_so_or_the_context_does(model: Decoder) -> None:
    """At temperature 0, each is what `generate` gives; the same seeds give the same answers."""
    prompts, end = [[1, 2]] * 6 + [[5, 8, 13]], list(generate(model, [1, 2], 9, temperature=0))[-1]
    alone = [list(generate(model, one, 20, temperature=0, end=end)) for one in prompts]
    assert answers(model, prompts, 20, sampler(0, 1, [0] * 7), {end}) == alone

    def sampled(seed: int) -> list[list[int]]:
        return answers(model, prompts, 20, sampler(1, 1, range(seed, seed + 7)), {end, 7, 8, 9})

    assert sampled(1) == sampled(1) != sampled(20)
    assert len({len(one) for one in sampled(1)}) > 1, "some end before others"
    assert all(end not in one for one in sampled(1))
    long = answers(model, [*prompts, [0] * CONTEXT], 99, sampler(1, 1, range(8)), set())
    assert [len(one) for one in long] == [CONTEXT - 2] * 6 + [CONTEXT - 3, 0]


def test_a_prompt_that_is_there_twice_is_read_once(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, plain = [], Decoder.forward

    def counted(self: Decoder, tokens: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        read.append(tuple(tokens.shape))
        return plain(self, tokens, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "forward", counted)
    answers(model, [[1, 2, 3]] * 5 + [[4, 5, 6]], 3, sampler(0, 1, [0] * 6), set())
    assert read == [(2, 3), (6, 1), (6, 1)]
