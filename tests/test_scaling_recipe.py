"""Where the scaling recipe has each of its numbers from, and what it says of a run."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from batch_study import LAW, with_batch_study
from plan_labs import with_search_study
from transfer_study import with_transfer_law

from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.batch import ByTokens
from windtunnel.laws.rate import RateLaw, constant_rate
from windtunnel.results.batch import BATCH, FittedLaw
from windtunnel.scaling_recipe import (
    GIVEN,
    LAB_BATCH,
    LAB_TRANSFER,
    LAPTOP_BATCH,
    LAPTOP_RATE,
    PAPER_RATE,
    BatchRule,
    RateRule,
    batch_rule,
    rate_found,
    rate_law,
    scaling_recipe,
)

FALLING = RateLaw(
    lr=0.02,
    params=1e5,
    tokens=1e6,
    batch=1024.0,
    by_params=0.1,
    by_tokens=-0.3,
    by_batch=0.5,
    covariance=0.01 * np.eye(4),
)


def test_the_batch_law_is_that_of_the_labs_batch_study(lab: Any) -> None:
    assert batch_rule(lab.path, "tiny") is LAPTOP_BATCH
    with_batch_study(lab)
    found = batch_rule(lab.path, "tiny")
    assert (found.by_tokens.c, found.by_tokens.p, found.origin) == (LAW["c"], LAW["p"], LAB_BATCH)
    assert batch_rule(lab.path, "tiny", 1024).batch(10**9) == 1024
    with_batch_study(lab, corpus="another")
    assert batch_rule(lab.path, "tiny") is LAPTOP_BATCH
    (BATCH.folder(lab.path) / "result.json").write_text('{"numbers": {}}')
    with pytest.raises(InputError, match=r"batch/result\.json"):
        batch_rule(lab.path, "tiny")


def test_without_a_batch_study_the_batch_is_that_of_the_transfer_study(lab: Any) -> None:
    found = FittedLaw(constants={"c": 2.0, "p": 0.6}, intervals={}, covariance=None)
    with_transfer_law(lab.path, FALLING, batches=found)
    rule = batch_rule(lab.path, "tiny")
    assert (rule.by_tokens, rule.origin) == (ByTokens(2.0, 0.6), LAB_TRANSFER)
    with_batch_study(lab)
    assert batch_rule(lab.path, "tiny").origin == LAB_BATCH
    with_transfer_law(lab.path, FALLING, parametrization="standard", batches=found)
    with_batch_study(lab, corpus="another")
    assert batch_rule(lab.path, "tiny") is LAPTOP_BATCH


GROWING = BatchRule(ByTokens(1.0, 0.5), "grows")  # 1,024 tokens a step at 2^20 tokens


def test_a_batch_is_the_nearest_power_of_two_and_512_at_least() -> None:
    # by the logarithm: from 1024 / sqrt(2) to 1024 sqrt(2)
    assert [GROWING.batch(x**2) for x in (725, 1024, 1447, 1449)] == [1024, 1024, 1024, 2048]
    assert [GROWING.batch(x**2) for x in (300, 100)] == [512, 512]
    assert GROWING.border(1024) == pytest.approx(2 * 1024**2)
    assert BatchRule(ByTokens(1024, 0.0), "given").border(1024) == math.inf
    assert BatchRule(ByTokens(1e5, -0.1), "falls").border(1024) == math.inf
    assert BatchRule(ByTokens(300, 0.0), GIVEN).batch(2**20) == 300, "as it was given"


def test_the_rate_is_that_of_the_labs_transfer_study(lab: Any) -> None:
    with_transfer_law(lab.path, FALLING)
    found = scaling_recipe(lab.path, "tiny", largest=1e9).rate
    assert found.origin == LAB_TRANSFER
    assert found.lr(4e5, 8e6, 4096) == pytest.approx(0.02 * 4**0.1 * 8**-0.3 * 2, rel=5e-3)


def test_a_rate_is_not_raised_beyond_the_batches_that_were_measured(lab: Any) -> None:
    with_transfer_law(lab.path, replace(FALLING, largest_batch=2048.0))
    found = scaling_recipe(lab.path, "tiny", largest=1e9).rate
    here = found.lr(1e5, 1e6, 2048)
    assert here == pytest.approx(0.02 * 2**0.5, rel=5e-3)
    assert [found.lr(1e5, 1e6, batch) for batch in (4096, 65_536)] == [here, here]
    assert found.lr(1e5, 1e6, 512) == pytest.approx(here / 2, rel=5e-3)


@pytest.mark.parametrize(
    ("made_on", "parametrization"), [("another", "minicpm"), ("tiny", "standard")]
)
def test_a_study_of_another_corpus_or_parametrization_says_nothing(
    made_on: str, parametrization: str, lab: Any
) -> None:
    with_transfer_law(lab.path, FALLING, made_on, parametrization)
    assert scaling_recipe(lab.path, "tiny", largest=1e5).rate is LAPTOP_RATE


def test_large_models_have_the_papers_rate_where_nothing_was_measured(lab: Any) -> None:
    small = scaling_recipe(lab.path, "tiny", largest=laptop.LARGEST)
    assert (small.rate, small.batch) == (LAPTOP_RATE, LAPTOP_BATCH)
    large = scaling_recipe(lab.path, "tiny", largest=1.1 * laptop.LARGEST)
    assert large.rate.lr(1e9, 1e11, 4e6) == PAPER_RATE and "paper" in large.rate.origin


def test_what_is_given_comes_first(lab: Any) -> None:
    with_transfer_law(lab.path, FALLING)
    with_batch_study(lab)
    found = scaling_recipe(lab.path, "tiny", largest=1e5, lr=0.03, batch=768)
    assert (found.rate.origin, found.batch.origin) == (GIVEN, GIVEN)
    assert found.rate.lr(1e9, 1e9, 1e6) == 0.03 and found.batch.batch(1e9) == 768


@pytest.mark.parametrize(
    ("outcome", "optimizer", "made_on", "taken"),
    [
        ("beats", "adamw", "tiny", True),
        ("ties", "adamw", "tiny", False),
        ("loses", "adamw", "tiny", False),
        (None, "adamw", "tiny", False),
        ("beats", "muon", "tiny", False),
        ("beats", "adamw", "another", False),
    ],
)
def test_settings_of_a_search_that_beat_the_papers_are_taken_but_for_the_rate(
    outcome: str | None, optimizer: str, made_on: str, taken: bool, lab: Any
) -> None:
    point = {"scale_emb": 8.0, "init_std": 0.07, "beta2": 0.97, "warmup": 0.05}
    with_search_study(lab.path, 0.03, outcome, optimizer, corpus=made_on, also=point)
    found = scaling_recipe(lab.path, "tiny", largest=1e5).settings
    wanted = {"model": {"scale_emb": 8.0, "init_std": 0.07}, "optimizer": {"beta2": 0.97}}
    assert found == (wanted if taken else {})


def test_settings_are_those_that_the_law_of_the_rate_was_measured_with(lab: Any) -> None:
    with_search_study(lab.path, 0.03, "beats", also={"scale_emb": 8.0})
    with_transfer_law(lab.path, FALLING)
    assert scaling_recipe(lab.path, "tiny", largest=1e5).settings == {}
    given = scaling_recipe(lab.path, "tiny", largest=1e5, lr=0.01)
    assert given.settings == {"model": {"scale_emb": 8.0}}
    with_transfer_law(lab.path, FALLING, settings={"model": {"init_std": 0.05}})
    found = scaling_recipe(lab.path, "tiny", largest=1e5)
    assert found.settings == {"model": {"init_std": 0.05}} and found.rate.origin == LAB_TRANSFER


def test_a_rate_of_a_recipe_has_three_digits() -> None:
    rule = RateRule(replace(constant_rate(0.0123456), by_tokens=-0.3), "x")
    assert rule.lr(1.0, 1.0, 1.0) == 0.0123


def test_a_law_told_and_read_is_the_same_law() -> None:
    told = rate_found(FALLING)
    again = rate_law(type(told).model_validate(json.loads(told.to_json())))
    assert again.at(3e5, 7e6, 512) == FALLING.at(3e5, 7e6, 512)
    assert again.interval(3e5, 7e6, 512) == FALLING.interval(3e5, 7e6, 512)
