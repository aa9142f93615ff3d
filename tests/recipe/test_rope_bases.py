"""Rules for RoPE's base give what their papers say."""

import math

import pytest

from windtunnel.recipe import Model
from windtunnel.recipe.rope import frequencies, least_base
from windtunnel.recipe.rope_bases import BASE_RULES, base_of


def model_of(head_size: int, **rope: object) -> Model:
    shape = {"width": 2 * head_size, "depth": 1, "heads": 2, "vocab": 320}
    return Model.model_validate(shape | rope)


def test_what_a_rule_gives_from_4k_to_32k() -> None:
    found = {rule.name: rule.base(model_of(64), 4096, 32_768) for rule in BASE_RULES.values()}
    assert found["kept"] == 10_000
    assert found["ntk"] == pytest.approx(10_000 * 8 ** (64 / 62))
    # between 500,000 (Xiong et al.) and 1,000,000 (MiniCPM)
    assert found["abf"] == 640_000
    assert found["bound"] == least_base(32_768, 64)


def test_with_the_critical_base_a_pair_that_turned_once_turns_once_again() -> None:
    model = model_of(128)
    was, to = 4096, 16_384
    new = model_of(128, rope_base=BASE_RULES["critical"].base(model, was, to))
    # the number of the pair, counted on, that turns once: base^(-2 i / d) length = 2 pi
    pairs = [
        128 * math.log(length / (2 * math.pi)) / (2 * math.log(one.rope_base))
        for one, length in ((model, was), (new, to))
    ]
    assert pairs[0] == pytest.approx(pairs[1])
    last = int(pairs[0])
    assert frequencies(new, to)[last] * to == pytest.approx(
        frequencies(model, was)[last] * was, rel=0.1
    )


def test_a_base_that_was_changed_already_is_where_a_rule_begins() -> None:
    model = model_of(64, rope_scaling="abf", rope_factor=16.0, rope_original=1024)
    assert base_of(model) == 160_000
    assert BASE_RULES["kept"].base(model, 4096, 8192) == 160_000
    assert BASE_RULES["abf"].base(model, 4096, 8192) == 640_000
    assert base_of(model_of(64, rope_scaling="yarn", rope_factor=4.0, rope_original=1024)) is None
