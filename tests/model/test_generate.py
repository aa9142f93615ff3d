"""Text that is generated with a cache is the text that is generated without."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch

from windtunnel.model.decoder import Cache, Decoder
from windtunnel.model.generate import generate
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
