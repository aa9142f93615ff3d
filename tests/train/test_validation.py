"""What a run's held-out loss is a mean of, and what it takes to compute it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from memory_peaks import peak_of

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, Recipe
from windtunnel.results.run import Engine, Score, Validation
from windtunnel.train.compiled import Compiled, so_far
from windtunnel.train.step import Step
from windtunnel.train.validation import over_all, validate

Make = Callable[..., Recipe]
FP32 = Engine(device="cpu", precision="fp32", compiled=False, micro_batch=128, threads=1)

# Two tokens of the one stand for three bytes, of the other for five.
SCORES = {
    "web": Score(loss=4.0, bits_per_byte=4.0 / math.log(2) / 3, tokens=100),
    "code": Score(loss=2.0, bits_per_byte=2.0 / math.log(2) / 5, tokens=10_000),
}
TEXT_BYTES = {"web": 300, "code": 50_000}


def test_of_sources_that_are_not_trained_on_there_is_no_loss() -> None:
    assert over_all(SCORES, TEXT_BYTES, {"books": 1.0, "web": 0.0}) is None
    assert over_all({}, {}, {"books": 1.0}) is None


def test_sources_count_as_the_mixture_weighs_them_whatever_was_held_out() -> None:
    found = over_all(SCORES, TEXT_BYTES, {"web": 3.0, "code": 1.0})
    assert found.loss == pytest.approx(0.75 * 4 + 0.25 * 2)
    assert found.tokens == 10_100
    assert found.sources == SCORES


def test_bits_per_byte_are_those_of_text_of_the_mixture() -> None:
    found = over_all(SCORES, TEXT_BYTES, {"web": 1.0, "code": 1.0})
    assert found.bits_per_byte == pytest.approx(3.0 / math.log(2) / 4)


def test_a_source_that_is_not_trained_on_has_a_score_and_no_weight() -> None:
    found = over_all(SCORES, TEXT_BYTES, {"code": 0.2, "web": 0.0})
    assert found.loss == 2.0
    assert over_all(SCORES, TEXT_BYTES, {"code": 1.0}).sources == SCORES


def test_a_source_of_the_mixture_that_was_not_scored_is_left_out() -> None:
    found = over_all({"web": SCORES["web"]}, TEXT_BYTES, {"web": 1.0, "code": 9.0})
    assert found.loss == 4.0


def test_nothing_is_kept_for_a_backward_pass(recipe: Make, corpus: Corpus) -> None:
    model = Decoder(recipe().model, 32)
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        validated(model, recipe(), corpus, FP32)
        assert not kept
        model.losses(torch.zeros(1, 32, dtype=torch.long), torch.zeros(1, 32, dtype=torch.long))
    assert kept, "a forward pass with gradients keeps tensors"


@pytest.mark.slow
def test_compiled_it_uses_the_kernels_of_training_and_holds_one_layer(
    recipe: Make, corpus: Corpus
) -> None:
    """Of eight layers; a step holds what all of them keep."""
    shape = recipe().model.model_dump() | {"width": 64, "heads": 2, "depth": 8}
    large = recipe(
        model=shape,
        schedule={"tokens": 163_840, "warmup": 16_384},
        train={"batch": 16_384, "evaluate_tokens": 65_536},
    )
    engine = FP32.model_copy(update={"compiled": True, "micro_batch": 16_384})
    step = Step([large], engine)
    batch = np.zeros((512, 33), np.int64)
    step.gradient(batch)
    training = peak_of(lambda: step.gradient(batch))
    before = so_far()
    found = validated(step.model, large, corpus, engine)
    assert so_far() - before == Compiled(), "nothing was compiled for it"
    assert peak_of(lambda: validated(step.model, large, corpus, engine)) < 0.4 * training
    plain = Decoder(large.model, 32, large.seed)
    plain.load_state_dict(step.model.state_dict())
    as_written = validated(plain, large, corpus, FP32)
    assert found.loss == pytest.approx(as_written.loss, rel=1e-5)


def validated(model: Decoder, recipe: Recipe, corpus: Corpus, engine: Engine) -> Validation:
    (found,) = validate(
        model,
        [Windows(corpus, recipe.data, recipe.seed)],
        engine,
        tokens=recipe.train.evaluate_tokens,
        mask_documents=False,
        objective=OBJECTIVES["next-token"],
    )
    assert found
    return found
