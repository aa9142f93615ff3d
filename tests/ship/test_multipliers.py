"""Multipliers moved into weights, and back into settings."""

import math
from dataclasses import astuple

import pytest
import torch
from ship_models import SHAPES, model_of, reference, some_tokens, weights_of

from windtunnel.model.roles import Multipliers, multipliers
from windtunnel.ship.multipliers import fold, scaled, tidy, with_multipliers


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_is_exact(shape: str) -> None:
    """In fp64, where nothing but the algebra can differ."""
    model = model_of(shape)
    weights = {name: tensor.double() for name, tensor in weights_of(model).items()}
    plain, folded = fold(model, weights)
    m, tokens = multipliers(model), some_tokens()
    ones = Multipliers(embedding=1.0, residual=1.0, attention=m.attention, logits=1.0)
    before, after = reference(model, weights, m, tokens), reference(plain, folded, ones, tokens)
    assert multipliers(plain) == ones
    assert (before - after).abs().max() < 1e-12 * before.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_gets_its_own_multipliers_back(shape: str) -> None:
    model = model_of(shape)
    plain = model.model_copy(update={"parametrization": "standard"})
    found, factors = with_multipliers(plain, multipliers(model))
    assert astuple(multipliers(found)) == pytest.approx(astuple(multipliers(model)), rel=1e-6)
    assert factors == {}


def test_what_no_setting_holds_goes_into_the_weights() -> None:
    """Another attention scale, and a logit divisor that does not divide the width."""
    plain = model_of("standard")
    given = Multipliers(embedding=3.0, residual=0.5, attention=0.2, logits=0.11)
    model, factors = with_multipliers(plain, given)
    own = multipliers(model)
    assert (own.embedding, own.residual) == pytest.approx((3.0, 0.5))
    assert factors["query"] == pytest.approx(0.2 * math.sqrt(model.head_size))
    assert factors["norm"] * own.logits == pytest.approx(0.11)
    weights = {name: tensor.double() for name, tensor in weights_of(plain).items()}
    tokens = some_tokens()
    before = reference(plain, weights, given, tokens)
    after = reference(model, scaled(weights, factors), own, tokens)
    # settings are as short as fp32 allows
    assert (before - after).abs().max() < 1e-6 * before.abs().max()


def test_only_named_weights_are_scaled_and_in_fp32() -> None:
    weights = {"layers.0.query": torch.full((2,), 1.1, dtype=torch.bfloat16), "norm": torch.ones(2)}
    made = scaled(weights, {"query": 3.0})
    assert made["layers.0.query"].dtype == torch.float32
    assert torch.equal(made["layers.0.query"], weights["layers.0.query"].float() * 3.0)
    assert made["norm"] is weights["norm"]


def test_a_number_is_as_short_as_it_was_typed() -> None:
    assert tidy(1.4 / math.sqrt(7) * math.sqrt(7)) == 1.4
