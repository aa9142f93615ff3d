"""The recipe of the tunnel's small models."""

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.quantities import Length
from windtunnel.tunnel.proxy import proxy


def test_what_every_experiment_trains_where_nobody_says_otherwise(corpus: Corpus) -> None:
    recipe = proxy(corpus)
    model, train = recipe.model, recipe.train
    assert (recipe.name, model.width, model.depth, model.vocab) == ("64x4", 64, 4, 320)
    assert (model.base_width, model.base_depth) == (32, 4)
    assert (recipe.data.corpus, recipe.data.context) == ("tiny", 256)
    assert recipe.optimizer.lr == 0.01
    assert (train.batch, train.micro_batch, train.keep) == (2048, 2048, 1)
    assert train.checkpoint_every == train.evaluate_every == Length(share=1.0)
    assert train.evaluate_tokens == 16_384
    # whole steps of a million
    assert recipe.total_tokens == 1_000_000 // 2048 * 2048
    assert recipe.schedule.decay == Length(share=0.1)


@pytest.mark.parametrize(
    ("width", "heads"), [(16, 1), (32, 1), (48, 3), (64, 2), (80, 5), (96, 3), (128, 4)]
)
def test_a_head_is_32_wide_or_16_where_that_does_not_divide_the_width(
    corpus: Corpus, width: int, heads: int
) -> None:
    assert proxy(corpus, width, 2).model.heads == heads


@pytest.mark.parametrize(
    ("tokens", "batch", "warmup"),
    [("1M", 2048, 20_000), (40_960, 2048, 2048), ("1M", 65_536, 65_536)],
)
def test_the_warm_up_is_a_fiftieth_of_the_run_and_a_step_at_least(
    corpus: Corpus, tokens: str | int, batch: int, warmup: int
) -> None:
    recipe = proxy(corpus, tokens=tokens, train={"batch": batch})
    assert recipe.schedule.warmup == Length(tokens=warmup)


@pytest.mark.parametrize(("batch", "part"), [(512, 512), (2048, 2048), (8192, 2048)])
def test_large_batches_go_through_the_model_in_parts(corpus: Corpus, batch: int, part: int) -> None:
    assert proxy(corpus, train={"batch": batch}).train.micro_batch == part


def test_sections_change_single_fields_and_other_words_stand_for_themselves(
    corpus: Corpus,
) -> None:
    recipe = proxy(corpus, 32, 2, name="mine", seed=3, model={"tied": False}, optimizer={"lr": 0.5})
    assert (recipe.name, recipe.seed, recipe.optimizer.lr) == ("mine", 3, 0.5)
    assert not recipe.model.tied and recipe.model.width == 32
