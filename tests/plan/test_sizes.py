"""Which size for a budget: the closed form, real shapes, limits, repeated tokens, and smaller
models that are trained longer.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_labs import CHINCHILLA, outlook_of

from windtunnel.devices import QUANTISATIONS
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.optimum import closed_form
from windtunnel.laws.repetition import PUBLISHED
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.devices import serving
from windtunnel.plan.sizes import (
    Limits,
    _counts,
    at_shape,
    best_for_flops,
    best_for_tokens,
    by_6nd,
    curve,
    largest_shape,
    nearest_shape,
    over_trained,
    tokens_for_size,
)


@pytest.mark.parametrize(
    ("flops", "params", "tokens", "loss"),
    [(5.76e23, 7.225e10, 1.329e12, 1.9744), (1e21, 2.778e9, 5.999e10, 2.3055)],
)
def test_by_6nd_equals_the_closed_form_at_the_published_values(
    flops: float, params: float, tokens: float, loss: float
) -> None:
    exact, found = closed_form(CHINCHILLA, flops), by_6nd(outlook_of(CHINCHILLA), flops)
    assert found.params == pytest.approx(exact.params, rel=1e-6)
    assert found.tokens == pytest.approx(exact.tokens, rel=1e-6)
    assert found.params == pytest.approx(params, rel=1e-3) and found.tokens == pytest.approx(
        tokens, rel=1e-3
    )
    assert found.loss == pytest.approx(loss, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(log_flops=st.floats(15, 24))
def test_no_real_shape_is_better_and_the_budget_is_kept(log_flops: float) -> None:
    outlook, flops = outlook_of(CHINCHILLA), 10**log_flops
    best = best_for_flops(outlook, flops, Limits())
    shapes = outlook.family.shapes()
    assert best.loss <= outlook.loss(shapes, flops / shapes.flops).min() * (1 + 2e-4)
    model = outlook.family.model(best.width, best.depth)
    assert flops_per_token(model, 4096) * best.tokens == pytest.approx(flops)
    assert best.range_params[0] <= count(model).params <= best.range_params[1]


def test_the_range_holds_the_sizes_within_half_a_percent() -> None:
    outlook = outlook_of(CHINCHILLA)
    low, high = best_for_flops(outlook, 1e21, Limits()).range_params
    assert 2 < high / low < 6
    shapes = outlook.family.shapes()
    losses = outlook.loss(shapes, 1e21 / shapes.flops)
    outside = (shapes.params["params"] < low) | (shapes.params["params"] > high)
    assert (losses[outside] > losses.min() * 1.005).all()


def test_tokens_and_size_are_found_back() -> None:
    """The size for which D tokens are best, and the tokens for which that size is, to the
    grain of real shapes.
    """
    outlook = outlook_of(CHINCHILLA)
    best = best_for_tokens(outlook, 1e11, Limits())
    params = count(outlook.family.model(best.width, best.depth)).params
    assert tokens_for_size(outlook, params) == pytest.approx(1e11, rel=0.15)
    assert best.tokens == 1e11


def test_a_law_without_a_best_size_is_said_to_have_none() -> None:
    flat = LossLaw.of(E=1, A=1e-9, alpha=0.3, B=1000, beta=0.3)
    with pytest.raises(ValueError, match="no budget"):
        tokens_for_size(outlook_of(flat), 1e9)
    assert best_for_flops(outlook_of(flat), 1e20, Limits()).at_edge


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_what_must_fit_a_device_fits_it_with_its_cache(quantisation: str) -> None:
    outlook, room = outlook_of(CHINCHILLA), 500_000_000
    best = best_for_flops(
        outlook, 1e22, Limits(bytes_served=room, bytes_per_weight=QUANTISATIONS[quantisation].bytes)
    )
    served = serving(outlook.family.model(best.width, best.depth), 4096)
    assert 0.85 * room < served.bytes[quantisation] + served.cache_bytes <= room


def test_a_limit_of_bytes_holds_weights_and_a_cache_of_both_keys_and_values() -> None:
    shapes = outlook_of(CHINCHILLA).family.costs([1024.0], [20.0])
    needed = float(shapes.params["params_total"][0]) * 2.0 + 2 * 2 * 20 * 1024 * 4096
    assert Limits(bytes_served=needed).kept(shapes, 4096).all()
    assert not Limits(bytes_served=needed - 1).kept(shapes, 4096).any()


def test_a_size_by_the_papers_count_has_the_other_counts_of_that_width() -> None:
    family = outlook_of(CHINCHILLA).family
    shapes = family.continuous(np.array([100.0, 1000.0, 5000.0]))
    found = _counts(family, shapes.params["params"])
    for name, expected in shapes.params.items():
        assert found[name] == pytest.approx(expected, rel=1e-3), name


def test_a_size_in_the_middle_of_all_shapes_is_at_no_edge() -> None:
    assert not best_for_flops(outlook_of(CHINCHILLA), 1e20, Limits()).at_edge
    steep = LossLaw.of(E=1, A=1e12, alpha=0.9, B=1e-9, beta=0.3)
    assert best_for_flops(outlook_of(steep), 1e24, Limits()).at_edge


def test_the_curve_goes_from_a_tenth_to_ten_times_the_size_at_one_cost() -> None:
    outlook = outlook_of(CHINCHILLA)
    chosen = best_for_flops(outlook, 1e20, Limits())
    points = curve(outlook, 1e20, chosen)
    own = count(outlook.family.model(chosen.width, chosen.depth)).params
    assert len(points) == 41 and points[20].params == pytest.approx(own, rel=0.3)
    assert 5 < own / points[0].params < 20 and 5 < points[-1].params / own < 20
    assert all(one.tokens > other.tokens for one, other in pairwise(points))
    least = min(points, key=lambda point: point.loss)
    assert least.loss == pytest.approx(chosen.loss, rel=1e-3)
    assert points[20].loss == pytest.approx(chosen.loss, rel=2e-3)


def test_the_largest_shape_keeps_to_the_limits_and_nearly_reaches_them() -> None:
    outlook, limits = outlook_of(CHINCHILLA), Limits(bytes_served=2e9)
    width, depth = largest_shape(outlook, limits)
    shape = outlook.family.costs([float(width)], [float(depth)])
    assert limits.kept(shape, 4096).all()
    assert not Limits(bytes_served=0.85 * 2e9).kept(shape, 4096).any()
    with pytest.raises(ValueError, match="no model is that small"):
        largest_shape(outlook, Limits(bytes_served=1000))


def test_of_shapes_of_about_a_size_the_best_proportioned_is_taken() -> None:
    outlook = outlook_of(CHINCHILLA)
    width, depth = nearest_shape(outlook, 1e9)
    shapes = outlook.family.shapes()
    apart = abs(np.log(shapes.params["params"] / 1e9))
    own = apart[(shapes.width == width) & (shapes.depth == depth)][0]
    assert own <= apart.min() + 0.03
    near = np.flatnonzero(apart <= apart.min() + 0.03)
    distances = [
        outlook.family.band.distance(int(shapes.width[i]), int(shapes.depth[i])) for i in near
    ]
    assert outlook.family.band.distance(width, depth) == min(distances)


def test_fewer_tokens_than_the_budget_buys_leave_the_budget_unspent() -> None:
    free, short = (
        best_for_flops(outlook_of(CHINCHILLA), 1e21, Limits(tokens=d)) for d in (math.inf, 1e10)
    )
    assert (
        short.tokens == pytest.approx(1e10) and short.loss > free.loss and short.width > free.width
    )


def test_repeated_tokens_cost_what_the_published_law_says() -> None:
    once, often = outlook_of(CHINCHILLA), outlook_of(CHINCHILLA, unique=1e9)
    fresh, repeated = (at_shape(o, 1024, 20, 1e10).loss for o in (once, often))
    own = once.family.costs([1024], [20])
    worth = float(PUBLISHED.effective(1e10, 1e9))
    assert 1e9 < worth < 1e10 and repeated > fresh
    assert repeated == pytest.approx(float(CHINCHILLA.at(own.params["params"][0], worth)))


def test_a_smaller_model_trained_longer_reaches_the_loss() -> None:
    outlook = outlook_of(CHINCHILLA)
    chosen = best_for_flops(outlook, 1e21, Limits())
    found = over_trained(outlook, chosen)
    assert [round(one.serving, 1) for one in found] == [0.7, 0.5, 0.3]
    for one in found:
        assert (
            one.loss == pytest.approx(chosen.loss * 1.005, rel=1e-6) and one.tokens > chosen.tokens
        )
        cost = flops_per_token(outlook.family.model(one.width, one.depth), 4096) * one.tokens
        assert one.training == pytest.approx(cost / 1e21, rel=1e-6)
    assert found[-1].training > 1.5, "the smallest must pay for it"
