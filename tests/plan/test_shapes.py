"""Real shapes: exact costs, whole heads, and the proportions of models that were measured."""

import pytest
from plan_labs import CHINCHILLA, outlook_of

from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.shapes import PAPER_BAND, Band, Family, head_size, widths
from windtunnel.plan.sizes import nearest_shape

FAMILY = Family(
    vocab=2048,
    context=256,
    band=Band.of([(16, 2), (32, 2), (48, 3), (64, 4), (96, 4)]),
    fixed={},
)


def test_costs_are_those_of_the_model() -> None:
    for fixed in ({}, {"tied": False}):
        family = Family(vocab=2048, context=256, band=FAMILY.band, fixed=fixed)
        shapes = family.shapes()
        for i in range(0, len(shapes), 97):
            model = family.model(int(shapes.width[i]), int(shapes.depth[i]))
            counts = count(model)
            assert {key: value[i] for key, value in shapes.params.items()} == vars(counts)
            assert shapes.flops[i] == flops_per_token(model, 256)


@pytest.mark.parametrize("width", widths())
def test_heads_fill_the_width(width: int) -> None:
    model = FAMILY.model(width, 2)
    assert model.heads * model.head_size == width and model.head_size == head_size(width)
    assert model.ffn == 2.5 * width


def test_small_models_keep_the_labs_proportions_and_large_ones_the_papers() -> None:
    band = FAMILY.band
    assert [float(end) for end in band.at(64)] == [8, 24]
    assert [float(end) for end in band.at(1024)] == list(PAPER_BAND)
    low, high = (float(end) for end in band.at(192))
    assert 8 < low < 40 and 24 < high < 58


@pytest.mark.parametrize("width", [320, 512, 768, 1024, 2304])
def test_the_papers_shapes_lie_within(width: int) -> None:
    depth = {320: 8, 512: 12, 768: 16, 1024: 20, 2304: 40}[width]
    shapes = Family(vocab=122_753, context=4096, band=Band(), fixed={}).shapes()
    assert (width, depth) in set(zip(shapes.width.tolist(), shapes.depth.tolist(), strict=True))


def test_a_number_of_parameters_becomes_a_shape_of_about_that_size() -> None:
    outlook = outlook_of(CHINCHILLA)
    for params in (1e6, 3e7, 1e9, 7e9):
        found = count(outlook.family.model(*nearest_shape(outlook, params))).params
        assert found == pytest.approx(params, rel=0.12)
