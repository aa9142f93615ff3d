"""Real shapes: exact costs, whole heads, and the proportions of models that were measured."""

import math
from itertools import pairwise

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


def test_between_them_the_proportions_go_straight_in_logarithms() -> None:
    """Half-way from a width of 96 to the paper's 320, in logarithms."""
    half = (96 * 320) ** 0.5
    assert [float(end) for end in FAMILY.band.at(half)] == pytest.approx(
        [(8 * 40) ** 0.5, (24 * 58) ** 0.5]
    )
    assert float(FAMILY.band.middle(half)) == pytest.approx((8 * 40 * 24 * 58) ** 0.25)


def test_the_widest_have_forty_to_a_hundred_layers() -> None:
    assert [float(end) for end in FAMILY.band.at(8192)] == [81.92, 204.8]


def test_a_lab_that_measured_wide_models_keeps_their_proportions_up_to_them() -> None:
    band = Band.of([(512, 16), (640, 16)])
    assert (band.width, band.low, band.high) == (640, 32, 40)
    for width in (64, 640):
        assert [float(end) for end in band.at(width)] == [32, 40]
    assert [float(end) for end in band.at(704)] == list(PAPER_BAND)
    assert Band.of([]) == Band()
    as_wide_as_the_papers = Band.of([(320, 8)])
    assert [float(end) for end in as_wide_as_the_papers.at(320)] == [40, 40]
    assert [float(end) for end in as_wide_as_the_papers.at(384)] == list(PAPER_BAND)


def test_the_distance_of_a_shape_is_its_way_from_the_middle() -> None:
    middle = float(FAMILY.band.middle(64))
    assert FAMILY.band.distance(64, 4) == pytest.approx(abs(math.log(16 / middle)))
    assert FAMILY.band.distance(64, 8) == pytest.approx(abs(math.log(8 / middle)))


@pytest.mark.parametrize(
    ("width", "size"),
    [
        *((16, 16), (48, 16), (64, 32), (96, 32), (256, 32), (288, 32), (320, 64), (1024, 64)),
        *((3840, 64), (4096, 128), (4608, 128), (4672, 64)),
    ],
)
def test_the_size_of_a_head(width: int, size: int) -> None:
    assert head_size(width) == size


def test_widths_grow_by_steps_of_a_head_or_an_eighth() -> None:
    found = widths()
    assert found[:7] == [16, 32, 48, 64, 80, 96, 128] and found[-1] == 16_384
    assert [width for width in found if 320 <= width <= 576] == [320, 384, 448, 512, 576]
    assert {2048, 2176, 4096, 4352, 8192, 8704} <= set(found)
    for one, wider in pairwise(found):
        assert wider > one and (wider <= 1.13 * one or wider <= 512)


def test_the_depths_of_a_width_lie_in_its_band() -> None:
    """With a quarter of a layer at each end, so that no width is without one."""
    shapes = FAMILY.shapes()
    for width in (96, 320, 1024):
        depths = sorted(shapes.depth[shapes.width == width])
        low, high = (float(end) for end in FAMILY.band.at(width))
        assert depths == [
            depth for depth in range(1, 101) if width / high - 0.25 <= depth <= width / low + 0.25
        ]


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
